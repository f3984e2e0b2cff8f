package main

// Access tokens, and the cache of the accounts that credentials belong to.

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// accessClaims are the claims of an access token: a JWT (RFC 7519) signed with
// HS256. It names its session and carries no rights: what the account may do is
// looked up, so that a change takes effect at once.
type accessClaims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// UnmarshalJSON takes exp and nbf only as numbers: jwt.NumericDate would also
// take a string that holds one.
func (c *accessClaims) UnmarshalJSON(encoded []byte) error {
	var numbers struct {
		ExpiresAt float64 `json:"exp"`
		NotBefore float64 `json:"nbf"`
	}
	type claims accessClaims // without this method
	return cmp.Or(json.Unmarshal(encoded, &numbers), json.Unmarshal(encoded, (*claims)(c)))
}

const (
	tokenIssuer   = "tachikoma"
	tokenAudience = "tachikoma-api"
	clockSkew     = time.Minute // between the clocks of several instances
)

// newAccessToken returns an access token for a session, good for ACCESS_TOKEN_TTL.
func (s *Server) newAccessToken(userID, sessionID string) (string, error) {
	now := time.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, accessClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    tokenIssuer,
			Audience:  jwt.ClaimStrings{tokenAudience},
			Subject:   userID,
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(s.config.AccessTokenTTL)),
			ID:        newID(),
		},
		Session: sessionID,
	}).SignedString(s.secret)
	if err != nil {
		return "", fmt.Errorf("signing an access token: %w", err)
	}
	return token, nil
}

// parseAccessToken checks a token's signature and claims, but not its session.
// It ignores iat, which is in the future if the issuing instance's clock is
// ahead. The error is a 401, token_expired or invalid_token.
func (s *Server) parseAccessToken(token string) (accessClaims, error) {
	var claims accessClaims
	_, err := jwt.ParseWithClaims(token, &claims,
		func(*jwt.Token) (any, error) { return s.secret, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(), jwt.WithLeeway(clockSkew),
		jwt.WithIssuer(tokenIssuer), jwt.WithAudience(tokenAudience), jwt.WithStrictDecoding())
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return claims, problem(http.StatusUnauthorized, "token_expired", "The access token has expired. Refresh it.")
	case err != nil:
		return claims, errInvalidToken().because(err)
	case !validID(claims.Session) || !validID(claims.Subject):
		return claims, errInvalidToken()
	}
	return claims, nil
}

// secretPrefixes are what API keys, refresh tokens, lease tokens and cookies begin
// with.
var secretPrefixes = []string{keyPrefix, refreshPrefix, leasePrefix, cookiePrefix}

// looksSecret reports whether a text begins like a value of newSecret.
func looksSecret(text string) bool {
	return slices.ContainsFunc(secretPrefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// newSecret returns prefix and 256 random bits as base64url.
func newSecret(prefix string) string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(raw[:])
}

const (
	credentialTTL   = time.Minute // after which a credential is looked up again in any case
	credentialLimit = 20_000      // entries at most
)

// credentials caches the accounts of access tokens and API keys, by the token's
// hash, so that most requests need neither a query nor a signature check. When
// an account changes, the feed drops its entries on every instance; while the
// feed is stale no entry is used. Safe for concurrent use.
// See docs/design.md, The credential cache.
type credentials struct {
	fresh func() bool // whether the feed would have reported a change

	mu       sync.Mutex // guards the following
	entries  map[[sha256.Size]byte]remembered
	watchers map[string]map[chan struct{}]struct{} // account → the channels of watch
	changes  uint64                                // calls of forget: a look-up during one isn't cached
}

type remembered struct {
	account account
	until   time.Time
}

func newCredentials(fresh func() bool) *credentials {
	return &credentials{fresh: fresh, entries: make(map[[sha256.Size]byte]remembered),
		watchers: make(map[string]map[chan struct{}]struct{})}
}

// watch returns a channel that gets a value after an account has changed, for
// connections that outlast a request. Changes that nobody has received yet share
// one value. The caller calls stop when done.
func (c *credentials) watch(userID string) (changed <-chan struct{}, stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers[userID] == nil {
		c.watchers[userID] = make(map[chan struct{}]struct{})
	}
	w := make(chan struct{}, 1)
	c.watchers[userID][w] = struct{}{}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.watchers[userID], w); len(c.watchers[userID]) == 0 {
			delete(c.watchers, userID)
		}
	}
}

// account returns the account of a credential, from the cache or else from
// lookUp, which also returns how long the credential still lasts.
func (c *credentials) account(credential [sha256.Size]byte,
	lookUp func() (account, time.Duration, error)) (account, error) {
	c.mu.Lock()
	found, ok := c.entries[credential]
	changes := c.changes
	c.mu.Unlock()
	if ok && time.Now().Before(found.until) && c.fresh() {
		return found.account, nil
	}
	a, lasts, err := lookUp()
	if err != nil {
		return account{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		if len(c.entries) >= credentialLimit {
			clear(c.entries) // looking them up again is cheap, and this is rare
		}
		c.entries[credential] = remembered{a, time.Now().Add(min(lasts, credentialTTL))}
	}
	return a, nil
}

// forget drops an account's entries and notifies its watchers; "" means all accounts.
func (c *credentials) forget(userID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for credential, e := range c.entries {
		if userID == "" || e.account.userID == userID {
			delete(c.entries, credential)
		}
	}
	for id, watchers := range c.watchers {
		if userID != "" && id != userID {
			continue
		}
		for w := range watchers {
			trySend(w)
		}
	}
}

// sharedSecret returns JWT_SECRET or, without it, the secret that the first
// instance has stored in the database for all of them.
func (s *serverState) sharedSecret(ctx context.Context) ([]byte, error) {
	if s.config.JWTSecret != nil {
		return s.config.JWTSecret, nil
	}
	made := make([]byte, 32)
	_, _ = rand.Read(made) // never fails
	if _, err := s.db.Exec(ctx, `INSERT INTO secrets (name, value) VALUES ('jwt', $1) ON CONFLICT (name) DO NOTHING`,
		made); err != nil {
		return nil, fmt.Errorf("storing the signing key: %w", err)
	}
	var secret []byte
	if err := s.db.QueryRow(ctx, `SELECT value FROM secrets WHERE name = 'jwt'`).Scan(&secret); err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	return secret, nil
}

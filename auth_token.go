package main

// Who a credential belongs to: access tokens, API keys, sessions, and the cache of
// their accounts.

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
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"

	"tachikoma/internal/clientaddr"
)

// bearerToken reads the Authorization header.
func bearerToken(r *http.Request) (string, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", problem(http.StatusUnauthorized, "unauthenticated",
			"Sign in: send an access token or an API key as Authorization: Bearer.")
	}
	return token, nil
}

// authenticate returns the account of an access token or an API key, from the
// cache or by a query. A look-up that fails counts against addr's rate limit.
func (s *Server) authenticate(ctx context.Context, token string, addr netip.Addr) (account, error) {
	hash := sha256.Sum256([]byte(token))
	return s.credentials.account(hash, func() (account, time.Duration, error) {
		if strings.HasPrefix(token, keyPrefix) {
			return s.lookUpFor(addr, func() (account, time.Duration, error) { return s.lookUpKey(ctx, hash[:]) })
		}
		claims, err := s.parseAccessToken(token)
		if err != nil {
			return account{}, 0, err
		}
		a, lasts, err := s.lookUpFor(addr, func() (account, time.Duration, error) {
			return s.lookUpSession(ctx, claims.Session, claims.Subject)
		})
		return a, min(lasts, time.Until(claims.ExpiresAt.Time)+clockSkew), err
	})
}

// lookUpFor calls look, unless addr is over its rate limit. A credential that is
// refused counts against it; an outage doesn't.
func (s *Server) lookUpFor(addr netip.Addr,
	look func() (account, time.Duration, error)) (account, time.Duration, error) {
	if v := s.rate.Peek(clientaddr.Key(addr), time.Now()); !v.Allowed {
		return account{}, 0, s.errRateLimited(v)
	}
	a, lasts, err := look()
	if refused, ok := errors.AsType[*apiError](err); ok && refused.status == http.StatusUnauthorized {
		s.rate.Take(clientaddr.Key(addr), time.Now())
	}
	return a, lasts, err
}

func errInvalidToken() *apiError {
	return problem(http.StatusUnauthorized, "invalid_token", "This token is invalid or has ended. Sign in again.")
}

// lookUpSession returns a session's account and how long the session still lasts.
func (s *Server) lookUpSession(ctx context.Context, id, userID string) (account, time.Duration, error) {
	a := account{userID: userID, session: id}
	return s.scanAccount(&a, s.db.QueryRow(ctx, `
		SELECT u.role, false, extract(epoch FROM s.expires_at - clock_timestamp())::float8
		FROM sessions s JOIN users u ON u.id = s.user_id
		WHERE s.id = $1 AND u.id = $2 AND NOT u.disabled AND s.expires_at > clock_timestamp()`, id, userID),
		&a.role, &a.readOnly)
}

// lookUpKey returns an API key's account and how long the key still lasts, and records its use.
func (s *Server) lookUpKey(ctx context.Context, hash []byte) (account, time.Duration, error) {
	var a account
	found, lasts, err := s.scanAccount(&a, s.db.QueryRow(ctx, `
		SELECT u.id, k.id, u.role, k.scope = 'read',
		       extract(epoch FROM coalesce(k.expires_at - clock_timestamp(), interval '1 day'))::float8
		FROM api_keys k JOIN users u ON u.id = k.user_id
		WHERE k.hash = $1 AND NOT u.disabled AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())`, hash),
		&a.userID, &a.key, &a.role, &a.readOnly)
	if err == nil {
		s.noteUse(ctx, a.key)
	}
	return found, lasts, err
}

// noteUse records that a key is in use. It needs no event, so it doesn't go
// through inTx, and a failure to record it fails no request.
func (s *Server) noteUse(ctx context.Context, key string) {
	err := s.trouble.refuseWrites()
	if err == nil {
		_, err = s.db.Exec(ctx, `UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = $1`, key)
	}
	if err != nil {
		s.log.DebugContext(ctx, "an API key's last use wasn't recorded", "key", key, "error", err)
	}
}

// scanAccount scans an account's fields and, after them, how many seconds its
// credential still lasts. Without a row the error is errInvalidToken.
func (s *Server) scanAccount(a *account, row pgx.Row, fields ...any) (account, time.Duration, error) {
	var seconds float64
	err := row.Scan(append(fields, &seconds)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return account{}, 0, errInvalidToken()
	}
	if err != nil {
		return account{}, 0, fmt.Errorf("looking up a credential: %w", err)
	}
	return *a, time.Duration(seconds * float64(time.Second)), nil
}

// Scan reads a role by its name in the database.
func (r *accountRole) Scan(src any) error {
	name, _ := src.(string)
	known, ok := roles[name]
	if !ok {
		return fmt.Errorf("unknown role %q", name)
	}
	*r = known
	return nil
}

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

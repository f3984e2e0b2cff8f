package main

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// accessClaims are the claims of an access token: a JWT (RFC 7519) signed with
// HS256. It says which session it belongs to and nothing about rights: what
// the account may do is looked up, so that a change holds at once.
type accessClaims struct {
	jwt.RegisteredClaims
	Session string `json:"sid"`
}

// UnmarshalJSON refuses the times that decide as anything but numbers:
// jwt.NumericDate would take a string that holds one.
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
// When it was issued doesn't matter: an instance whose clock is ahead says that
// it will be.
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

// secretPrefixes are what API keys, refresh tokens and lease tokens begin with.
var secretPrefixes = []string{keyPrefix, refreshPrefix, leasePrefix}

// looksSecret reports whether a text begins like something of newSecret.
func looksSecret(text string) bool {
	return slices.ContainsFunc(secretPrefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// newSecret returns prefix and 256 random bits as base64url.
func newSecret(prefix string) string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(raw[:])
}

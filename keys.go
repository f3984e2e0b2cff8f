package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	keyPrefix = "tk_"
	// keyShown is how much of a key is kept to recognise it by.
	keyShown = len(keyPrefix) + 6
	keyLimit = 100 // of one account
)

// keyView is an API key as clients see it.
type keyView struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Scope      string     `json:"scope"`
	Prefix     string     `json:"prefix"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	CreatedAt  time.Time  `json:"created_at"`
}

// newKey is an API key to be made.
type newKey struct {
	Name      string     `json:"name"`
	Scope     string     `json:"scope"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func (in *newKey) validate(v *violations, _ *Config) {
	v.line("name", in.Name, 1, 200)
	if in.Scope != "read" && in.Scope != "write" {
		v.add("scope", "unknown_value", "must be read or write")
	}
}

// keyWithSecret is an API key as it is shown once.
type keyWithSecret struct {
	keyView
	Key string `json:"key"`
}

// createKey is POST /api/v1/api-keys.
func (s *Server) createKey(ctx context.Context, t *tx, _ *call, in *newKey) (*keyWithSecret, error) {
	secret := newSecret(keyPrefix)
	key := keyView{ID: newID(), Name: in.Name, Scope: in.Scope, Prefix: secret[:keyShown], ExpiresAt: in.ExpiresAt}
	if err := t.insertKey(ctx, &key, hashToken(secret)); err != nil {
		return nil, err
	}
	return &keyWithSecret{key, secret}, nil
}

// insertKey stores a key. The database's clock says whether it has expired.
func (t *tx) insertKey(ctx context.Context, key *keyView, hash []byte) error {
	if _, err := t.Exec(ctx, `SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE`, t.account.userID); err != nil {
		return fmt.Errorf("locking an account: %w", err)
	}
	var others int
	var future bool
	err := t.QueryRow(ctx, `SELECT count(*), coalesce($2 > clock_timestamp(), true) FROM api_keys WHERE user_id = $1`,
		t.account.userID, key.ExpiresAt).Scan(&others, &future)
	switch {
	case err != nil:
		return fmt.Errorf("counting keys: %w", err)
	case !future:
		return invalidField("expires_at", "in_the_past", "must be in the future")
	case others >= keyLimit:
		return problem(http.StatusConflict, "too_many_keys", "An account has at most %d API keys. Delete one first.", keyLimit)
	}
	err = t.QueryRow(ctx, `
		INSERT INTO api_keys (id, user_id, name, scope, hash, prefix, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
		RETURNING expires_at, created_at`,
		key.ID, t.account.userID, key.Name, key.Scope, hash, key.Prefix, key.ExpiresAt).Scan(&key.ExpiresAt, &key.CreatedAt)
	if err != nil {
		return fmt.Errorf("inserting a key: %w", err)
	}
	return nil
}

// listKeys is GET /api/v1/api-keys, oldest first.
func (s *Server) listKeys(ctx context.Context, c *call, q *query) (none list[keyView], err error) {
	limit := int(q.number("limit", 50, 1, 200))
	after := q.cursor("keys")
	if after != "" && !validID(after) {
		q.fail("cursor", "invalid_cursor", "isn't a cursor of this list")
	}
	if err := q.err(); err != nil {
		return none, err
	}
	rows, err := s.db.Query(ctx, `
		SELECT id, name, scope, prefix, expires_at, last_used_at, created_at FROM api_keys
		WHERE user_id = $1 AND id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid) ORDER BY id LIMIT $3`,
		c.account.userID, orNull(after), limit+1)
	if err != nil {
		return none, fmt.Errorf("listing keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByPos[keyView])
	if err != nil {
		return none, fmt.Errorf("listing keys: %w", err)
	}
	return pageOf(keys, limit, func(k keyView) string { return encodeCursor("keys", k.ID) }), nil
}

// deleteKey is DELETE /api/v1/api-keys/{id}. It holds at once.
func (s *Server) deleteKey(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	tag, err := t.Exec(ctx, `DELETE FROM api_keys WHERE id = $1 AND user_id = $2`, c.target.key, t.account.userID)
	if err != nil {
		return nil, fmt.Errorf("deleting a key: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, errNotFound()
	}
	t.revoke(t.account.userID)
	return nil, nil
}

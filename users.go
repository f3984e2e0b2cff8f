package main

// Accounts, and their API keys.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// userView is an account as clients see it.
type userView struct {
	ID        string    `json:"id"`
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Role      string    `json:"role"`
	Disabled  bool      `json:"disabled"`
	CreatedAt time.Time `json:"created_at"`
}

const userColumns = `id, email, name, role, disabled, created_at`

// normalizeEmail returns an e-mail address in the form that accounts have, in
// lower case, and whether it is valid: a bare address of visible ASCII, since
// other letters have look-alikes and some become ASCII in lower case.
func normalizeEmail(email string) (string, bool) {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > 254 ||
		strings.ContainsFunc(email, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "", false
	}
	return strings.ToLower(email), true
}

// email checks an e-mail address and returns it in normal form.
func (v *violations) email(field, address string) string {
	normal, ok := normalizeEmail(address)
	if !ok {
		v.add(field, "not_an_email", "must be an e-mail address")
	}
	return normal
}

// credentials checks the values of a new account, and returns its e-mail in
// normal form.
func (v *violations) credentials(email, password, name string) string {
	normal := v.email("email", email)
	v.password("password", normal, password)
	v.line("name", name, 0, 200)
	return normal
}

func (v *violations) role(role string) {
	if roles[role] == roleNone {
		v.add("role", "unknown_value", "must be admin, user or viewer")
	}
}

// insertUser creates an account. The default name is the e-mail's local part.
func insertUser(ctx context.Context, t *tx, email, name, role, hash string) (userView, error) {
	if name == "" {
		name, _, _ = strings.Cut(email, "@")
	}
	u := userView{ID: newID(), Email: email, Name: name, Role: role}
	err := t.QueryRow(ctx, `INSERT INTO users (id, email, name, role, password_hash) VALUES ($1, $2, $3, $4, $5)
		RETURNING created_at`,
		u.ID, email, name, role, hash).Scan(&u.CreatedAt)
	if violated(err) == "users_email_unique" {
		return u, problem(http.StatusConflict, "email_taken", "An account with this e-mail already exists.")
	}
	if err != nil {
		return u, fmt.Errorf("inserting an account: %w", err)
	}
	return u, nil
}

// readUser reads one account by its id.
func readUser(ctx context.Context, q querier, id string) (userView, error) {
	rows, err := q.Query(ctx, `SELECT `+userColumns+` FROM users WHERE id = $1`, id)
	if err != nil {
		return userView{}, fmt.Errorf("reading an account: %w", err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[userView])
	return u, notFoundOr(err, "reading an account")
}

// getMe is GET /api/v1/auth/me.
func (s *Server) getMe(ctx context.Context, c *call) (userView, error) {
	return readUser(ctx, s.db, c.account.userID)
}

// ownPatch is what accounts may change about themselves.
type ownPatch struct {
	Name *string `json:"name"`
}

func (in *ownPatch) validate(v *violations, _ *Config) {
	if in.Name != nil {
		v.line("name", *in.Name, 1, 200)
	}
}

// updateMe is PATCH /api/v1/auth/me.
func (s *Server) updateMe(ctx context.Context, t *tx, c *call, in *ownPatch) (*userView, error) {
	if _, err := t.Exec(ctx, `UPDATE users SET name = coalesce($2, name) WHERE id = $1`,
		c.account.userID, in.Name); err != nil {
		return nil, fmt.Errorf("updating an account: %w", err)
	}
	u, err := readUser(ctx, t, c.account.userID)
	return &u, err
}

// listUsers is GET /api/v1/users, by e-mail.
func (s *Server) listUsers(ctx context.Context, _ *call, q *query) (none list[userView], err error) {
	limit := int(q.number("limit", 50, 1, 200))
	after := q.cursor("users")
	if err := q.err(); err != nil {
		return none, err
	}
	rows, err := s.db.Query(ctx, `SELECT `+userColumns+` FROM users WHERE email > $1 ORDER BY email LIMIT $2`,
		after, limit+1)
	if err != nil {
		return none, fmt.Errorf("listing accounts: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByPos[userView])
	if err != nil {
		return none, fmt.Errorf("listing accounts: %w", err)
	}
	return pageOf(users, limit, func(u userView) string { return encodeCursor("users", u.Email) }), nil
}

// newUser is an account that an admin creates.
type newUser struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Name     string `json:"name"`
	Role     string `json:"role"`
}

func (in *newUser) validate(v *violations, _ *Config) {
	v.role(in.Role)
	in.Email = v.credentials(in.Email, in.Password, in.Name)
}

// createUser is POST /api/v1/users.
func (s *Server) createUser(ctx context.Context, c *call, in *newUser) (*userView, error) {
	hash, err := s.hasher.Hash(ctx, in.Password)
	if err != nil {
		return nil, err
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*userView, error) {
		u, err := insertUser(ctx, t, in.Email, in.Name, in.Role, hash)
		return &u, err
	})
}

// userPatch is what an admin may change about an account.
type userPatch struct {
	Role     *string `json:"role"`
	Disabled *bool   `json:"disabled"`
	Name     *string `json:"name"`
	Password *string `json:"password"`
}

func (*userPatch) validate(*violations, *Config) {} // the rules for a password depend on the e-mail

// check is validate once the e-mail of the account is known.
func (in *userPatch) check(email string) error {
	var v violations
	if in.Role != nil {
		v.role(*in.Role)
	}
	if in.Name != nil {
		v.line("name", *in.Name, 1, 200)
	}
	if in.Password != nil {
		v.password("password", email, *in.Password)
	}
	return v.err()
}

// updateUser is PATCH /api/v1/users/{id}. It takes effect at once: a new password
// or disabling the account ends its sessions.
func (s *Server) updateUser(ctx context.Context, c *call, in *userPatch) (*userView, error) {
	u, err := readUser(ctx, s.db, c.target.user)
	if err != nil {
		return nil, err
	}
	if err := in.check(u.Email); err != nil {
		return nil, err
	}
	var hash *string
	if in.Password != nil {
		made, err := s.hasher.Hash(ctx, *in.Password)
		if err != nil {
			return nil, err
		}
		hash = &made
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*userView, error) {
		u, err := t.storeUser(ctx, c.target.user, in, hash)
		return &u, err
	})
}

// storeUser changes an account, unless that would leave no admin (409).
func (t *tx) storeUser(ctx context.Context, id string, in *userPatch, hash *string) (userView, error) {
	// All admins and the account itself, in order: if two admins demote each
	// other at once, the later one sees what the first did.
	if _, err := t.Exec(ctx, `SELECT FROM users WHERE id = $1 OR role = 'admin' ORDER BY id FOR NO KEY UPDATE`,
		id); err != nil {
		return userView{}, fmt.Errorf("locking accounts: %w", err)
	}
	_, err := t.Exec(ctx, `
		UPDATE users SET role = coalesce($2, role), disabled = coalesce($3, disabled), name = coalesce($4, name),
		       password_hash = coalesce($5, password_hash) WHERE id = $1`, id, in.Role, in.Disabled, in.Name, hash)
	if err != nil {
		return userView{}, fmt.Errorf("updating an account: %w", err)
	}
	var admins bool
	if err := t.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users WHERE role = 'admin' AND NOT disabled)`).
		Scan(&admins); err != nil {
		return userView{}, fmt.Errorf("looking for admins: %w", err)
	}
	if !admins {
		return userView{}, problem(http.StatusConflict, "last_admin", "This is the last admin. Create another one first.")
	}
	if hash != nil || in.Disabled != nil && *in.Disabled {
		keep := ""
		if id == t.account.userID {
			keep = t.account.session
		}
		t.endSessions(id, keep)
	}
	t.revoke(id)
	return readUser(ctx, t, id)
}

// ensureAdmin creates the account of ADMIN_EMAIL and ADMIN_PASSWORD if it
// doesn't exist yet.
func (s *Server) ensureAdmin(ctx context.Context) error {
	if s.config.AdminEmail == "" {
		return nil
	}
	email, ok := normalizeEmail(s.config.AdminEmail)
	if !ok {
		return errors.New("ADMIN_EMAIL must be an e-mail address")
	}
	var there bool
	if err := s.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users WHERE email = $1)`,
		email).Scan(&there); err != nil || there {
		return err
	}
	hash, err := s.hasher.Hash(ctx, s.config.AdminPassword)
	if err != nil {
		return err
	}
	err = s.inTx(ctx, account{}, func(ctx context.Context, t *tx) error {
		_, err := insertUser(ctx, t, email, "", "admin", hash)
		return err
	})
	if e, ok := errors.AsType[*apiError](err); ok && e.code == "email_taken" {
		return nil // another instance was faster
	}
	return err
}

// setPassword is the command "tachikoma passwd EMAIL": it sets an account's
// password and ends its sessions, on every running instance.
func (s *Server) setPassword(ctx context.Context, email, password string) error {
	normal, _ := normalizeEmail(email)
	var id string
	err := s.db.QueryRow(ctx, `SELECT id FROM users WHERE email = $1`, normal).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("no account has the e-mail %q", email)
	}
	if err != nil {
		return err
	}
	if err := checkPassword(normal, password); err != nil {
		return err
	}
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	return s.inTx(ctx, account{}, func(ctx context.Context, t *tx) error {
		if _, err := t.Exec(ctx, `UPDATE users SET password_hash = $2 WHERE id = $1`, id, hash); err != nil {
			return err
		}
		t.endSessions(id, "")
		return nil
	})
}

const (
	minPasswordLength = 15   // characters: NIST SP 800-63B-4, 3.1.1.2, for a password alone
	maxPasswordBytes  = 1024 // a hash costs the same at this length as at 15
)

// checkPassword returns nil, or a 422 on the field password.
func checkPassword(email, password string) error {
	var v violations
	v.password("password", email, password)
	return v.err()
}

// password checks a new password against NIST SP 800-63B-4: its length, and that
// it isn't the account's e-mail or its local part, ignoring case. There are no
// composition rules.
func (v *violations) password(field, email, password string) {
	local, _, _ := strings.Cut(email, "@")
	switch {
	case utf8.RuneCountInString(password) < minPasswordLength:
		v.add(field, "too_short", "must have at least %d characters", minPasswordLength)
	case len(password) > maxPasswordBytes:
		v.add(field, "too_long", "may have at most %d bytes", maxPasswordBytes)
	case strings.EqualFold(password, email), strings.EqualFold(password, local):
		v.add(field, "same_as_email", "must not be the e-mail address")
	}
}

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

// newKey is an API key to create.
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

// keyWithSecret is an API key as it is shown once, when it is created.
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
		return problem(http.StatusConflict, "too_many_keys", "An account has at most %d API keys. Delete one first.",
			keyLimit)
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
		q.fail("cursor", "invalid_cursor", "isn't a cursor of this list: leave it out to start again")
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

// deleteKey is DELETE /api/v1/api-keys/{id}. It takes effect at once.
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

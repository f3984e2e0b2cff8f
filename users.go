package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"time"

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

// normalizeEmail returns an e-mail address in the form accounts are known by:
// in lower case. Only a bare address of visible ASCII will do: other letters have
// look-alikes, and some become ASCII in lower case.
func normalizeEmail(email string) (string, bool) {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > 254 || strings.ContainsFunc(email, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "", false
	}
	return strings.ToLower(email), true
}

// validateAccount checks what a new account is made of, besides what v has
// found, brings its e-mail into normal form and hashes its password, which takes
// a while.
func (s *Server) validateAccount(ctx context.Context, v violations, email *string, password, name string) (hash string, err error) {
	normal, ok := normalizeEmail(*email)
	if !ok {
		v.add("email", "not_an_email", "must be an e-mail address")
	}
	v.password("password", normal, password)
	v.line("name", name, 0, 200)
	if err := v.err(); err != nil {
		return "", err
	}
	*email = normal
	return s.hasher.hash(ctx, password)
}

// insertUser makes an account. A name left out is the e-mail's local part.
func insertUser(ctx context.Context, t *tx, email, name, role, hash string) (userView, error) {
	if name == "" {
		name, _, _ = strings.Cut(email, "@")
	}
	u := userView{ID: newID(), Email: email, Name: name, Role: role}
	err := t.QueryRow(ctx, `INSERT INTO users (id, email, name, role, password_hash) VALUES ($1, $2, $3, $4, $5) RETURNING created_at`,
		u.ID, email, name, role, hash).Scan(&u.CreatedAt)
	if violated(err) == "users_email_unique" {
		return u, problem(http.StatusConflict, "email_taken", "There is an account with this e-mail already.")
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
func (s *Server) getMe(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	u, err := readUser(r.Context(), s.db, callOf(r).account.userID)
	if err != nil {
		return err
	}
	return respondOK(w, r, u)
}

// updateMe is PATCH /api/v1/auth/me.
func (s *Server) updateMe(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Name *string `json:"name"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	if in.Name != nil {
		v.line("name", *in.Name, 1, 200)
	}
	if err := v.err(); err != nil {
		return err
	}
	id := callOf(r).account.userID
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if _, err := t.Exec(ctx, `UPDATE users SET name = coalesce($2, name) WHERE id = $1`, id, in.Name); err != nil {
			return reply{}, fmt.Errorf("updating an account: %w", err)
		}
		u, err := readUser(ctx, t, id)
		return reply{status: http.StatusOK, body: u}, err
	})
}

// listUsers is GET /api/v1/users, by e-mail.
func (s *Server) listUsers(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r, "limit", "cursor")
	limit := int(q.number("limit", 50, 1, 200))
	after := q.cursor("users")
	if err := q.err(); err != nil {
		return err
	}
	rows, err := s.db.Query(r.Context(), `SELECT `+userColumns+` FROM users WHERE email > $1 ORDER BY email LIMIT $2`, after, limit+1)
	if err != nil {
		return fmt.Errorf("listing accounts: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByPos[userView])
	if err != nil {
		return fmt.Errorf("listing accounts: %w", err)
	}
	return respondOK(w, r, page(users, limit, func(u userView) string { return encodeCursor("users", u.Email) }))
}

// createUser is POST /api/v1/users.
func (s *Server) createUser(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Email    string `json:"email"`
		Password string `json:"password"`
		Name     string `json:"name"`
		Role     string `json:"role"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	if roles[in.Role] == roleNone {
		v.add("role", "unknown_value", "must be admin, user or viewer")
	}
	hash, err := s.validateAccount(r.Context(), v, &in.Email, in.Password, in.Name)
	if err != nil {
		return err
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		u, err := insertUser(ctx, t, in.Email, in.Name, in.Role, hash)
		return reply{status: http.StatusCreated, body: u}, err
	})
}

// userPatch is what an admin may change of an account.
type userPatch struct {
	Role     *string `json:"role"`
	Disabled *bool   `json:"disabled"`
	Name     *string `json:"name"`
	Password *string `json:"password"`
}

// updateUser is PATCH /api/v1/users/{id}. What takes rights away holds at
// once: a new password or a disabled account ends its sessions.
func (s *Server) updateUser(w http.ResponseWriter, r *http.Request) error {
	id := strings.ToLower(r.PathValue("id"))
	if !validID(id) {
		return errNotFound()
	}
	u, err := readUser(r.Context(), s.db, id)
	if err != nil {
		return err
	}
	var in userPatch
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	if in.Role != nil && roles[*in.Role] == roleNone {
		v.add("role", "unknown_value", "must be admin, user or viewer")
	}
	if in.Name != nil {
		v.line("name", *in.Name, 1, 200)
	}
	if in.Password != nil {
		v.password("password", u.Email, *in.Password)
	}
	if err := v.err(); err != nil {
		return err
	}
	var hash *string
	if in.Password != nil {
		made, err := s.hasher.hash(r.Context(), *in.Password)
		if err != nil {
			return err
		}
		hash = &made
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		u, err := t.storeUser(ctx, id, in, hash)
		return reply{status: http.StatusOK, body: u}, err
	})
}

// storeUser changes an account, unless that would take the last admin away.
func (t *tx) storeUser(ctx context.Context, id string, in userPatch, hash *string) (userView, error) {
	// All admins and the account itself, in order: of two who take each
	// other's rights away at once, the later one sees what the first did.
	if _, err := t.Exec(ctx, `SELECT FROM users WHERE id = $1 OR role = 'admin' ORDER BY id FOR NO KEY UPDATE`, id); err != nil {
		return userView{}, fmt.Errorf("locking accounts: %w", err)
	}
	_, err := t.Exec(ctx, `
		UPDATE users SET role = coalesce($2, role), disabled = coalesce($3, disabled), name = coalesce($4, name),
		       password_hash = coalesce($5, password_hash) WHERE id = $1`, id, in.Role, in.Disabled, in.Name, hash)
	if err != nil {
		return userView{}, fmt.Errorf("updating an account: %w", err)
	}
	var admins bool
	if err := t.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users WHERE role = 'admin' AND NOT disabled)`).Scan(&admins); err != nil {
		return userView{}, fmt.Errorf("looking for admins: %w", err)
	}
	if !admins {
		return userView{}, problem(http.StatusConflict, "last_admin", "This is the last admin. Make another one first.")
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

// ensureAdmin makes the account of ADMIN_EMAIL and ADMIN_PASSWORD if it isn't
// there yet.
func (s *Server) ensureAdmin(ctx context.Context) error {
	if s.config.AdminEmail == "" {
		return nil
	}
	email, ok := normalizeEmail(s.config.AdminEmail)
	if !ok {
		return errors.New("ADMIN_EMAIL must be an e-mail address")
	}
	var there bool
	if err := s.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users WHERE email = $1)`, email).Scan(&there); err != nil || there {
		return err
	}
	hash, err := s.hasher.hash(ctx, s.config.AdminPassword)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `INSERT INTO users (id, email, name, role, password_hash) VALUES ($1, $2, $3, 'admin', $4)
		ON CONFLICT (email) DO NOTHING`, newID(), email, strings.Split(email, "@")[0], hash)
	return err
}

// setPassword is the command "tachikoma passwd EMAIL": it sets an account's
// password and ends its sessions, on every instance that runs.
func (s *Server) setPassword(ctx context.Context, email, password string) error {
	normal, _ := normalizeEmail(email)
	var id string
	err := s.db.QueryRow(ctx, `SELECT id FROM users WHERE email = $1`, normal).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("there is no account with the e-mail %q", email)
	}
	if err != nil {
		return err
	}
	if err := checkPassword(normal, password); err != nil {
		return err
	}
	hash, err := s.hasher.hash(ctx, password)
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

package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	refreshPrefix = "rt_"
	// refreshGrace is how long a spent refresh token gets its successor again:
	// a client that lost the answer isn't a thief.
	refreshGrace = 10 * time.Second
)

// sessionView is what a client gets when it signs in.
type sessionView struct {
	User         userView `json:"user"`
	AccessToken  string   `json:"access_token"`
	RefreshToken string   `json:"refresh_token"`
	TokenType    string   `json:"token_type"`
	ExpiresIn    int64    `json:"expires_in"` // seconds
}

// register is POST /api/v1/auth/register. The first account becomes admin.
func (s *Server) register(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Email      string `json:"email"`
		Password   string `json:"password"`
		Name       string `json:"name"`
		SetupToken string `json:"setup_token"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	if s.config.Registration == "closed" {
		return errRegistrationClosed()
	}
	first, err := s.firstAccount(r.Context(), s.db)
	if err != nil {
		return err
	}
	if err := s.mayRegister(first, in.SetupToken); err != nil {
		return err
	}
	hash, err := s.validateAccount(r.Context(), violations{}, &in.Email, in.Password, in.Name)
	if err != nil {
		return err
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		// There is no row yet that two first accounts could meet at.
		if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, registrationLock); err != nil {
			return reply{}, fmt.Errorf("locking the registration: %w", err)
		}
		first, err := s.firstAccount(ctx, t)
		if err != nil {
			return reply{}, err
		}
		if err := s.mayRegister(first, in.SetupToken); err != nil {
			return reply{}, err
		}
		role := "user"
		if first {
			role = "admin"
		}
		u, err := insertUser(ctx, t, in.Email, in.Name, role, hash)
		if err != nil {
			return reply{}, err
		}
		return s.openSession(t, u, http.StatusCreated)
	})
}

// registrationLock is the key of the advisory lock that registrations take.
const registrationLock = 7205_0001

func errRegistrationClosed() error {
	return problem(http.StatusForbidden, "registration_closed", "Accounts are made by an admin here.")
}

// firstAccount reports whether there is no account yet.
func (s *Server) firstAccount(ctx context.Context, q querier) (bool, error) {
	var none bool
	if err := q.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM users)`).Scan(&none); err != nil {
		return false, fmt.Errorf("looking for accounts: %w", err)
	}
	return none, nil
}

// mayRegister applies REGISTRATION. The first account of a server that others
// can reach needs the token that its console shows.
func (s *Server) mayRegister(first bool, setupToken string) error {
	if !first && s.config.Registration != "open" {
		return errRegistrationClosed()
	}
	if first && !s.config.loopback() &&
		subtle.ConstantTimeCompare([]byte(setupToken), []byte(s.setupToken())) != 1 {
		return problem(http.StatusForbidden, "setup_token_required",
			"The first account needs the setup_token that the server printed when it started.")
	}
	return nil
}

// setupToken is the same on every instance, and useless once there is an account.
func (s *Server) setupToken() string { return s.derive("setup", "")[:24] }

// derive makes a value that only this server's secret can make, for one purpose.
func (s *Server) derive(purpose, from string) string {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(purpose + "\x00" + from))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// login is POST /api/v1/auth/login.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Email    string `json:"email"`
		Password string `json:"password"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	email, ok := normalizeEmail(in.Email)
	if !ok {
		return errInvalidCredentials()
	}
	address := limitKey(callOf(r).addr)
	u, hash, known, err := s.accountByEmail(r.Context(), email, address)
	if err != nil {
		return err
	}
	if !known {
		if err := s.chargeFailure(r.Context(), email); err != nil {
			return err
		}
	}
	ok, weak, err := s.hasher.verify(r.Context(), hash, in.Password)
	if err != nil {
		return err
	}
	if !ok {
		return errInvalidCredentials()
	}
	if u.Disabled {
		return problem(http.StatusForbidden, "account_disabled", "This account is disabled. Ask an admin.")
	}
	stronger := ""
	if weak {
		if stronger, err = s.hasher.hash(r.Context(), in.Password); err != nil {
			return err
		}
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if err := t.lockLogin(ctx, u.ID, hash); err != nil {
			return reply{}, err
		}
		t.noteLogin(u, stronger, address, known)
		return s.openSession(t, u, http.StatusOK)
	})
}

// lockLogin locks an account whose password was right a moment ago, and checks
// that it still has that hash and isn't disabled: a change of either ends all
// sessions, and this one comes after it.
func (t *tx) lockLogin(ctx context.Context, id, checked string) error {
	var current bool
	err := t.QueryRow(ctx, `SELECT password_hash = $2 AND NOT disabled FROM users WHERE id = $1 FOR NO KEY UPDATE`, id, checked).Scan(&current)
	if err != nil {
		return fmt.Errorf("locking an account: %w", err)
	}
	if !current {
		return errInvalidCredentials()
	}
	return nil
}

func errInvalidCredentials() error {
	return problem(http.StatusUnauthorized, "invalid_credentials", "The e-mail or the password is wrong.")
}

// accountByEmail finds an account, its password hash, and whether it has
// logged in from address lately. An unknown e-mail gives the zero account and
// an empty hash, for which the hasher works as long as for any other.
func (s *Server) accountByEmail(ctx context.Context, email, address string) (u userView, hash string, known bool, err error) {
	row := s.db.QueryRow(ctx, `
		SELECT id, email, name, role, disabled, created_at, password_hash,
		       EXISTS (SELECT FROM known_addresses WHERE user_id = id AND address = $2
		               AND seen_at > clock_timestamp() - interval '30 days')
		FROM users WHERE email = $1`, email, address)
	err = row.Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Disabled, &u.CreatedAt, &hash, &known)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return u, "", false, fmt.Errorf("looking for an account: %w", err)
	}
	return u, hash, known, nil
}

// chargeFailure takes one of the failures that an e-mail has a minute, whether
// or not there is such an account. It is taken before the password is looked
// at, so that attempts at the same time can't outrun it, and given back by
// noteLogin.
func (s *Server) chargeFailure(ctx context.Context, email string) error {
	limit := float64(s.config.AuthRateLimit)
	if limit == 0 {
		return nil
	}
	tag, err := s.db.Exec(ctx, `
		INSERT INTO login_failures AS f (account, tokens, since) VALUES ($1, $2 - 1, clock_timestamp())
		ON CONFLICT (account) DO UPDATE
		SET tokens = least($2, f.tokens + extract(epoch FROM clock_timestamp() - f.since) * $2 / 60) - 1,
		    since = clock_timestamp()
		WHERE least($2, f.tokens + extract(epoch FROM clock_timestamp() - f.since) * $2 / 60) >= 1`,
		hashToken(email), limit)
	if err != nil {
		return fmt.Errorf("counting log-ins: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return problem(http.StatusTooManyRequests, "rate_limited", "Too many failed log-ins for this account.").
			withHeader("Retry-After", strconv.Itoa(int(math.Ceil(60/limit))))
	}
	return nil
}

// refundFailure gives back what chargeFailure took from an e-mail.
func (t *tx) refundFailure(email string) {
	t.queue(`UPDATE login_failures SET tokens = tokens + 1 WHERE account = $1`, hashToken(email))
}

// noteLogin gives back what chargeFailure took, remembers the address, and
// keeps a hash that was made anew; "" is none.
func (t *tx) noteLogin(u userView, hash, address string, known bool) {
	if !known {
		t.refundFailure(u.Email)
	}
	if hash != "" {
		t.queue(`UPDATE users SET password_hash = $2 WHERE id = $1`, u.ID, hash)
	}
	t.queue(`INSERT INTO known_addresses (user_id, address, seen_at) VALUES ($1, $2, clock_timestamp())
		ON CONFLICT (user_id, address) DO UPDATE SET seen_at = excluded.seen_at`, u.ID, address)
}

// openSession starts a session and answers with its tokens.
func (s *Server) openSession(t *tx, u userView, status int) (reply, error) {
	id, token := newID(), newSecret(refreshPrefix)
	t.queue(`INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, clock_timestamp() + $3::interval)`, id, u.ID, s.config.RefreshTokenTTL)
	t.queue(`INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`, hashToken(token), id)
	return s.sessionReply(u, id, token, status)
}

func (s *Server) sessionReply(u userView, sessionID, refreshToken string, status int) (reply, error) {
	accessToken, err := s.newAccessToken(u.ID, sessionID)
	return reply{status: status, body: sessionView{
		User: u, AccessToken: accessToken, RefreshToken: refreshToken,
		TokenType: "Bearer", ExpiresIn: int64(s.config.AccessTokenTTL / time.Second),
	}}, err
}

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// refresh is POST /api/v1/auth/refresh. A token is good once; its successor is
// derived from it, so that a repeat whose first answer was lost gets the same
// one. Any other repeat is taken for theft and ends the session.
// See docs/design.md, Refresh tokens and theft.
func (s *Server) refresh(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	successor := refreshPrefix + s.derive("refresh", in.RefreshToken)
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		u, sessionID, err := s.spendToken(ctx, t, in.RefreshToken, successor)
		if err != nil {
			return reply{}, err
		}
		return s.sessionReply(u, sessionID, successor, http.StatusOK)
	})
}

// spendToken replaces a refresh token by its successor and returns whose it is.
func (s *Server) spendToken(ctx context.Context, t *tx, token, successor string) (u userView, sessionID string, err error) {
	var spent bool
	err = t.QueryRow(ctx, `
		UPDATE refresh_tokens SET spent_at = clock_timestamp() WHERE hash = $1 AND spent_at IS NULL
		RETURNING session_id`, hashToken(token)).Scan(&sessionID)
	if errors.Is(err, pgx.ErrNoRows) {
		spent = true
		sessionID, err = s.replayToken(ctx, t, token, successor)
	}
	if err != nil {
		return u, "", err
	}
	err = t.QueryRow(ctx, `
		UPDATE sessions s SET expires_at = clock_timestamp() + $2 FROM users u
		WHERE s.id = $1 AND u.id = s.user_id AND s.expires_at > clock_timestamp() AND NOT u.disabled
		RETURNING u.id, u.email, u.name, u.role, u.disabled, u.created_at`, sessionID, s.config.RefreshTokenTTL).
		Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Disabled, &u.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, "", errInvalidToken()
	}
	if err == nil && !spent {
		_, err = t.Exec(ctx, `INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`, hashToken(successor), sessionID)
	}
	if err != nil {
		return u, "", fmt.Errorf("refreshing a session: %w", err)
	}
	return u, sessionID, nil
}

// replayToken decides about a token that isn't good any more: the session it
// may go on with, or a revocation to commit.
func (s *Server) replayToken(ctx context.Context, t *tx, token, successor string) (string, error) {
	var sessionID, userID string
	var lost bool
	err := t.QueryRow(ctx, `
		SELECT t.session_id, s.user_id, t.spent_at > clock_timestamp() - $3::interval
		       AND EXISTS (SELECT FROM refresh_tokens WHERE hash = $2 AND spent_at IS NULL)
		FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.hash = $1`,
		hashToken(token), hashToken(successor), refreshGrace).Scan(&sessionID, &userID, &lost)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errInvalidToken()
	}
	if err != nil {
		return "", fmt.Errorf("looking for a refresh token: %w", err)
	}
	if lost {
		return sessionID, nil
	}
	if _, err := t.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, sessionID); err != nil {
		return "", fmt.Errorf("ending a stolen session: %w", err)
	}
	t.revoke(userID)
	return "", andCommit(problem(http.StatusUnauthorized, "token_reused",
		"This refresh token was used before, so its session has been ended. Sign in again."))
}

// logout is POST /api/v1/auth/logout. It ends the session of the access token.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	if err := decodeRequest(r, &struct{}{}); err != nil {
		return err
	}
	account := callOf(r).account
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if _, err := t.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, account.session); err != nil {
			return reply{}, fmt.Errorf("ending a session: %w", err)
		}
		t.revoke(account.userID)
		return reply{status: http.StatusNoContent}, nil
	})
}

// changePassword is POST /api/v1/auth/change-password. It ends all other
// sessions of the account.
func (s *Server) changePassword(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		CurrentPassword string `json:"current_password"`
		NewPassword     string `json:"new_password"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	account := callOf(r).account
	var email, current string
	err := s.db.QueryRow(r.Context(), `SELECT email, password_hash FROM users WHERE id = $1`, account.userID).Scan(&email, &current)
	if err != nil {
		return fmt.Errorf("reading an account: %w", err)
	}
	var v violations
	v.password("new_password", email, in.NewPassword)
	if err := v.err(); err != nil {
		return err
	}
	if err := s.chargeFailure(r.Context(), email); err != nil {
		return err
	}
	ok, _, err := s.hasher.verify(r.Context(), current, in.CurrentPassword)
	if err != nil {
		return err
	}
	if !ok {
		return invalidField("current_password", "wrong", "isn't the current password")
	}
	hash, err := s.hasher.hash(r.Context(), in.NewPassword)
	if err != nil {
		return err
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		tag, err := t.Exec(ctx, `UPDATE users SET password_hash = $2 WHERE id = $1 AND password_hash = $3`, account.userID, hash, current)
		if err != nil {
			return reply{}, fmt.Errorf("changing a password: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return reply{}, problem(http.StatusConflict, "password_changed", "The password was changed by somebody else just now.")
		}
		t.endSessions(account.userID, account.session)
		t.refundFailure(email)
		return reply{status: http.StatusNoContent}, nil
	})
}

// endSessions ends the sessions of an account but for the one to keep, and
// forgets the addresses it is known from.
func (t *tx) endSessions(userID, keep string) {
	t.queue(`DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2`, userID, orNull(keep))
	t.queue(`DELETE FROM known_addresses WHERE user_id = $1`, userID)
	t.revoke(userID)
}

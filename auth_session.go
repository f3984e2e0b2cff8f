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

	"tachikoma/internal/clientaddr"
)

const (
	refreshPrefix = "rt_"
	// refreshGrace is how long a spent refresh token gets its successor again:
	// a client that lost the response isn't a thief. It is longer than a client's
	// timeout or a failover of the database.
	refreshGrace = time.Minute
)

// sessionView is what a client gets when it signs in.
type sessionView struct {
	User         userView `json:"user"`
	AccessToken  string   `json:"access_token"`
	RefreshToken string   `json:"refresh_token"`
	TokenType    string   `json:"token_type"`
	ExpiresIn    int64    `json:"expires_in"` // seconds
}

// newAccount is an account that somebody makes for themselves.
type newAccount struct {
	Email      string `json:"email"`
	Password   string `json:"password"`
	Name       string `json:"name"`
	SetupToken string `json:"setup_token"`
}

func (*newAccount) validate(*violations, *Config) {} // registerUser checks, once REGISTRATION allows it

// registerUser is POST /api/v1/auth/register. The first account becomes admin.
func (s *Server) registerUser(ctx context.Context, c *call, in *newAccount) (*sessionView, error) {
	return registerWith(ctx, s, c, in, s.openSession)
}

// registerWith makes an account, and opens a session of some kind for it.
func registerWith[Out any](ctx context.Context, s *Server, c *call, in *newAccount,
	open func(t *tx, u userView) (*Out, error)) (*Out, error) {
	if s.config.Registration == "closed" {
		return nil, errRegistrationClosed()
	}
	if _, err := s.mayRegister(ctx, s.db, c, in.SetupToken); err != nil {
		return nil, err
	}
	var v violations
	email := v.credentials(in.Email, in.Password, in.Name)
	if err := v.err(); err != nil {
		return nil, err
	}
	hash, err := s.hasher.Hash(ctx, in.Password)
	if err != nil {
		return nil, err
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*Out, error) {
		// There is no row yet that two first accounts could meet at.
		if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, registrationLock); err != nil {
			return nil, fmt.Errorf("locking the registration: %w", err)
		}
		role, err := s.mayRegister(ctx, t, c, in.SetupToken)
		if err != nil {
			return nil, err
		}
		u, err := insertUser(ctx, t, email, in.Name, role, hash)
		if err != nil {
			return nil, err
		}
		return open(t, u)
	})
}

// registrationLock is the key of the advisory lock that registrations take.
const registrationLock = 7205_0001

func errRegistrationClosed() error {
	return problem(http.StatusForbidden, "registration_closed", "Registration is closed: ask an admin for an account.")
}

// mayRegister applies REGISTRATION and returns the role of a new account. The
// first one needs the token that the console shows where others can reach the
// server, or may have led a browser on this machine here under a name of theirs.
func (s *Server) mayRegister(ctx context.Context, q querier, c *call, setupToken string) (role string, err error) {
	first, err := firstAccount(ctx, q)
	if err != nil {
		return "", err
	}
	if !first && s.config.Registration != "open" {
		return "", errRegistrationClosed()
	}
	if first && s.asksSetupToken(c) &&
		subtle.ConstantTimeCompare([]byte(setupToken), []byte(s.setupToken())) != 1 {
		return "", problem(http.StatusForbidden, "setup_token_required",
			"The first account needs the setup_token that the server printed when it started.")
	}
	if first {
		return "admin", nil
	}
	return "user", nil
}

// asksSetupToken reports whether the first account needs the setup token: unless
// the client is on this machine, and names it so. A proxy here may have changed
// the Host to a loopback address.
func (s *Server) asksSetupToken(c *call) bool {
	return !s.config.loopback() || !c.local || !c.addr.IsLoopback()
}

// firstAccount reports whether there is no account yet.
func firstAccount(ctx context.Context, q querier) (first bool, err error) {
	if err := q.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM users)`).Scan(&first); err != nil {
		return false, fmt.Errorf("looking for accounts: %w", err)
	}
	return first, nil
}

// setupToken is the same on every instance, and useless once there is an account.
func (s *Server) setupToken() string { return s.derive("setup", "")[:24] }

// derive returns a value for one purpose that can't be made without this server's secret.
func (s *Server) derive(purpose, from string) string {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(purpose + "\x00" + from))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// loginRequest signs in by password.
type loginRequest struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

func (*loginRequest) validate(*violations, *Config) {} // to login, malformed is just wrong

// login is POST /api/v1/auth/login.
func (s *Server) login(ctx context.Context, c *call, in *loginRequest) (*sessionView, error) {
	return loginWith(ctx, s, c, in, s.openSession)
}

// loginWith checks a password, and opens a session of some kind.
func loginWith[Out any](ctx context.Context, s *Server, c *call, in *loginRequest,
	open func(t *tx, u userView) (*Out, error)) (*Out, error) {
	email, ok := normalizeEmail(in.Email)
	if !ok {
		return nil, errInvalidCredentials()
	}
	address := clientaddr.Key(c.addr)
	u, hash, known, err := s.accountByEmail(ctx, email, address)
	if err != nil {
		return nil, err
	}
	if !known {
		if err := s.chargeFailure(ctx, email); err != nil {
			return nil, err
		}
	}
	ok, weak, err := s.hasher.Verify(ctx, hash, in.Password)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errInvalidCredentials()
	case u.Disabled:
		return nil, problem(http.StatusForbidden, "account_disabled", "This account is disabled. Ask an admin.")
	}
	stronger := ""
	if weak {
		if stronger, err = s.hasher.Hash(ctx, in.Password); err != nil {
			return nil, err
		}
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*Out, error) {
		if err := t.lockLogin(ctx, u.ID, hash); err != nil {
			return nil, err
		}
		t.noteLogin(u, stronger, address, known)
		return open(t, u)
	})
}

// lockLogin locks an account whose password has just been verified, and checks
// that it still has that hash and isn't disabled: a change of either ends all
// sessions, but would miss the one about to be opened.
func (t *tx) lockLogin(ctx context.Context, id, checked string) error {
	var current bool
	err := t.QueryRow(ctx, `SELECT password_hash = $2 AND NOT disabled FROM users WHERE id = $1 FOR NO KEY UPDATE`,
		id, checked).Scan(&current)
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
// an empty hash, which takes the hasher as long to verify as any other.
func (s *Server) accountByEmail(ctx context.Context,
	email, address string) (u userView, hash string, known bool, err error) {
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

// chargeFailure takes one of the failed logins that an e-mail is allowed a
// minute, whether or not it has an account; if none is left the error is a 429.
// It is taken before the password is checked, so that parallel attempts can't
// exceed the limit, and given back by refundFailure.
func (s *Server) chargeFailure(ctx context.Context, email string) error {
	limit := float64(s.config.AuthRateLimit)
	if limit == 0 {
		return nil
	}
	if err := s.trouble.refuseWrites(); err != nil {
		return err
	}
	tag, err := s.db.Exec(ctx, `
		INSERT INTO login_failures AS f (account, tokens, since) VALUES ($1, $2 - 1, clock_timestamp())
		ON CONFLICT (account) DO UPDATE
		SET tokens = least($2, f.tokens + extract(epoch FROM clock_timestamp() - f.since) * $2 / 60) - 1,
		    since = clock_timestamp()
		WHERE least($2, f.tokens + extract(epoch FROM clock_timestamp() - f.since) * $2 / 60) >= 1`,
		hashToken(email), limit)
	if err != nil {
		return fmt.Errorf("counting failed logins: %w", err)
	}
	if tag.RowsAffected() == 0 {
		s.counters.rateLimited()
		return problem(http.StatusTooManyRequests, "rate_limited",
			"Too many failed logins for this account. Try again later.").
			withHeader("Retry-After", strconv.Itoa(int(math.Ceil(60/limit))))
	}
	return nil
}

// refundFailure gives back what chargeFailure took from an e-mail.
func (t *tx) refundFailure(email string) {
	t.queue(`UPDATE login_failures SET tokens = tokens + 1 WHERE account = $1`, hashToken(email))
}

// noteLogin gives back what chargeFailure took, unless the address was known,
// remembers the address, and stores a stronger hash if there is one.
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

// openSession starts a session and returns it with its tokens.
func (s *Server) openSession(t *tx, u userView) (*sessionView, error) {
	id, token := newID(), newSecret(refreshPrefix)
	t.queue(`INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, clock_timestamp() + $3::interval)`,
		id, u.ID, s.config.RefreshTokenTTL)
	t.queue(`INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`, hashToken(token), id)
	return s.viewSession(u, id, token)
}

func (s *Server) viewSession(u userView, sessionID, refreshToken string) (*sessionView, error) {
	accessToken, err := s.newAccessToken(u.ID, sessionID)
	return &sessionView{
		User: u, AccessToken: accessToken, RefreshToken: refreshToken,
		TokenType: "Bearer", ExpiresIn: int64(s.config.AccessTokenTTL / time.Second),
	}, err
}

func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// refreshRequest spends a refresh token.
type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

func (*refreshRequest) validate(*violations, *Config) {}

// refresh is POST /api/v1/auth/refresh. A token is good once; its successor is
// derived from it, so that a retry after a lost response gets the same one. Any
// other repeat is treated as theft and ends the session.
// See docs/design.md, Refresh tokens and theft.
func (s *Server) refresh(ctx context.Context, t *tx, _ *call, in *refreshRequest) (*sessionView, error) {
	successor := refreshPrefix + s.derive("refresh", in.RefreshToken)
	u, sessionID, err := s.spendToken(ctx, t, in.RefreshToken, successor)
	if err != nil {
		return nil, err
	}
	return s.viewSession(u, sessionID, successor)
}

// spendToken replaces a refresh token by its successor and returns its account and session.
func (s *Server) spendToken(ctx context.Context, t *tx,
	token, successor string) (u userView, sessionID string, err error) {
	var spent bool
	t.queue(`SELECT FROM sessions WHERE id = (SELECT session_id FROM refresh_tokens WHERE hash = $1) FOR NO KEY UPDATE`,
		hashToken(token)) // locked before its tokens, as a delete does
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

// replayToken handles a token that is spent or unknown: it returns the session
// to continue, or a 401, which is wrapped by andCommit if it ends the session.
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
func (s *Server) logout(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	if _, err := t.Exec(ctx, `DELETE FROM sessions WHERE id = $1`, c.account.session); err != nil {
		return nil, fmt.Errorf("ending a session: %w", err)
	}
	t.revoke(c.account.userID)
	return nil, nil
}

// passwordChange is a new password from the account's owner.
type passwordChange struct {
	CurrentPassword string `json:"current_password"`
	NewPassword     string `json:"new_password"`
}

func (*passwordChange) validate(*violations, *Config) {} // the rules depend on the e-mail

// changePassword is POST /api/v1/auth/change-password.
func (s *Server) changePassword(ctx context.Context, c *call, in *passwordChange) (*nothing, error) {
	return changePasswordWith(ctx, s, c, in, func(*tx) (*nothing, error) { return nil, nil })
}

// changePasswordWith changes a password, ends all other sessions of the account, and
// renews this one.
func changePasswordWith[Out any](ctx context.Context, s *Server, c *call, in *passwordChange,
	renew func(t *tx) (*Out, error)) (*Out, error) {
	a := c.account
	var email, current string
	err := s.db.QueryRow(ctx, `SELECT email, password_hash FROM users WHERE id = $1`, a.userID).Scan(&email, &current)
	if err != nil {
		return nil, fmt.Errorf("reading an account: %w", err)
	}
	var v violations
	v.password("new_password", email, in.NewPassword)
	if err := v.err(); err != nil {
		return nil, err
	}
	if err := s.chargeFailure(ctx, email); err != nil {
		return nil, err
	}
	ok, _, err := s.hasher.Verify(ctx, current, in.CurrentPassword)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, invalidField("current_password", "wrong", "isn't the current password")
	}
	hash, err := s.hasher.Hash(ctx, in.NewPassword)
	if err != nil {
		return nil, err
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*Out, error) {
		tag, err := t.Exec(ctx, `UPDATE users SET password_hash = $2 WHERE id = $1 AND password_hash = $3`,
			a.userID, hash, current)
		if err != nil {
			return nil, fmt.Errorf("changing a password: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil, problem(http.StatusConflict, "password_changed",
				"The password has just been changed by another request.")
		}
		t.endSessions(a.userID, a.session)
		t.refundFailure(email)
		return renew(t)
	})
}

// endSessions ends the sessions of an account except keep, and forgets the
// addresses it has logged in from.
func (t *tx) endSessions(userID, keep string) {
	t.queue(`DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2`, userID, orNull(keep))
	t.queue(`DELETE FROM known_addresses WHERE user_id = $1`, userID)
	t.revoke(userID)
}

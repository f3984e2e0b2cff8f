package main

// Signing in on a page: the cookie, and the pages that give and take it.

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"net/netip"
	"time"

	"tachikoma/internal/clientaddr"
)

const (
	cookiePrefix = "ps_"
	// cookieIdle is how long a session of pages lasts without being used.
	cookieIdle = 30 * 24 * time.Hour
	// cookieAge is how long a browser keeps the cookie, the longest that browsers
	// allow: the session ends before it.
	cookieAge = 400 * 24 * time.Hour
)

// pageSession is what somebody gets who signs in on a page.
type pageSession struct{ secret string }

// openPageSession starts a session of pages.
func (s *Server) openPageSession(t *tx, u userView) (*pageSession, error) {
	secret := newSecret(cookiePrefix)
	t.queue(`INSERT INTO sessions (id, user_id, expires_at, cookie_hash)
		VALUES ($1, $2, clock_timestamp() + $3::interval, $4)`, newID(), u.ID, cookieIdle, hashToken(secret))
	return &pageSession{secret}, nil
}

// overTLS reports whether a browser uses HTTPS.
func (s *Server) overTLS(r *http.Request) bool { return clientaddr.OverTLS(r, s.config.TrustedProxies) }

// cookieName is the cookie's name. Cookies know no ports, so two servers of one
// host have different names; with TLS a browser lets nobody else set it.
func (s *Server) cookieName(r *http.Request) string {
	if s.overTLS(r) {
		return "__Host-tachikoma"
	}
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return "tachikoma-" + port
	}
	return "tachikoma"
}

// setCookie gives a browser the cookie, or takes it away where secret is "".
func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, secret string) {
	age := int(cookieAge / time.Second)
	if secret == "" {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(r), Value: secret, Path: "/", MaxAge: age,
		Secure: s.overTLS(r), HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// pageCookie reads the cookie.
func (s *Server) pageCookie(r *http.Request) (string, error) {
	cookie, err := r.Cookie(s.cookieName(r))
	if err != nil || cookie.Value == "" {
		return "", problem(http.StatusUnauthorized, "unauthenticated", "Sign in first.")
	}
	return cookie.Value, nil
}

// refuseCrossSite refuses what a page of another site sends in a person's name.
func (s *Server) refuseCrossSite(r *http.Request, c *call) error {
	if c.traits&isPage == 0 {
		return nil
	}
	if err := s.foreign.Check(r); err != nil {
		return errForbidden("This was sent by a page of another site, so nothing was done.").because(err)
	}
	return nil
}

// authenticatePage finds the account behind a cookie. It is remembered under
// another hash than the same text would have as a bearer token, so that neither
// is taken for the other.
func (s *Server) authenticatePage(ctx context.Context, secret string, addr netip.Addr) (account, error) {
	return s.credentials.account(sha256.Sum256([]byte("cookie "+secret)), func() (account, time.Duration, error) {
		return s.lookUpFor(addr, func() (account, time.Duration, error) { return s.lookUpCookie(ctx, hashToken(secret)) })
	})
}

// lookUpCookie finds the account of a session of pages, and for how long that
// lasts. Once a day it lasts longer; where that can't be noted, it ends earlier.
func (s *Server) lookUpCookie(ctx context.Context, hash []byte) (account, time.Duration, error) {
	var a account
	found, lasts, err := s.scanAccount(&a, s.db.QueryRow(ctx, `
		SELECT u.id, s.id, u.role, extract(epoch FROM s.expires_at - clock_timestamp())::float8
		FROM sessions s JOIN users u ON u.id = s.user_id
		WHERE s.cookie_hash = $1 AND NOT u.disabled AND s.expires_at > clock_timestamp()`, hash),
		&a.userID, &a.session, &a.role)
	if err == nil && lasts < cookieIdle-24*time.Hour && s.trouble.refuseWrites() == nil {
		_, err := s.db.Exec(ctx, `UPDATE sessions SET expires_at = clock_timestamp() + $2::interval WHERE id = $1`,
			a.session, cookieIdle)
		if err != nil {
			s.log.DebugContext(ctx, "a session wasn't prolonged", "error", err)
		}
	}
	return found, lasts, err
}

// loginPage is GET /login. Without any account it leads to the page that makes
// the first one.
func (s *Server) loginPage(ctx context.Context, _ *call, q *query) (*pageView, error) {
	next := localPath(q.text("next", 2000), "")
	if err := q.err(); err != nil {
		return nil, err
	}
	first, err := firstAccount(ctx, s.db)
	if err != nil {
		return nil, err
	}
	v := &pageView{Name: "login", Title: "Log in",
		Data: map[string]any{"Next": next, "Open": s.config.Registration == "open"}}
	if first && s.config.Registration != "closed" {
		v.elsewhere = "/register"
	}
	return v, nil
}

// logInPage is POST /login.
func (s *Server) logInPage(ctx context.Context, c *call, in *loginRequest) (*pageSession, error) {
	return loginWith(ctx, s, c, in, s.openPageSession)
}

// entered gives the cookie to who has signed in.
func (s *Server) entered(w http.ResponseWriter, r *http.Request, in *pageSession) string {
	s.setCookie(w, r, in.secret)
	return "/"
}

// registerPage is GET /register: the first account, or one's own where
// REGISTRATION is open.
func (s *Server) registerPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	first, err := firstAccount(ctx, s.db)
	if err != nil {
		return nil, err
	}
	v := &pageView{Name: "register", Title: "Make an account",
		Data: map[string]any{"First": first, "Token": first && s.asksSetupToken(c)}}
	if s.config.Registration == "closed" || !first && s.config.Registration != "open" {
		v.elsewhere = "/login"
	}
	return v, nil
}

// registerOnPage is POST /register.
func (s *Server) registerOnPage(ctx context.Context, c *call, in *newAccount) (*pageSession, error) {
	return registerWith(ctx, s, c, in, s.openPageSession)
}

// left takes the cookie of who has logged out.
func (s *Server) left(w http.ResponseWriter, r *http.Request, _ *nothing) string {
	s.setCookie(w, r, "")
	return "/login"
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/clientaddr"
	"tachikoma/internal/ratelimit"
)

// accountRole is what an account may do on the server, from least to most.
type accountRole int

const (
	roleNone   accountRole = iota
	roleViewer             // changes nothing
	roleUser               // makes missions
	roleAdmin              // everything
)

// roles maps the names that the API and the database use to roles.
var roles = map[string]accountRole{"viewer": roleViewer, "user": roleUser, "admin": roleAdmin}

// access is what an account may do with one mission, from least to most.
type access int

const (
	accessNone access = iota
	accessReader
	accessEditor
	accessOwner
)

// String returns the name of the access, as in my_role.
func (a access) String() string {
	return [...]string{"none", "viewer", "editor", "owner"}[a]
}

// account is who makes a request: a user, signed in by a session or by an API key.
type account struct {
	userID   string
	role     accountRole
	session  string // id; "" with an API key
	key      string // id; "" with a session
	readOnly bool   // a key of scope read
}

func (a account) admin() bool { return a.role == roleAdmin }

// byKey reports whether an API key signs in the account, which is an agent's then.
func (a account) byKey() bool { return a.key != "" }

// credential names what the account signed in with, for the rate limit.
func (a account) credential() string { return a.session + a.key }

// permission is what a route requires of its caller. The zero value would let
// everybody in, so routes use one of the values below and nothing else.
type permission struct {
	role      accountRole // the least role; roleNone: no sign-in needed
	session   bool        // an API key won't do
	access    access      // the least access to the mission in the path
	sensitive bool        // counts against AUTH_RATE_LIMIT
	unlimited bool        // counts against no limit
	later     bool        // the handler checks whether the caller may write
	shared    bool        // its writes don't lock the mission against others
	name      string
}

var (
	forProbes     = permission{name: "probe", unlimited: true}
	forAnyone     = permission{name: "public"}
	forGuests     = permission{name: "guest", sensitive: true}
	forAccounts   = permission{name: "signed in", role: roleViewer}
	forSessions   = permission{name: "session", role: roleViewer, session: true}
	mayCreate     = permission{name: "maker", role: roleUser}
	mayAdminister = permission{name: "admin", role: roleAdmin}
	mayManage     = permission{name: "manager", role: roleAdmin, session: true}

	// Some tools write and some don't: admitTool checks each.
	forAgents = permission{name: "signed in", role: roleViewer, later: true}

	// Membership is checked where the mission is read, in the WHERE clause, or
	// locked, by askMission. hideFrom hides earlier errors from callers without
	// access.
	mayRead = permission{name: "reader", role: roleViewer, access: accessReader}
	mayEdit = permission{name: "editor", role: roleViewer, access: accessEditor}
	mayWork = permission{name: "editor", role: roleViewer, access: accessEditor, shared: true}
	mayOwn  = permission{name: "owner", role: roleViewer, access: accessOwner}

	// What people decide, no key can: it is an agent's.
	mayAnswer = permission{name: "editor session", role: roleViewer, access: accessEditor, session: true, shared: true}
	mayReview = permission{name: "editor session", role: roleViewer, access: accessEditor, session: true}
)

// admit completes the call of a request, or returns why the request is refused:
// 503 while the server starts, then 401, 429, 404 and 403, checked in this order.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, c *call) (err error) {
	p := c.permission
	if err := s.refuseCrossSite(r, c); err != nil {
		return err
	}
	if !p.unlimited && !s.opened.Load() {
		return problem(http.StatusServiceUnavailable, "starting", "The server is starting. Try again in a moment.").
			withHeader("Retry-After", "1")
	}
	if p.role != roleNone {
		if c.token, err = s.credentialOf(r, c); err != nil {
			return err
		}
		if err := s.signIn(r.Context(), c); err != nil {
			return err
		}
	}
	if err := s.limitRate(w, c); err != nil {
		return err
	}
	c.ifMatch = r.Header.Values("If-Match")
	var named error
	if c.target, named = parseTarget(r); named != nil && p.access != accessNone {
		return named
	}
	writes := r.Method != http.MethodGet && r.Method != http.MethodHead && !p.later
	if err := permit(c.account, p, writes); err != nil {
		if p.access != accessNone {
			err = cmp.Or(admitToMission(r.Context(), s.db, c), err)
		}
		return err
	}
	return cmp.Or(named, c.readKey(r))
}

// signIn finds the account of a request's credential.
func (s *Server) signIn(ctx context.Context, c *call) (err error) {
	if c.traits&isPage != 0 {
		c.account, err = s.authenticatePage(ctx, c.token, c.addr)
	} else {
		c.account, err = s.authenticate(ctx, c.token, c.addr)
	}
	c.admitted = time.Now()
	return err
}

// readmit checks a request again if it was admitted more than a second ago: its
// body came slowly, or it waited, and its credential may have ended since.
func (s *Server) readmit(ctx context.Context, c *call) error {
	if c.token == "" || time.Since(c.admitted) < time.Second {
		return nil
	}
	if err := s.signIn(ctx, c); err != nil {
		return err
	}
	return permit(c.account, c.permission, !c.permission.later)
}

// permit checks an account and its key against what a route requires.
func permit(a account, p permission, writes bool) error {
	switch {
	case p.role == roleNone:
		return nil
	case a.role < p.role:
		return errForbidden("Your account's role doesn't allow this.")
	case a.readOnly && writes:
		return errForbidden("This API key is read-only.")
	case p.session && a.session == "":
		return errForbidden("API keys can't do this: log in and use the access token.")
	case p.access > accessReader && a.role < roleUser:
		return errForbidden("Your account's role is viewer, which can't change anything.")
	}
	return nil
}

// admitToMission checks the caller's access to the mission of the call's target:
// 404 for what they can't see, 403 for what they can see but not change.
func admitToMission(ctx context.Context, q querier, c *call) error {
	row := q.QueryRow(ctx, `SELECT `+accessSQL+`
		FROM missions m WHERE m.id = `+targetSQL, c.target.in(c.account)...)
	var have access
	err := row.Scan(&have)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && have < accessReader {
		return errNotFound()
	}
	if err != nil {
		return fmt.Errorf("checking access: %w", err)
	}
	if have < c.permission.access {
		return errReadOnly()
	}
	return nil
}

// targetSQL is the id of the mission of a target, the parameters from $3 on.
const targetSQL = `coalesce($3,
	(SELECT mission_id FROM specs WHERE id = $4), (SELECT mission_id FROM questions WHERE id = $5))`

// in are the parameters of a statement on a target for an account.
func (at target) in(a account) []any {
	return []any{a.userID, a.admin(), orNull(at.mission), orNull(at.spec), orNull(at.question)}
}

// errReadOnly is the answer for what the caller may see, but not change.
func errReadOnly() *apiError {
	return errForbidden("You can read this mission, but you don't have permission to do this.")
}

// hideFrom returns the error to answer a refused request with. A caller without
// access to the mission that it names is told so, and nothing about its other
// mistakes.
func (s *Server) hideFrom(ctx context.Context, c *call, refused *apiError) *apiError {
	switch refused.status {
	case http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		if c.permission.access != accessNone && c.target != (target{}) {
			// A body that broke off or stalled has cancelled the request's context.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.RequestTimeout)
			defer cancel()
			if err := admitToMission(ctx, s.db, c); err != nil {
				return asProblem(err)
			}
		}
	}
	return refused
}

// accessSQL is the access of user $1, an admin if $2, to mission m.
const accessSQL = `
	CASE WHEN $2 OR m.owner_id = $1 THEN 3
	     ELSE coalesce((SELECT CASE role WHEN 'editor' THEN 2 ELSE 1 END
	                    FROM members WHERE mission_id = m.id AND user_id = $1), 0) END`

// readableSQL holds for the missions m that user $1, an admin if $2, may see.
// With EXISTS, PostgreSQL would read all members of all missions at once where
// it expects many missions.
const readableSQL = `
	($2 OR m.owner_id = $1 OR coalesce((SELECT true FROM members WHERE mission_id = m.id AND user_id = $1), false))`

// target is what a request names by its id; "" for what it doesn't.
type target struct{ mission, spec, question, user, key, session, report string }

// parseTarget returns the ids in the path, in lower case, or a 404 if one isn't
// an id.
func parseTarget(r *http.Request) (at target, err error) {
	id, member := strings.ToLower(r.PathValue("id")), strings.ToLower(r.PathValue("user_id"))
	report := strings.ToLower(r.PathValue("report"))
	if id == "" {
		return at, nil
	}
	if !validID(id) || member != "" && !validID(member) || report != "" && !validID(report) {
		return at, errNotFound()
	}
	before, _, _ := strings.Cut(r.Pattern, "/{id}")
	switch path.Base(before) {
	case "missions":
		at.mission, at.user, at.report = id, member, report
	case "specs":
		at.spec = id
	case "questions":
		at.question = id
	case "users":
		at.user = id
	case "api-keys", "keys":
		at.key = id
	case "sessions":
		at.session = id
	}
	return at, nil
}

// limitRate counts the request against the limit of its credential, or of its
// address where nobody is signed in.
func (s *Server) limitRate(w http.ResponseWriter, c *call) error {
	if c.permission.unlimited {
		return nil
	}
	by, key := s.rate, c.account.credential()
	if key == "" {
		key = clientaddr.Key(c.addr)
	}
	if c.permission.sensitive {
		by = s.authRate
	}
	v := by.Take(key, time.Now())
	v.SetHeaders(w.Header())
	if !v.Allowed {
		return s.errRateLimited(v)
	}
	return nil
}

// refuseForeign refuses browsers' requests from other sites: scheme, host and
// port of the Origin must be the server's own, or one of CORS_ALLOWED_ORIGINS.
// A site that rebinds its own name to this host passes, but has no token.
func (s *Server) refuseForeign(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.config.CORSAllowedOrigins, origin) {
		return nil
	}
	scheme, port := "http", ":80"
	if clientaddr.OverTLS(r, s.config.TrustedProxies) {
		scheme, port = "https", ":443"
	}
	host := strings.TrimSuffix(r.Host, port) // some proxies keep the default port; browsers don't
	if u, err := url.Parse(origin); err == nil && u.Scheme == scheme && strings.EqualFold(u.Host, host) {
		return nil
	}
	return errForbidden("This origin may not connect; see CORS_ALLOWED_ORIGINS.")
}

// errRateLimited counts a refusal and says when to try again.
func (s *Server) errRateLimited(v ratelimit.Verdict) error {
	s.counters.rateLimited()
	return problem(http.StatusTooManyRequests, "rate_limited",
		"Too many requests. Slow down, and try again after the time in Retry-After.").
		withHeader("Retry-After", ratelimit.Seconds(v.RetryAfter))
}

// credentialOf is what a request signs in with: a cookie for a page, and for no
// other route, a bearer token for these.
func (s *Server) credentialOf(r *http.Request, c *call) (string, error) {
	if c.traits&isPage != 0 {
		return s.pageCookie(r)
	}
	return bearerToken(r)
}

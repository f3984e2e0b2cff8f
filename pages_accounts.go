package main

// The pages of accounts: the cookie that browsers sign in with, and the pages that
// give and take it; who works on what, how an agent is connected, API keys, one's
// own account, and for admins all accounts.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"html/template"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/clientaddr"
	"tachikoma/internal/markdown"
)

const (
	cookiePrefix = "ps_"
	// cookieIdle is how long a session of pages lasts without being used.
	cookieIdle = 30 * 24 * time.Hour
	// cookieAge is how long a browser keeps the cookie, the longest that browsers
	// allow. Then one logs in again, even if the session was in use.
	cookieAge = 400 * 24 * time.Hour
	// savedSuffix is what the name of the cookie ends in that a page says "Saved." for.
	savedSuffix = "-saved"
)

// pageSession is the session that a log-in on a page opens.
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

// cookieName is the cookie's name. Cookies ignore ports, so the name has the port
// to tell two servers of one host apart. With TLS the prefix __Host- keeps other
// hosts of the domain from setting it.
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
	s.writeCookie(w, r, s.cookieName(r), secret, cookieAge)
}

// writeCookie gives a browser a cookie, or takes it away where value is "".
func (s *Server) writeCookie(w http.ResponseWriter, r *http.Request, name, value string, lasts time.Duration) {
	age := int(lasts / time.Second)
	if value == "" {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: age,
		Secure: s.overTLS(r), HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// saved leads to where to does, to a page that doesn't show what a form did: the next
// page that the browser gets says so, which no link from elsewhere can have it say.
func saved[Out any](s *Server, to func(http.ResponseWriter, *http.Request, *Out) string,
) func(http.ResponseWriter, *http.Request, *Out) string {
	return func(w http.ResponseWriter, r *http.Request, out *Out) string {
		s.writeCookie(w, r, s.cookieName(r)+savedSuffix, "1", time.Minute)
		return to(w, r, out)
	}
}

// takeSaved reports whether a page has to say so, once.
func (s *Server) takeSaved(w http.ResponseWriter, r *http.Request) bool {
	name := s.cookieName(r) + savedSuffix
	if _, err := r.Cookie(name); err != nil {
		return false
	}
	s.writeCookie(w, r, name, "", 0)
	return true
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
	next, _ := q.get("next")
	if err := q.err(); err != nil {
		return nil, err
	}
	first, err := firstAccount(ctx, s.db)
	if err != nil {
		return nil, err
	}
	v := &pageView{Name: "login", Title: "Log in",
		Data: map[string]any{"Next": localPath(next), "Open": s.config.Registration == "open"}}
	if first && s.config.Registration != "closed" {
		v.elsewhere = "/register"
	}
	return v, nil
}

// logInPage is POST /login.
func (s *Server) logInPage(ctx context.Context, c *call, in *loginRequest) (*pageSession, error) {
	return loginWith(ctx, s, c, in, s.openPageSession)
}

// entered sets the cookie of a new session.
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
	v := &pageView{Name: "register", Title: "Create an account",
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

// left removes the cookie after a log-out.
func (s *Server) left(w http.ResponseWriter, r *http.Request, _ *nothing) string {
	s.setCookie(w, r, "")
	return "/login"
}

// accountRoutes adds these pages to the route table.
func (s *Server) accountRoutes() {
	s.page(forSessions, "GET /agents", s.servePage(s.agentsPage))
	s.page(forSessions, "GET /keys", s.servePage(s.keysPage))
	s.page(forSessions, "POST /keys", serveShown(s, s.keysPage, inOneTx(s, s.createKey), s.keyPage), holdsSecrets)
	s.page(forSessions, "POST /keys/{id}/delete",
		serveForm(s, s.keysPage, inOneTx(s, s.deleteKey), toPage[nothing]("/keys")))

	s.page(forSessions, "GET /account", s.servePage(s.accountPage))
	s.page(forSessions, "POST /account",
		serveForm(s, s.accountPage, inOneTx(s, s.updateMe), saved(s, toPage[userView]("/account"))))
	s.page(forSessions, "POST /account/password",
		serveForm(s, s.accountPage, s.changePasswordOnPage, saved(s, s.renewed)), holdsSecrets)
	s.page(forSessions, "POST /account/sessions/end",
		serveForm(s, s.accountPage, inOneTx(s, endOtherSessions), toPage[nothing]("/account")))
	s.page(forSessions, "POST /account/sessions/{id}/end",
		serveForm(s, s.accountPage, inOneTx(s, endSession), toPage[nothing]("/account")))

	s.page(mayAdminister, "GET /users", s.servePage(s.usersPage))
	s.page(mayManage, "POST /users", serveForm(s, s.usersPage, s.createUser, toPage[userView]("/users")))
	s.page(mayManage, "POST /users/{id}", serveForm(s, s.usersPage, s.updateUser, saved(s, toPage[userView]("/users"))))
}

// toPage leads to the same page whatever a form did.
func toPage[Out any](path string) func(http.ResponseWriter, *http.Request, *Out) string {
	return func(http.ResponseWriter, *http.Request, *Out) string { return path }
}

// maxAgents is how many agents a page shows, and of how many it looks for those that
// the account may see.
const (
	maxAgents     = 200
	agentsLooked  = 20_000
	agentsPageSQL = `
		SELECT m.id, m.name, s.key, s.title, l.agent, u.name, l.attempt, cardinality(h.done),
		       cardinality(array_positions(h.done, true)), l.claimed_at, l.expires_at,
		       CASE WHEN l.reported_at IS NOT NULL THEN greatest(h.updated_at, l.reported_at) END, coalesce(a.message, '')
		FROM (SELECT w.* FROM (SELECT spec_id, mission_id, user_id, agent, attempt, number, claimed_at, expires_at,
		                              reported_at
		                       FROM leases ORDER BY expires_at LIMIT $3) w JOIN missions m ON m.id = w.mission_id
		      WHERE ` + readableSQL + ` ORDER BY w.expires_at LIMIT $4) l
		JOIN missions m ON m.id = l.mission_id JOIN specs s ON s.id = l.spec_id JOIN spec_states h ON h.spec_id = l.spec_id
		JOIN users u ON u.id = l.user_id LEFT JOIN attempts a ON a.spec_id = l.spec_id AND a.number = l.number
		ORDER BY l.expires_at`
)

// agentRow is a lease as the page of agents shows it.
type agentRow struct {
	MissionID, Mission, Key, Title, Agent, Account string
	Attempt, CriteriaTotal, CriteriaDone           int
	ClaimedAt, ExpiresAt                           time.Time
	ReportedAt                                     *time.Time // nil: nothing was reported yet
	Message                                        string     // of the last report that had one
}

// Link is the path of the spec that the agent works on.
func (a agentRow) Link() string { return specAddress(a.MissionID, a.Key) }

// Said is what the agent reported last, with its addresses as links.
func (a agentRow) Said() template.HTML { return markdown.Text(a.Message) }

// agentsPage is GET /agents: the leases that end first come first.
func (s *Server) agentsPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, agentsPageSQL, c.account.userID, c.account.admin(), agentsLooked, maxAgents+1)
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	agents, err := pgx.CollectRows(rows, pgx.RowToStructByPos[agentRow])
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	shown := pageOf(agents, maxAgents, func(agentRow) string { return "" })
	return &pageView{Name: "agents", Title: "Agents", Polls: true, Data: shown}, nil
}

// keysPageView is what the page of API keys shows.
type keysPageView struct {
	list[keyView]
	Terms []keyTerm
}

// keyTerm is how long a key may last.
type keyTerm struct{ Ends, Says string }

// Expired reports whether a key is of no use any more.
func (k keyView) Expired() bool { return k.ExpiresAt != nil && time.Until(*k.ExpiresAt) <= 0 }

// keyTerms are the terms that a form offers, in days.
var keyTerms = []struct {
	days int
	says string
}{{30, "30 days"}, {90, "90 days"}, {365, "a year"}}

// keysPage is GET /keys.
func (s *Server) keysPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	keys, err := s.listKeys(ctx, c, q)
	view := keysPageView{list: keys}
	for _, term := range keyTerms {
		view.Terms = append(view.Terms, keyTerm{time.Now().UTC().AddDate(0, 0, term.days).Format(time.RFC3339), term.says})
	}
	return &pageView{Name: "keys", Title: "API keys", Data: view}, err
}

// keyPageView is a new key as it is shown, once, with how to use it.
type keyPageView struct {
	*keyWithSecret
	Clients []agentClient
	Prompt  string
}

// agentClient is a program that agents run in, and what adds this server to it.
type agentClient struct{ Name, How, Line string }

// keyPage shows a key that was made.
func (s *Server) keyPage(r *http.Request, key *keyWithSecret) *pageView {
	return &pageView{Name: "key", Title: "API key " + key.Name,
		Data: keyPageView{key, agentClients(s.addressFor(r)+"/mcp", key.Key), workInstructions("", "")}}
}

// hostHeader matches the Host of a server, with its port: its address goes into shells.
var hostHeader = regexp.MustCompile(`^([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?$`)

// addressFor is the server's address as a browser knows it.
func (s *Server) addressFor(r *http.Request) string {
	if !hostHeader.MatchString(r.Host) {
		return s.url()
	}
	if s.overTLS(r) {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// agentClients are the lines that the README has, with an address and a key.
func agentClients(address, key string) []agentClient {
	bearer := "Authorization: Bearer " + key
	server := fmt.Sprintf(`"url":%q,"headers":{"Authorization":"Bearer %s"}`, address, key)
	return []agentClient{
		{"Claude Code", "Run", fmt.Sprintf(`claude mcp add --transport http tachikoma %s --header "%s"`, address, bearer)},
		{"Codex", "Set the key where Codex is started, and run", fmt.Sprintf("export TACHIKOMA_KEY=%s\n"+
			"codex mcp add tachikoma --url %s --bearer-token-env-var TACHIKOMA_KEY", key, address)},
		{"Gemini CLI", "Run", fmt.Sprintf(`gemini mcp add --transport http --header "%s" tachikoma %s`, bearer, address)},
		{"VS Code", "Run", fmt.Sprintf(`code --add-mcp '{"name":"tachikoma","type":"http",%s}'`, server)},
		{"Cursor", "Write into .cursor/mcp.json", fmt.Sprintf(`{"mcpServers": {"tachikoma": {%s}}}`, server)},
	}
}

// accountPageView is what the page of one's own account shows.
type accountPageView struct {
	User     userView
	Sessions []sessionRow
}

// sessionRow is a session as its owner sees it.
type sessionRow struct {
	ID                   string
	CreatedAt, ExpiresAt time.Time
	Browser              bool // it has a cookie, and no tokens
	This                 bool
}

const maxSessionsShown = 100

// accountPage is GET /account.
func (s *Server) accountPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	user, err := s.getMe(ctx, c)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, `
		SELECT id, created_at, expires_at, cookie_hash IS NOT NULL, id = $2 FROM sessions
		WHERE user_id = $1 AND expires_at > clock_timestamp() ORDER BY id = $2 DESC, id DESC LIMIT $3`,
		c.account.userID, c.account.session, maxSessionsShown)
	if err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sessionRow])
	if err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	return &pageView{Name: "account", Title: "Your account", Data: accountPageView{user, sessions}}, nil
}

// changePasswordOnPage is POST /account/password. The session goes on with another
// cookie.
func (s *Server) changePasswordOnPage(ctx context.Context, c *call, in *passwordChange) (*pageSession, error) {
	return changePasswordWith(ctx, s, c, in, func(t *tx) (*pageSession, error) {
		secret := newSecret(cookiePrefix)
		t.queue(`UPDATE sessions SET cookie_hash = $2 WHERE id = $1`, c.account.session, hashToken(secret))
		return &pageSession{secret}, nil
	})
}

// renewed sets the new cookie after a change of password.
func (s *Server) renewed(w http.ResponseWriter, r *http.Request, in *pageSession) string {
	s.setCookie(w, r, in.secret)
	return "/account"
}

// endSession is POST /account/sessions/{id}/end. It holds at once.
func endSession(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	tag, err := t.Exec(ctx, `DELETE FROM sessions WHERE id = $1 AND user_id = $2`, c.target.session, c.account.userID)
	if err != nil {
		return nil, fmt.Errorf("ending a session: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, errNotFound()
	}
	t.revoke(c.account.userID)
	return nil, nil
}

// endOtherSessions is POST /account/sessions/end.
func endOtherSessions(_ context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	t.endSessions(c.account.userID, c.account.session)
	return nil, nil
}

// usersPageView is what the page of all accounts shows.
type usersPageView struct {
	list[userView]
	Roles []string
}

// usersPage is GET /users.
func (s *Server) usersPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	users, err := s.listUsers(ctx, c, q)
	byRank := func(a, b string) int { return cmp.Compare(roles[a], roles[b]) }
	view := usersPageView{users, slices.SortedFunc(maps.Keys(roles), byRank)}
	return &pageView{Name: "users", Title: "Accounts", Data: view}, err
}

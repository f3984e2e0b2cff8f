package main

// The pages of agents and of accounts: who works on what, how an agent is connected,
// API keys, one's own account, and for admins all accounts.

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// accountRoutes adds these pages to the route table.
func (s *Server) accountRoutes() {
	s.page(forSessions, "GET /agents", s.servePage(s.agentsPage))
	s.page(forSessions, "GET /keys", s.servePage(s.keysPage))
	s.page(forSessions, "POST /keys", serveShown(s, s.keysPage, inOneTx(s, s.createKey), s.keyPage), holdsSecrets)
	s.page(forSessions, "POST /keys/{id}/delete",
		serveForm(s, s.keysPage, inOneTx(s, s.deleteKey), toPage[nothing]("/keys")))

	s.page(forSessions, "GET /account", s.servePage(s.accountPage))
	s.page(forSessions, "POST /account",
		serveForm(s, s.accountPage, inOneTx(s, s.updateMe), toPage[userView]("/account")))
	s.page(forSessions, "POST /account/password",
		serveForm(s, s.accountPage, s.changePasswordOnPage, s.renewed), holdsSecrets)
	s.page(forSessions, "POST /account/sessions/end",
		serveForm(s, s.accountPage, inOneTx(s, endOtherSessions), toPage[nothing]("/account")))
	s.page(forSessions, "POST /account/sessions/{id}/end",
		serveForm(s, s.accountPage, inOneTx(s, endSession), toPage[nothing]("/account")))

	s.page(mayAdminister, "GET /users", s.servePage(s.usersPage))
	s.page(mayManage, "POST /users", serveForm(s, s.usersPage, s.createUser, toPage[userView]("/users")), holdsSecrets)
	s.page(mayManage, "POST /users/{id}",
		serveForm(s, s.usersPage, s.updateUser, toPage[userView]("/users")), holdsSecrets)
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
		       greatest(h.updated_at, l.claimed_at), coalesce(a.message, '')
		FROM (SELECT w.* FROM (SELECT spec_id, mission_id, user_id, agent, attempt, number, claimed_at, expires_at
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
	ClaimedAt, ExpiresAt, ReportedAt               time.Time
	Message                                        string // of the last report that had one
}

// Link is the path of the spec that the agent works on.
func (a agentRow) Link() string { return specAddress(a.MissionID, a.Key) }

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

// addressFor is the server's address as a browser knows it.
func (s *Server) addressFor(r *http.Request) string {
	if strings.ContainsFunc(r.Host, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".:-_[]", c))
	}) {
		return s.url() // the lines go into shells
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

// renewed gives the new cookie to who has changed the password.
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

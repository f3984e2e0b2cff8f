package main

// How much slower requests get as missions and servers grow: BenchmarkGrowth
// makes the same requests of two servers, one with little and one with much in
// its database, and shows where they differ.

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkGrowth measures each route and tool but import, export and deleting a
// mission, as one client. With TACHIKOMA_LONG=1 it has 100,000 specs in a
// mission, beside 200,000 others, which takes some ten minutes; GROWTH is a
// regular expression for the names of what to measure.
func BenchmarkGrowth(b *testing.B) {
	sizes, rounds := []filling{{1000, 1000}, {10_000, 10_000}}, 3
	if os.Getenv("TACHIKOMA_LONG") == "1" {
		sizes, rounds = []filling{{1000, 1000}, {100_000, 200_000}}, 5
	}
	only, err := regexp.Compile(os.Getenv("GROWTH"))
	if err != nil {
		b.Fatal(err)
	}
	small, big := newGrownServer(b, sizes[0]), newGrownServer(b, sizes[1])
	// Not to the benchmark's log, of which go test shows only the first lines.
	fmt.Printf("%-90s %9s %9s %6s\n", fmt.Sprintf("ms with %d and %d specs in a mission, %d and %d beside",
		sizes[0].specs, sizes[1].specs, sizes[0].beside, sizes[1].beside), "small", "big", "ratio")
	for _, c := range growthCases() {
		if !only.MatchString(c.name) {
			continue
		}
		times := make(map[*grownServer][]float64)
		for n := range rounds + 1 {
			for _, s := range []*grownServer{small, big} {
				measured := c.prepare(s, n)
				if measured == nil {
					continue
				}
				began := time.Now()
				err := measured()
				took := float64(time.Since(began).Microseconds()) / 1000
				if err != nil {
					b.Errorf("%s with %d specs: %v", c.name, s.size.specs, err)
				}
				if n > 0 { // after the first, which fills caches
					times[s] = append(times[s], took)
				}
			}
		}
		if times[small] == nil || times[big] == nil {
			continue
		}
		before, after, mark := median(times[small]), median(times[big]), ""
		if after > 1.3*before && after > before+2 {
			mark = " grows"
		}
		fmt.Printf("%-90s %9.1f %9.1f %6.2f%s\n", c.name, before, after, after/before, mark)
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// grownServer is a server with a filled database, and accounts that see
// all, own all, or are members of some or few of its missions.
type grownServer struct {
	*testServer
	size        filling
	by          map[string]*client // admin, owner, some, few
	wide, chain string             // paths of the large missions
	agent       *client            // the owner's, with an API key
}

func newGrownServer(b testing.TB, size filling) *grownServer {
	database := newTestDatabase(b)
	s := &grownServer{size: size, by: make(map[string]*client)}
	s.testServer = startTestServer(b, database, func(c *Config) {
		c.AccessTokenTTL = 24 * time.Hour
		c.LeaseDefault, c.Registration = time.Hour, "open"
	})
	for _, name := range []string{"admin", "owner", "some", "few"} {
		role := "user"
		if name == "admin" {
			role = name
		}
		s.by[name] = s.signUp(name, role)
	}
	s.agent = s.by["owner"].withKey("write")
	if err := size.fill(b.Context(), database, s.by["owner"].user.ID); err != nil {
		b.Fatal(err)
	}
	s.wide = "/api/v1/missions/" + s.value(`SELECT id::text FROM missions WHERE name = 'Wide'`)
	s.chain = "/api/v1/missions/" + s.value(`SELECT id::text FROM missions WHERE name = 'Chain'`)
	for name, share := range map[string]int{"some": 1000, "few": 5} {
		s.value(`WITH joined AS (INSERT INTO members (mission_id, user_id, role, email)
			SELECT id, $1, 'editor', $3 FROM missions WHERE name LIKE 'Mission %' ORDER BY md5(name) LIMIT $2 RETURNING 1)
			SELECT count(*)::text FROM joined`,
			s.by[name].user.ID, min(share, size.beside/5), s.by[name].user.Email)
	}
	s.by["owner"].put(s.wide+"/members", fields{"email": s.by["few"].user.Email, "role": "editor"}).want(http.StatusOK)
	return s
}

// value returns the one text that a query returns.
func (s *grownServer) value(sql string, args ...any) (text string) {
	s.t.Helper()
	if err := s.db.QueryRow(s.t.Context(), sql, args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// spec is the path of a spec of a mission, another one for each n.
func (s *grownServer) spec(mission string, n int) string {
	return "/api/v1/specs/" + s.value(`SELECT id::text FROM specs WHERE mission_id = $1 AND key = 'k' || $2::int`,
		idOf(mission), 30+n*997%(s.size.specs-30))
}

// claimed is the path of a spec that the agent has just claimed, and the token.
func (s *grownServer) claimed() (spec, token string) { return s.agent.claim(s.wide, "bot") }

// send makes a request that must succeed, and reads the answer to its end.
func (c *client) send(method, path string, body any) func() error {
	encoded := []byte(nil)
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	return func() error {
		r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(string(encoded)))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+c.token)
		if body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
		response, err := unredirected.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode >= 300 || strings.Contains(string(text), `"isError":true`)) {
			err = fmt.Errorf("%s %s: %d %.300s", method, path, response.StatusCode, text)
		}
		return err
	}
}

// sendTool calls a tool.
func (c *client) sendTool(name string, arguments fields) func() error {
	return c.send("POST", "/mcp", fields{"jsonrpc": "2.0", "id": 1, "method": "tools/call",
		"params": fields{"name": name, "arguments": arguments}})
}

// growthCase is something to measure. prepare isn't measured, and returns nil if
// there is nothing to measure; n counts the rounds.
type growthCase struct {
	name    string
	prepare func(s *grownServer, n int) (measured func() error)
}

func growthCases() []growthCase {
	return slices.Concat(growthOfReads(), growthOfSpecLists(), growthOfMissionLists(), growthOfMissionEdits(),
		growthOfSpecEdits(), growthOfAccounts(), growthOfWork(), growthOfTools(), growthOfSweeps())
}

// get is the case of a GET as somebody. In path, {wide} and {chain} are the
// missions, {spec} and {waiting} specs of these.
func get(by, path string) growthCase {
	return growthCase{"GET " + path + " " + by, func(s *grownServer, n int) func() error {
		return s.by[by].send("GET", s.path(path, n), nil)
	}}
}

func (s *grownServer) path(path string, n int) string {
	for name, value := range map[string]func() string{
		"{wide}":    func() string { return idOf(s.wide) },
		"{chain}":   func() string { return idOf(s.chain) },
		"{spec}":    func() string { return idOf(s.spec(s.wide, n)) },
		"{waiting}": func() string { return idOf(s.spec(s.chain, n)) },
		"{question}": func() string {
			return s.value(`SELECT id::text FROM questions WHERE mission_id = $1 ORDER BY id LIMIT 1`, idOf(s.wide))
		},
	} {
		if strings.Contains(path, name) {
			path = strings.ReplaceAll(path, name, value())
		}
	}
	return path
}

// secondPage is the case of the page that follows a GET's.
func secondPage(by, path string) growthCase {
	return growthCase{"GET " + path + " " + by + ", second page", func(s *grownServer, n int) func() error {
		path := s.path(path, n)
		first, err := s.by[by].ask("GET", path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		cursor, ok := first.at("next_cursor").(string)
		if !ok {
			return nil // there is none
		}
		sign := "?"
		if strings.Contains(path, "?") {
			sign = "&"
		}
		return s.by[by].send("GET", path+sign+"cursor="+url.QueryEscape(cursor), nil)
	}}
}

func growthOfReads() (cases []growthCase) {
	for _, path := range []string{
		"/api/v1/auth/me", "/api/v1/api-keys", "/api/v1/users", "/api/v1/events",
		"/internal/metrics", "/internal/health", "/internal/connections",
		"/api/v1/missions/{wide}", "/api/v1/missions/{wide}/members",
		"/api/v1/missions/{wide}/graph", "/api/v1/missions/{chain}/graph", "/api/v1/missions/{wide}/graph?format=mermaid",
		"/api/v1/missions/{wide}/events", "/api/v1/missions/{wide}/events?after=150",
		"/api/v1/specs/{spec}", "/api/v1/specs/{spec}/explain", "/api/v1/specs/{waiting}", "/api/v1/specs/{waiting}/explain",
		"/api/v1/specs/{spec}/attempts", "/api/v1/questions/{question}",
	} {
		cases = append(cases, get("admin", path))
	}
	for _, filter := range []string{"", "state=answered&", "open=true&"} {
		path := strings.TrimRight("/api/v1/questions?"+filter, "?&")
		for _, by := range []string{"admin", "owner", "some", "few"} {
			cases = append(cases, get(by, path))
		}
		cases = append(cases, secondPage("owner", path), get("owner", "/api/v1/questions?"+filter+"mission_id={wide}"))
	}
	for _, path := range []string{"/api/v1/users", "/api/v1/missions/{wide}/members", "/api/v1/missions/{wide}/graph"} {
		cases = append(cases, secondPage("admin", path))
	}
	return append(cases, get("few", "/api/v1/missions/{wide}"), get("few", "/api/v1/specs/{spec}"))
}

func growthOfSpecLists() (cases []growthCase) {
	filters := []string{
		"", "ready=true", "ready=false", "status=planned", "status=completed", "status=deferred", "status=blocked",
		"tag=all", "tag=tenth", "tag=few", "tag=none", "phase=P1", "phase=Last", "phase=none", "claimed=mine",
		"status=completed&tag=tenth", "status=planned&phase=P1",
	}
	paged := []string{"", "tag=tenth", "status=planned", "ready=true", "ready=false"}
	for _, sort := range []string{"number", "-number", "priority", "-priority", "updated_at", "-updated_at"} {
		for _, filter := range filters {
			path := strings.TrimSuffix("/api/v1/specs?sort="+sort+"&"+filter, "&")
			for _, mission := range []string{"{wide}", "{chain}"} {
				cases = append(cases, get("owner", path+"&mission_id="+mission))
			}
			for _, by := range []string{"admin", "owner", "some", "few"} {
				cases = append(cases, get(by, path))
			}
			if slices.Contains(paged, filter) {
				cases = append(cases, secondPage("owner", path+"&mission_id={wide}"))
				for _, by := range []string{"admin", "owner", "some", "few"} {
					cases = append(cases, secondPage(by, path))
				}
			}
		}
	}
	for _, filter := range []string{"q=common", "q=seldom", "q=nowhere", "q=common&status=deferred", "q=common&tag=few"} {
		for _, by := range []string{"admin", "owner", "some", "few"} {
			cases = append(cases, get(by, "/api/v1/specs?"+filter))
		}
		cases = append(cases, get("owner", "/api/v1/specs?"+filter+"&mission_id={wide}"))
	}
	return cases
}

func growthOfMissionLists() (cases []growthCase) {
	filters := []string{"", "status=active", "status=archived", "status=paused",
		"tag=all", "tag=tenth", "tag=few", "tag=none"}
	for _, by := range []string{"admin", "owner", "some", "few"} {
		for _, sort := range []string{"name", "-name", "created_at", "-created_at", "updated_at", "-updated_at"} {
			for _, filter := range filters {
				path := strings.TrimSuffix("/api/v1/missions?sort="+sort+"&"+filter, "&")
				cases = append(cases, get(by, path))
				if filter == "" || filter == "tag=tenth" {
					cases = append(cases, secondPage(by, path))
				}
			}
		}
		for _, text := range []string{"mission", "uncommon", "nowhere", "mission&status=archived"} {
			cases = append(cases, get(by, "/api/v1/missions?q="+text))
		}
	}
	return cases
}

// as is the case of a request of the owner's whose body is another one for each n.
func as(name, method, path string, body func(s *grownServer, n int) any) growthCase {
	return growthCase{method + " " + path + " " + name, func(s *grownServer, n int) func() error {
		return s.by["owner"].send(method, s.path(path, n), body(s, n))
	}}
}

// unique returns a name that nothing has yet.
func unique(n int) string { return fmt.Sprintf("new-%d-%d", n, time.Now().UnixNano()) }

func growthOfMissionEdits() []growthCase {
	return []growthCase{
		as("", "POST", "/api/v1/missions", func(_ *grownServer, n int) any { return fields{"name": unique(n)} }),
		as("", "PATCH", "/api/v1/missions/{wide}", func(_ *grownServer, n int) any {
			return fields{"description": unique(n)}
		}),
		as("", "PUT", "/api/v1/missions/{chain}/members", func(_ *grownServer, n int) any {
			return fields{"email": fmt.Sprintf("user%d@example.com", n+1), "role": "viewer"}
		}),
		{"DELETE /api/v1/missions/{chain}/members/{user}", func(s *grownServer, n int) func() error {
			user := s.value(`SELECT user_id::text FROM members WHERE mission_id = $1 LIMIT 1`, idOf(s.chain))
			return s.by["owner"].send("DELETE", s.chain+"/members/"+user, nil)
		}},
		{"POST /api/v1/missions/{wide}/pause and resume", func(s *grownServer, n int) func() error {
			pause, resume := s.by["owner"].send("POST", s.wide+"/pause", nil), s.by["owner"].send("POST", s.wide+"/resume", nil)
			return func() error { return cmp.Or(pause(), resume()) }
		}},
		as("", "POST", "/api/v1/missions/{wide}/logs", func(s *grownServer, n int) any {
			return fields{"entries": []fields{{"level": "info", "message": "m", "spec_id": idOf(s.spec(s.wide, n))}}}
		}),
	}
}

func growthOfSpecEdits() []growthCase {
	create := func(name, mission string, with fields) growthCase {
		return as(name, "POST", "/api/v1/missions/"+mission+"/specs", func(_ *grownServer, n int) any {
			with["key"], with["title"] = unique(n), "New"
			return with
		})
	}
	change := func(name string, with func(n int) any) growthCase {
		return as(name, "PATCH", "/api/v1/specs/{spec}", func(_ *grownServer, n int) any { return fields{name: with(n)} })
	}
	return []growthCase{
		create("ready", "{wide}", fields{"priority": 9}),
		create("with dependencies", "{wide}", fields{"dependencies": []string{"k40", "k50", "k60"}}),
		create("with a dependency", "{chain}", fields{"dependencies": []string{"k200"}}),
		change("title", func(n int) any { return unique(n) }),
		change("body", func(n int) any { return unique(n) }),
		change("dependencies", func(n int) any { return []string{"k40", "k50"} }),
		{"PATCH /api/v1/specs/{leaf} to depend on the chain's middle", func(s *grownServer, n int) func() error {
			leaf := s.by["owner"].newSpec(s.chain, unique(n), nil)
			return s.by["owner"].send("PATCH", leaf, fields{"dependencies": []string{fmt.Sprint("k", s.size.specs/2)}})
		}},
		{"PATCH /api/v1/specs/{k2} to depend on a new spec too", func(s *grownServer, n int) func() error {
			key := unique(n)
			s.by["owner"].newSpec(s.chain, key, nil)
			second := s.value(`SELECT id::text FROM specs WHERE mission_id = $1 AND key = 'k2'`, idOf(s.chain))
			return s.by["owner"].send("PATCH", "/api/v1/specs/"+second, fields{"dependencies": []string{"k1", key}})
		}},
		{"DELETE /api/v1/specs/{leaf}", func(s *grownServer, n int) func() error {
			return s.by["owner"].send("DELETE", s.by["owner"].newSpec(s.wide, unique(n), nil), nil)
		}},
		{"POST /api/v1/specs/{spec}/status, seven steps", func(s *grownServer, n int) func() error {
			spec := s.by["owner"].newSpec(s.wide, unique(n), nil)
			steps := []string{"blocked", "planned", "deferred", "planned", "in_progress", "completed", "in_progress"}
			return func() (err error) {
				for _, status := range steps {
					err = cmp.Or(err, s.by["owner"].send("POST", spec+"/status", fields{"status": status})())
				}
				return err
			}
		}},
	}
}

func growthOfAccounts() []growthCase {
	signIn := fields{"email": "few@example.com", "password": testPassword}
	return []growthCase{
		as("", "PATCH", "/api/v1/auth/me", func(*grownServer, int) any { return fields{"name": "Owner"} }),
		as("", "POST", "/api/v1/auth/login", func(*grownServer, int) any { return signIn }),
		as("", "POST", "/api/v1/auth/register", func(_ *grownServer, n int) any {
			return fields{"email": unique(n) + "@example.com", "password": testPassword}
		}),
		{"POST /api/v1/auth/refresh", func(s *grownServer, n int) func() error {
			token := s.anonymous().post("/api/v1/auth/login", signIn).text("refresh_token")
			return s.anonymous().send("POST", "/api/v1/auth/refresh", fields{"refresh_token": token})
		}},
		{"DELETE /api/v1/api-keys/{id}", func(s *grownServer, n int) func() error {
			key := s.by["few"].post("/api/v1/api-keys", fields{"name": "k", "scope": "read"}).text("id")
			return s.by["few"].send("DELETE", "/api/v1/api-keys/"+key, nil)
		}},
		{"POST /api/v1/users", func(s *grownServer, n int) func() error {
			return s.by["admin"].send("POST", "/api/v1/users",
				fields{"email": unique(n) + "@example.com", "password": testPassword, "role": "user"})
		}},
		{"PATCH /api/v1/users/{id}", func(s *grownServer, n int) func() error {
			return s.by["admin"].send("PATCH", "/api/v1/users/"+s.by["some"].user.ID, fields{"name": unique(n)})
		}},
	}
}

// held is the case of an action on a spec that was claimed.
func held(action string, body fields) growthCase {
	return growthCase{"POST /api/v1/specs/{spec}/" + action, func(s *grownServer, n int) func() error {
		spec, token := s.claimed()
		with := fields{"lease_token": token}
		for name, value := range body {
			with[name] = value
		}
		return s.agent.send("POST", spec+"/"+action, with)
	}}
}

func growthOfWork() (cases []growthCase) {
	for _, claim := range []fields{
		{}, {"tags": []string{"all"}}, {"tags": []string{"tenth"}}, {"tags": []string{"few"}}, {"tags": []string{"none"}},
		{"phase": "P3"}, {"phase": "none"}, {"phase": "P3", "tags": []string{"few"}},
	} {
		claim["agent"] = "bot"
		name, _ := json.Marshal(claim)
		cases = append(cases, growthCase{"POST /api/v1/missions/{wide}/claim " + string(name),
			func(s *grownServer, n int) func() error { return s.agent.send("POST", s.wide+"/claim", claim) }})
	}
	return append(cases, held("heartbeat", nil), held("progress", fields{"check": []int{1}, "message": "m"}),
		held("complete", fields{"override": "o"}), held("fail", fields{"reason": "r"}), held("release", nil),
		held("questions", fields{"question": "q"}), held("questions", fields{"question": "q", "park": true}),
		growthCase{"POST /api/v1/questions/{question}/answer", func(s *grownServer, n int) func() error {
			spec, token := s.claimed()
			a := s.agent.post(spec+"/questions", fields{"lease_token": token, "question": "q", "park": true})
			return s.by["owner"].send("POST", a.header.Get("Location")+"/answer", fields{"answer": "a"})
		}})
}

func growthOfTools() (cases []growthCase) {
	for _, call := range []struct {
		name      string
		arguments fields
	}{
		{"list_missions", fields{}}, {"list_missions", fields{"status": "archived"}},
		{"list_missions", fields{"q": "uncommon"}},
		{"next_spec", fields{"mission_id": "{wide}"}}, {"next_spec", fields{"mission_id": "{chain}"}},
		{"claim_spec", fields{"mission_id": "{wide}", "agent": "bot", "another": true}},
		{"show_spec", fields{"spec_id": "{spec}"}}, {"show_spec", fields{"spec_id": "{waiting}"}},
		{"search_specs", fields{"q": "common"}}, {"search_specs", fields{"q": "seldom"}},
		{"search_specs", fields{"q": "common", "mission_id": "{wide}"}},
	} {
		name, _ := json.Marshal(call.arguments)
		cases = append(cases, growthCase{"MCP " + call.name + " " + string(name), func(s *grownServer, n int) func() error {
			arguments := fields{}
			for name, value := range call.arguments {
				arguments[name] = s.path(value.(string), n)
			}
			return s.agent.sendTool(call.name, arguments)
		}})
	}
	for name, arguments := range map[string]fields{
		"report": {"check": []int{1}, "message": "m"}, "complete_spec": {"override": "o"}, "fail_spec": {"reason": "r"},
		"ask": {"question": "q"},
	} {
		cases = append(cases, growthCase{"MCP " + name, func(s *grownServer, n int) func() error {
			spec, token := s.claimed()
			with := fields{"spec_id": idOf(spec), "lease_token": token}
			for name, value := range arguments {
				with[name] = value
			}
			return s.agent.sendTool(name, with)
		}})
	}
	return slices.SortedFunc(slices.Values(cases), func(a, b growthCase) int { return cmp.Compare(a.name, b.name) })
}

func growthOfSweeps() (cases []growthCase) {
	sweep := func(name, prepare string, measured func(s *grownServer, ctx context.Context) error) growthCase {
		return growthCase{name, func(s *grownServer, n int) func() error {
			if prepare != "" {
				s.runSQL(prepare)
			}
			return func() error { return measured(s, s.t.Context()) }
		}}
	}
	return []growthCase{
		sweep("sweep: one expired lease", `
			UPDATE leases SET expires_at = clock_timestamp()
			WHERE spec_id = (SELECT spec_id FROM leases ORDER BY spec_id DESC LIMIT 1)`,
			func(s *grownServer, ctx context.Context) error { return s.sweepLeases(ctx) }),
		sweep("sweep: nothing to tidy", ``, func(s *grownServer, ctx context.Context) error { return s.tidy(ctx) }),
		sweep("sweep: nothing to prune", ``, func(s *grownServer, ctx context.Context) error { return s.prune(ctx) }),
		sweep("sweep: events of one mission to prune", `
			WITH old AS (SELECT id FROM missions WHERE name = 'Mission 1'),
			     events AS (UPDATE events SET at = at - interval '1 year' WHERE stream = (SELECT id FROM old))
			UPDATE heads SET oldest_at = now() - interval '1 year' WHERE stream = (SELECT id FROM old)`,
			func(s *grownServer, ctx context.Context) error { return s.prune(ctx) }),
		sweep("sweep: the totals, which may grow", ``,
			func(s *grownServer, ctx context.Context) error { return s.countTotals(ctx) }),
	}
}

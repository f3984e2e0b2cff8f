package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/pprof"
	"net/url"
	"path"
	runtimepprof "runtime/pprof"
	"strings"
	"time"
)

// handler answers a request or returns why it can't. It never writes an error
// itself.
type handler func(w http.ResponseWriter, r *http.Request, c *call) error

// bulkTime is how long imports and exports may take.
const bulkTime = 10 * time.Minute

// route is a line of the route table.
type route struct {
	pattern    string
	permission permission
	answer     handler
	traits     trait
}

// trait is something special about a route. Those of one are added up.
type trait uint

const (
	takesKey     trait = 1 << iota // its responses are kept under an Idempotency-Key
	needsNoKey                     // a POST that needs no key: the same body again changes nothing
	makesOne                       // a success is a 201
	holdsSecrets                   // its responses hold secrets
	movesBulk                      // it takes or gives whole missions
	mayWait                        // it may wait for work
	mayStream                      // it may be followed live, and bounds itself then
	boundsItself                   // it bounds itself
	isPage                         // it is for people: it takes the cookie and no token, and its errors are pages
)

// routes builds the route table: who may call, what, and who answers.
func (s *Server) routes() {
	s.mux = http.NewServeMux()

	s.handle(forGuests, "POST /api/v1/auth/register", serveBody(s, s.registerUser), holdsSecrets, makesOne)
	s.handle(forGuests, "POST /api/v1/auth/login", serveBody(s, s.login), holdsSecrets)
	s.handle(forGuests, "POST /api/v1/auth/refresh", serveWrite(s, s.refresh), holdsSecrets)
	s.handle(forSessions, "POST /api/v1/auth/logout", serveWrite(s, s.logout), holdsSecrets)
	s.handle(forAccounts, "GET /api/v1/auth/me", serveRead(s.getMe), holdsSecrets)
	s.handle(forSessions, "PATCH /api/v1/auth/me", serveWrite(s, s.updateMe), holdsSecrets)
	s.handle(forSessions, "POST /api/v1/auth/change-password", serveBody(s, s.changePassword), holdsSecrets)

	s.handle(forSessions, "POST /api/v1/api-keys", serveWrite(s, s.createKey), holdsSecrets, makesOne)
	s.handle(forAccounts, "GET /api/v1/api-keys", serveQuery(s.listKeys))
	s.handle(forSessions, "DELETE /api/v1/api-keys/{id}", serveWrite(s, s.deleteKey))

	s.handle(mayAdminister, "GET /api/v1/users", serveQuery(s.listUsers))
	s.handle(mayManage, "POST /api/v1/users", serveBody(s, s.createUser), makesOne)
	s.handle(mayManage, "PATCH /api/v1/users/{id}", serveBody(s, s.updateUser))

	s.handle(mayCreate, "POST /api/v1/missions", serveWrite(s, s.createMission), takesKey, makesOne)
	s.handle(forAccounts, "GET /api/v1/missions", serveQuery(s.listMissions))
	s.handle(mayRead, "GET /api/v1/missions/{id}", serveRead(s.getMission))
	s.handle(mayEdit, "PATCH /api/v1/missions/{id}", serveWrite(s, s.updateMission))
	s.handle(mayOwn, "DELETE /api/v1/missions/{id}", serveWrite(s, s.deleteMission))
	s.handle(mayEdit, "POST /api/v1/missions/{id}/start", serveWrite(s, stepMission("start")), takesKey)
	s.handle(mayEdit, "POST /api/v1/missions/{id}/pause", serveWrite(s, stepMission("pause")), takesKey)
	s.handle(mayEdit, "POST /api/v1/missions/{id}/resume", serveWrite(s, stepMission("resume")), takesKey)
	s.handle(mayEdit, "POST /api/v1/missions/{id}/complete", serveWrite(s, stepMission("complete")), takesKey)
	s.handle(mayEdit, "POST /api/v1/missions/{id}/cancel", serveWrite(s, stepMission("cancel")), takesKey)
	s.handle(mayEdit, "POST /api/v1/missions/{id}/archive", serveWrite(s, stepMission("archive")), takesKey)
	s.handle(mayRead, "GET /api/v1/missions/{id}/members", serveQuery(s.listMembers))
	s.handle(mayOwn, "PUT /api/v1/missions/{id}/members", serveWrite(s, s.setMember))
	s.handle(mayOwn, "DELETE /api/v1/missions/{id}/members/{user_id}", serveWrite(s, s.removeMember))

	s.handle(mayEdit, "POST /api/v1/missions/{id}/import", s.importSpecs, movesBulk, needsNoKey)
	s.handle(mayRead, "GET /api/v1/missions/{id}/export", withoutQuery(s.exportSpecs), movesBulk)
	s.handle(mayRead, "GET /api/v1/missions/{id}/graph", s.getGraph)
	s.handle(mayRead, "GET /api/v1/missions/{id}/events", s.listMissionEvents, mayStream)
	s.handle(forAccounts, "GET /api/v1/events", s.listOwnEvents, mayStream)
	s.handle(mayWork, "POST /api/v1/missions/{id}/logs", serveBody(s, s.appendLogs), takesKey, makesOne)
	s.specRoutes()

	s.handle(forAgents, "POST /mcp", withoutQuery(s.serveMCP), mayWait)
	s.handle(forAnyone, "GET /api/v1/openapi.json", withoutQuery(s.getOpenAPI))
	s.handle(forAnyone, "GET /api/v1/docs", withoutQuery(s.getDocs))

	s.handle(forProbes, "GET /internal/health/live", getLive)
	s.handle(forProbes, "GET /internal/health/ready", s.getReady)
	s.internalRoutes()
	s.socketRoutes()
	s.pageRoutes()
}

// specRoutes adds the specs, and the work on them.
func (s *Server) specRoutes() {
	s.handle(mayEdit, "POST /api/v1/missions/{id}/specs", serveWrite(s, s.createSpec), takesKey, makesOne)
	s.handle(forAccounts, "GET /api/v1/specs", serveQuery(s.listSpecs))
	s.handle(mayRead, "GET /api/v1/specs/{id}", withoutQuery(s.getSpec))
	s.handle(mayEdit, "PATCH /api/v1/specs/{id}", serveWrite(s, s.updateSpec))
	s.handle(mayEdit, "DELETE /api/v1/specs/{id}", serveWrite(s, s.deleteSpec))
	s.handle(mayRead, "GET /api/v1/specs/{id}/explain", serveRead(s.explainSpec))
	s.handle(mayRead, "GET /api/v1/specs/{id}/attempts", serveQuery(s.listAttempts))
	s.handle(mayEdit, "POST /api/v1/specs/{id}/status", serveWrite(s, s.setStatus), takesKey)
	s.handle(mayReview, "POST /api/v1/specs/{id}/review", serveWrite(s, s.reviewSpec), takesKey)

	s.handle(mayEdit, "POST /api/v1/missions/{id}/claim", serveBody(s, s.claimSpec), takesKey, mayWait, holdsSecrets)
	s.handle(mayWork, "POST /api/v1/specs/{id}/heartbeat", serveWrite(s, s.heartbeat), takesKey, holdsSecrets)
	s.handle(mayWork, "POST /api/v1/specs/{id}/progress", serveWrite(s, s.progressSpec), takesKey)
	s.handle(mayEdit, "POST /api/v1/specs/{id}/complete", serveWrite(s, s.completeSpec), takesKey)
	s.handle(mayWork, "POST /api/v1/specs/{id}/fail", serveWrite(s, s.failSpec), takesKey)
	s.handle(mayEdit, "POST /api/v1/specs/{id}/release", serveWrite(s, s.releaseSpec), takesKey)

	s.handle(mayWork, "POST /api/v1/specs/{id}/questions", serveWrite(s, s.askQuestion), takesKey, makesOne)
	s.handle(forAccounts, "GET /api/v1/questions", serveQuery(s.listQuestions))
	s.handle(mayRead, "GET /api/v1/questions/{id}", serveQuery(s.getQuestion), mayWait)
	s.handle(mayAnswer, "POST /api/v1/questions/{id}/answer", serveWrite(s, s.answerQuestion), takesKey)
}

// internalRoutes adds what is for operators: for admins on the public port, or
// for whoever reaches INTERNAL_ADDR, and then on the public port not at all.
func (s *Server) internalRoutes() {
	mux, operator := s.mux, mayAdminister
	if s.config.InternalAddr != "" {
		s.internal = http.NewServeMux()
		mux, operator = s.internal, forProbes
		s.register(mux, route{"GET /internal/health/live", forProbes, getLive, 0})
		s.register(mux, route{"GET /internal/health/ready", forProbes, s.getReady, 0})
	}
	s.register(mux, route{"GET /internal/health", forProbes, s.getHealth, 0})
	s.register(mux, route{"GET /internal/connections", operator, serveRead(s.listConnections), 0})
	s.register(mux, route{"GET /internal/debug/pprof/", operator, profile, boundsItself})
	s.operatorRoutes(mux, operator)
}

// profile is GET /internal/debug/pprof/…
func profile(w http.ResponseWriter, r *http.Request, _ *call) error {
	const prefix = "/internal/debug/pprof/"
	switch name := r.URL.Path[len(prefix):]; name {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	case "":
		pprof.Index(w, r)
	default:
		if runtimepprof.Lookup(name) == nil {
			return errNotFound()
		}
		pprof.Handler(name).ServeHTTP(w, r)
	}
	return nil
}

// limitsOf are the bounds of a request to a route with these traits.
func (s *Server) limitsOf(t trait) limits {
	if t&boundsItself != 0 {
		return limits{}
	}
	l := limits{body: s.config.MaxBodyBytes, time: s.config.RequestTimeout, unlessStream: t&mayStream != 0}
	if t&movesBulk != 0 {
		l = limits{body: s.config.MaxImportBytes, time: bulkTime, stall: s.config.RequestTimeout}
	}
	if t&mayWait != 0 {
		l.time += maxWait * time.Second
	}
	return l
}

// limits bounds what one request may take of the server.
type limits struct {
	body int64         // bytes of its body
	time time.Duration // until the answer is complete; 0: the route bounds itself

	stall        time.Duration // that an upload may pause; 0: no bound of its own
	unlessStream bool          // time doesn't count for server-sent events
}

// bound puts the limits on a request: a deadline on its context, on reading
// its body and on writing the answer. The read deadline is lifted once the
// body is read, since net/http would take its passing for a lost client.
// The returned function releases the context.
func (l limits) bound(w http.ResponseWriter, r *http.Request) (*http.Request, context.CancelFunc) {
	r.Body = http.MaxBytesReader(w, r.Body, l.body)
	control := http.NewResponseController(w)
	if r.ContentLength != 0 { // also where nobody reads the body: net/http will
		_ = control.SetReadDeadline(time.Now().Add(max(l.time, headerTimeout))) // a recorder in a test has none
	}
	if l.time == 0 || l.unlessStream && wantsEventStream(r) {
		return r, func() {}
	}
	if r.ContentLength != 0 {
		r.Body = &timedBody{ReadCloser: r.Body, control: control, end: time.Now().Add(l.time), stall: l.stall}
	}
	_ = control.SetWriteDeadline(time.Now().Add(l.time + 10*time.Second))
	ctx, cancel := context.WithTimeout(r.Context(), l.time)
	return r.WithContext(ctx), cancel
}

// timedBody is a body that has to be read by an end, and of which each read
// may stall for so long. The deadline is lifted once all is read.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	end     time.Time
	stall   time.Duration // 0: as long as there is time
}

func (b *timedBody) Read(p []byte) (int, error) {
	deadline := b.end
	if next := time.Now().Add(b.stall); b.stall > 0 && next.Before(deadline) {
		deadline = next
	}
	_ = b.control.SetReadDeadline(deadline) // a recorder in a test has none
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// handle adds a route to the public port.
func (s *Server) handle(p permission, pattern string, h handler, traits ...trait) {
	rt := route{pattern: pattern, permission: p, answer: h}
	for _, t := range traits {
		rt.traits |= t
	}
	s.register(s.mux, rt)
}

// register adds a route. It is the only way to do so, and it can't be done
// without a permission.
func (s *Server) register(mux *http.ServeMux, rt route) {
	if rt.permission.name == "" {
		panic("the route " + rt.pattern + " has no permission")
	}
	if rt.traits&isPage != 0 {
		s.pages = append(s.pages, rt)
	} else {
		s.table = append(s.table, rt)
	}
	bounds := s.limitsOf(rt.traits)
	mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r)
		c.pattern, c.traits, c.permission, c.unread = rt.pattern, rt.traits, rt.permission, s.unread
		r, cancel := bounds.bound(w, r)
		defer cancel()
		err := s.admit(w, r, c)
		if err == nil {
			err = rt.answer(w, r, c)
		}
		if err != nil {
			s.fail(w, r, c, err)
		}
	})
}

// fail answers with an error. For a client that has gone only the log is told.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, c *call, err error) {
	var e *apiError
	if !errors.Is(err, context.Canceled) || r.Context().Err() == nil {
		e = s.hideFrom(r.Context(), c, asProblem(err))
	} else {
		e = problem(statusClientGone, "client_gone", "The client closed the connection before the response was ready.")
	}
	c.cause = e.cause
	writeProblem(w, r, c, e)
}

// statusClientGone is what the access log says of a request whose client has
// gone, as nginx does.
const statusClientGone = 499

// readKey reads the Idempotency-Key of a POST. Routes that hand out secrets,
// whose responses aren't kept, and tools, which have no place for a key of their
// own, refuse it.
func (c *call) readKey(r *http.Request) error {
	given := r.Header.Values("Idempotency-Key")
	if r.Method != http.MethodPost || len(given) == 0 || c.traits&needsNoKey != 0 {
		return nil
	}
	if c.traits&takesKey == 0 {
		return problem(http.StatusBadRequest, "idempotency_key_not_supported",
			"This route doesn't accept an Idempotency-Key: its responses aren't stored.")
	}
	invisible := func(c rune) bool { return c <= ' ' || c >= 0x7f }
	if len(given) > 1 || given[0] == "" || len(given[0]) > 255 || strings.ContainsFunc(given[0], invisible) {
		return problem(http.StatusBadRequest, "invalid_idempotency_key",
			"Send one Idempotency-Key of 1 to 255 visible ASCII characters.")
	}
	c.key = given[0]
	return nil
}

// dispatch hands requests to the routes; what none of them takes gets a
// problem instead of the plain text of http.ServeMux. A person who has put a slash
// behind a page's address is led to the page.
func (s *Server) dispatch(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/mcp/" { // as many people write it in their clients' settings
			r.URL.Path = "/mcp"
		}
		h, pattern := mux.Handler(r)
		if pattern == "" {
			var cancel context.CancelFunc
			r, cancel = s.limitsOf(0).bound(w, r)
			defer cancel()
		}
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			writeProblem(w, r, callOf(r), errNotFound()) // http.ServeMux would redirect, in HTML
			return
		}
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		if to := withoutSlash(r.URL); to != "" && r.Method == http.MethodGet && wantsPage(r) {
			seeOther(w, to)
			return
		}
		var miss missRecorder
		h.ServeHTTP(&miss, r)
		if miss.status != http.StatusMethodNotAllowed {
			writeProblem(w, r, callOf(r), errNotFound())
			return
		}
		writeProblem(w, r, callOf(r), problem(http.StatusMethodNotAllowed, "method_not_allowed",
			"This path takes %s.", miss.header.Get("Allow")).withHeader("Allow", miss.header.Get("Allow")))
	})
}

// withoutSlash is an address without the slash that its path ends in, or "".
func withoutSlash(u *url.URL) string {
	short := url.URL{Path: strings.TrimSuffix(u.Path, "/"), RawQuery: u.RawQuery}
	if short.Path == u.Path {
		return ""
	}
	return localPath(short.String())
}

// missRecorder sees what http.ServeMux would say to a request without a route.
type missRecorder struct {
	status int
	header http.Header
}

func (m *missRecorder) Header() http.Header {
	if m.header == nil {
		m.header = make(http.Header)
	}
	return m.header
}

func (m *missRecorder) WriteHeader(status int) { m.status = status }

func (m *missRecorder) Write(p []byte) (int, error) { return len(p), nil }

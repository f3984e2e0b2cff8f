package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/pprof"
	"path"
	runtimepprof "runtime/pprof"
	"strings"
	"time"
)

// handler answers a request or returns why it can't. It never writes an error
// itself.
type handler func(w http.ResponseWriter, r *http.Request) error

// Deadlines of routes that take longer than REQUEST_TIMEOUT.
const bulkTime = 10 * time.Minute // import and export

// routes builds the route table: who may call, what, and who answers.
func (s *Server) routes() {
	s.mux = http.NewServeMux()

	s.handle(guest, "POST /api/v1/auth/register", s.register)
	s.handle(guest, "POST /api/v1/auth/login", s.login)
	s.handle(guest, "POST /api/v1/auth/refresh", s.refresh)
	s.handle(session, "POST /api/v1/auth/logout", s.logout)
	s.handle(signedIn, "GET /api/v1/auth/me", s.getMe)
	s.handle(session, "PATCH /api/v1/auth/me", s.updateMe)
	s.handle(session, "POST /api/v1/auth/change-password", s.changePassword)

	s.handle(session, "POST /api/v1/api-keys", s.createKey)
	s.handle(signedIn, "GET /api/v1/api-keys", s.listKeys)
	s.handle(session, "DELETE /api/v1/api-keys/{id}", s.deleteKey)

	s.handle(admin, "GET /api/v1/users", s.listUsers)
	s.handle(manager, "POST /api/v1/users", s.createUser)
	s.handle(manager, "PATCH /api/v1/users/{id}", s.updateUser)

	s.handle(maker, "POST /api/v1/missions", s.createMission)
	s.handle(signedIn, "GET /api/v1/missions", s.listMissions)
	s.handle(reader, "GET /api/v1/missions/{id}", s.getMission)
	s.handle(editor, "PATCH /api/v1/missions/{id}", s.updateMission)
	s.handle(owner, "DELETE /api/v1/missions/{id}", s.deleteMission)
	s.handle(editor, "POST /api/v1/missions/{id}/start", s.actMission("start"))
	s.handle(editor, "POST /api/v1/missions/{id}/pause", s.actMission("pause"))
	s.handle(editor, "POST /api/v1/missions/{id}/resume", s.actMission("resume"))
	s.handle(editor, "POST /api/v1/missions/{id}/complete", s.actMission("complete"))
	s.handle(editor, "POST /api/v1/missions/{id}/cancel", s.actMission("cancel"))
	s.handle(editor, "POST /api/v1/missions/{id}/archive", s.actMission("archive"))
	s.handle(reader, "GET /api/v1/missions/{id}/members", s.listMembers)
	s.handle(owner, "PUT /api/v1/missions/{id}/members", s.setMember)
	s.handle(owner, "DELETE /api/v1/missions/{id}/members/{user_id}", s.removeMember)

	s.handleWithin(s.bulk(), editor, "POST /api/v1/missions/{id}/import", s.importSpecs)
	s.handleWithin(s.bulk(), reader, "GET /api/v1/missions/{id}/export", s.exportSpecs)
	s.handle(reader, "GET /api/v1/missions/{id}/graph", s.getGraph)
	s.handleWithin(s.streaming(), reader, "GET /api/v1/missions/{id}/events", s.listMissionEvents)
	s.handleWithin(s.streaming(), signedIn, "GET /api/v1/events", s.listOwnEvents)
	s.handle(editor, "POST /api/v1/missions/{id}/logs", s.appendLogs)

	s.handle(editor, "POST /api/v1/missions/{id}/specs", s.createSpec)
	s.handle(signedIn, "GET /api/v1/specs", s.listSpecs)
	s.handle(reader, "GET /api/v1/specs/{id}", s.getSpec)
	s.handle(editor, "PATCH /api/v1/specs/{id}", s.updateSpec)
	s.handle(editor, "DELETE /api/v1/specs/{id}", s.deleteSpec)
	s.handle(reader, "GET /api/v1/specs/{id}/explain", s.explainSpec)
	s.handle(editor, "POST /api/v1/specs/{id}/status", s.setStatus)

	s.handleWithin(s.waiting(), editor, "POST /api/v1/missions/{id}/claim", s.claimSpec)
	s.handle(editor, "POST /api/v1/specs/{id}/heartbeat", s.heartbeat)
	s.handle(editor, "POST /api/v1/specs/{id}/progress", s.progressSpec)
	s.handle(editor, "POST /api/v1/specs/{id}/complete", s.completeSpec)
	s.handle(editor, "POST /api/v1/specs/{id}/fail", s.failSpec)
	s.handle(editor, "POST /api/v1/specs/{id}/release", s.releaseSpec)

	s.handleWithin(s.waiting(), agent, "POST /mcp", s.serveMCP)
	s.handle(public, "GET /api/v1/openapi.json", s.getOpenAPI)
	s.handle(public, "GET /api/v1/docs", s.getDocs)
	s.handle(public, "GET /{$}", s.getRoot)

	s.handle(probe, "GET /internal/health/live", s.getLive)
	s.handle(probe, "GET /internal/health/ready", s.getReady)
	s.internalRoutes()
	s.socketRoutes()
}

// internalRoutes adds what is for operators: for admins on the public port, or
// for whoever reaches INTERNAL_ADDR, and then on the public port not at all.
func (s *Server) internalRoutes() {
	anyone, operator := probe, admin
	if public := s.mux; s.config.InternalAddr != "" {
		s.internal = http.NewServeMux()
		s.mux, operator = s.internal, probe
		defer func() { s.mux = public }()
		s.handle(anyone, "GET /internal/health/live", s.getLive)
		s.handle(anyone, "GET /internal/health/ready", s.getReady)
	}
	s.handle(anyone, "GET /internal/health", s.getHealth)
	s.handle(operator, "GET /internal/connections", s.listConnections)
	s.handleWithin(limits{}, operator, "GET /internal/debug/pprof/", profile)
	s.metricsRoutes(operator)
}

// profile is GET /internal/debug/pprof/…
func profile(w http.ResponseWriter, r *http.Request) error {
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

// usual bounds a request as the configuration says.
func (s *Server) usual() limits {
	return limits{body: s.config.MaxBodyBytes, time: s.config.RequestTimeout}
}

// bulk bounds imports and exports.
func (s *Server) bulk() limits {
	return limits{body: s.config.MaxImportBytes, time: bulkTime, stall: s.config.RequestTimeout}
}

// streaming bounds what may be followed live, and then bounds itself.
func (s *Server) streaming() limits {
	return limits{body: s.config.MaxBodyBytes, time: s.config.RequestTimeout, unlessStream: true}
}

// waiting bounds claims, which may wait for work.
func (s *Server) waiting() limits {
	return limits{body: s.config.MaxBodyBytes, time: s.config.RequestTimeout + maxWait*time.Second}
}

// handle registers a route with the usual bounds.
func (s *Server) handle(p permission, pattern string, h handler) {
	s.handleWithin(s.usual(), p, pattern, h)
}

// handleWithin registers a route. It is the only way to do so, and it can't be
// done without a permission.
func (s *Server) handleWithin(l limits, p permission, pattern string, h handler) {
	if p.name == "" {
		panic("the route " + pattern + " has no permission")
	}
	s.table = append(s.table, route{pattern, p})
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r)
		c.pattern = pattern
		r, cancel := l.bound(w, r)
		defer cancel()
		err := s.admit(w, r, p)
		if err == nil {
			err = refuseIdempotencyKey(r)
		}
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.fail(w, r, p, err)
		}
	})
}

// fail answers with an error. A client that has gone is told nothing at all.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, p permission, err error) {
	e := s.hideFrom(r.Context(), callOf(r), p, asProblem(err))
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		e = problem(statusClientGone, "client_gone", "The client went before the answer was ready.")
	}
	callOf(r).cause = e.cause
	writeProblem(w, r, e)
}

// statusClientGone is what the access log says of a request whose client has
// gone, as nginx does.
const statusClientGone = 499

// refuseIdempotencyKey refuses the header on the POSTs that hand out secrets,
// whose answers aren't kept, and for tools, which have no place for a key of
// their own. Imports are idempotent by what they hold, and all
// other POSTs take it.
func refuseIdempotencyKey(r *http.Request) error {
	if r.Method != http.MethodPost || r.Header.Get("Idempotency-Key") == "" {
		return nil
	}
	for _, prefix := range []string{"/api/v1/auth/", "/api/v1/api-keys", "/api/v1/users", "/mcp"} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return problem(http.StatusBadRequest, "idempotency_key_not_supported", "This route takes no Idempotency-Key: its answers aren't kept.")
		}
	}
	return nil
}

// route is a line of the route table, for those who walk it.
type route struct {
	pattern    string
	permission permission
}

// dispatch hands requests to the routes; what none of them takes gets a
// problem instead of the plain text of http.ServeMux.
func (s *Server) dispatch(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern == "" {
			var cancel context.CancelFunc
			r, cancel = s.usual().bound(w, r)
			defer cancel()
		}
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			writeProblem(w, r, errNotFound()) // http.ServeMux would redirect, in HTML
			return
		}
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var miss missRecorder
		h.ServeHTTP(&miss, r)
		if miss.status != http.StatusMethodNotAllowed {
			writeProblem(w, r, errNotFound())
			return
		}
		writeProblem(w, r, problem(http.StatusMethodNotAllowed, "method_not_allowed",
			"This path takes %s.", miss.header.Get("Allow")).withHeader("Allow", miss.header.Get("Allow")))
	})
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

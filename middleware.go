package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"tachikoma/internal/clientaddr"
	"tachikoma/internal/ratelimit"
)

// call is what the server knows about one request. The middleware makes it,
// admission and the adapter of the route complete it before the handler runs,
// and the access log reads it at the end. A tool call fills in what the tool's
// arguments name. It belongs to the request's goroutine.
type call struct {
	requestID  string
	addr       netip.Addr
	local      bool            // the Host header names this machine alone
	pattern    string          // of the route; "" where none matched
	traits     trait           // of the route
	permission permission      // that the route requires
	token      string          // the credential; "" where nobody is signed in
	account    account         // that it belongs to
	admitted   time.Time       // when the account was last looked up
	target     target          // what the path names
	ifMatch    []string        // the If-Match headers
	key        string          // the Idempotency-Key; "" without one
	hash       []byte          // of method, path, query and body, where the route takes a key
	cancelled  <-chan struct{} // closed when the client cancels the tool call; nil on other routes
	cause      error           // of a failure, for the access log

	unread   *ratelimit.Slots // the server's
	tries    bool             // it will change nothing, so it ends when its client leaves
	mustSend bool             // its response is sent, whatever waits; see holdResponse
}

type callKey struct{}

// callOf returns the request's call, for the code around the handlers, which get
// it as an argument. Every request that came through the middleware has one.
func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// middleware wraps the routes in what every request gets, outermost first:
// identity, access log, recovery, headers, CORS.
func (s *Server) middleware(routes http.Handler) http.Handler {
	return s.identify(s.logAccess(s.recoverPanics(s.setHeaders(s.allowOrigins(routes)))))
}

// identify gives the request an id, or keeps the client's if that is sane, and
// finds the client's address.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !saneRequestID(id) {
			id = newID()
		}
		w.Header().Set("X-Request-Id", id)
		c := &call{requestID: id, addr: clientaddr.Of(r, s.config.TrustedProxies), local: localHost(r.Host)}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}

// localHost reports whether a Host header names this machine alone, whatever the
// port. The pages of a site that has its own name lead here don't.
func localHost(header string) bool {
	if host, _, err := net.SplitHostPort(header); err == nil {
		header = host
	}
	return loopbackHost(strings.Trim(header, "[]"))
}

// saneRequestID accepts 1 to 64 letters, digits, dots, dashes and underscores,
// but nothing that looks like a secret, which a client may have sent by mistake.
func saneRequestID(id string) bool {
	return id != "" && len(id) <= 64 && !looksSecret(id) && !strings.ContainsFunc(id, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// saneTraceparent accepts what W3C Trace Context allows in this header: fields of
// lower-case hexadecimal digits, separated by dashes.
func saneTraceparent(parent string) bool {
	return parent != "" && len(parent) <= 128 && strings.Trim(parent, "0123456789abcdef-") == ""
}

// recorder records what was sent, for logAccess and recoverPanics.
type recorder struct {
	http.ResponseWriter
	status int // 0 until the header is sent
	bytes  int64
}

// Unwrap lets http.ResponseController reach the connection.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(p)
	rec.bytes += int64(n)
	return n, err
}

// logAccess writes one line a request, counts it, and logs the cause of a
// failure with it. Tokens and query strings are never logged.
func (s *Server) logAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		c, start := callOf(r), time.Now()
		s.counters.requestStarted()
		defer func() {
			elapsed := time.Since(start)
			s.counters.requestDone(r.Method, c.pattern, rec.status, elapsed)
			attrs := []slog.Attr{
				slog.String("method", r.Method),
				slog.String("route", c.pattern),
				slog.Int("status", rec.status),
				slog.Int64("bytes", rec.bytes),
				slog.Duration("duration", elapsed),
				slog.String("request_id", c.requestID),
			}
			if c.addr.IsValid() {
				attrs = append(attrs, slog.String("addr", c.addr.String()))
			}
			if c.account.userID != "" {
				attrs = append(attrs, slog.String("account", c.account.userID))
			}
			if parent := r.Header.Get("Traceparent"); saneTraceparent(parent) {
				attrs = append(attrs, slog.String("traceparent", parent))
			}
			level := slog.LevelInfo
			if c.cause != nil {
				attrs = append(attrs, slog.String("error", c.cause.Error()))
			}
			if rec.status == http.StatusInternalServerError || rec.status > 500 && c.cause != nil {
				level = slog.LevelError // a probe that finds the server not ready isn't one
			}
			s.log.LogAttrs(r.Context(), level, "request", attrs...)
		}()
		next.ServeHTTP(rec, r)
	})
}

// recoverPanics turns a panic into a 500 and a log line with its stack. Once
// bytes are out the connection is aborted instead, as http.ErrAbortHandler asks.
func (s *Server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.ErrorContext(r.Context(), "panic", "panic", p, "request_id", callOf(r).requestID,
				"stack", string(debug.Stack()))
			if rec, ok := w.(*recorder); ok && rec.status != 0 {
				panic(http.ErrAbortHandler)
			}
			writeProblem(w, r, callOf(r), errInternal())
		}()
		next.ServeHTTP(w, r)
	})
}

// setHeaders sets what every response carries.
func (s *Server) setHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if s.draining.Load() {
			w.Header().Set("Connection", "close") // the next request goes elsewhere
		}
		w.Header().Set("Cache-Control", "no-store") // unless a handler says otherwise
		next.ServeHTTP(w, r)
	})
}

// allowOrigins answers CORS for the origins in CORS_ALLOWED_ORIGINS, always
// without credentials: browsers send their token in the Authorization header.
func (s *Server) allowOrigins(next http.Handler) http.Handler {
	if len(s.config.CORSAllowedOrigins) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, origin := w.Header(), r.Header.Get("Origin")
		header.Add("Vary", "Origin")
		if !slices.Contains(s.config.CORSAllowedOrigins, origin) {
			next.ServeHTTP(w, r)
			return
		}
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers",
			"ETag, Location, Mcp-Session-Id, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			header.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
			header.Set("Access-Control-Allow-Headers",
				"Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, Mcp-Method, Mcp-Name, "+
					"Mcp-Protocol-Version, Mcp-Session-Id, X-Request-Id")
			header.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

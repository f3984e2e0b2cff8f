package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"tachikoma/internal/certfile"
	"tachikoma/internal/pgserver"
	"tachikoma/internal/sdnotify"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes

	maxStartPause = 5 * time.Second // between two tries to reach the database at the start
	startTry      = time.Minute     // for one try, as systemd is told

	// closeTime is how long close may take: for the pool, then for the private Postgres.
	closeTime = poolTime + pgserver.StopTimeout
	poolTime  = 5 * time.Second
)

// Server is the Tachikoma API server. newServer makes one, run serves until
// its context ends; run may be called once.
type Server struct {
	serverState
	mux      *http.ServeMux
	internal *http.ServeMux // what INTERNAL_ADDR serves; nil without it
	table    []route        // every route there is, but for
	pages    []route        // those of pages
	tools    []tool         // for agents, at POST /mcp
	docs     docs
	postgres *pgserver.Server
	listener net.Listener
	foreign  http.CrossOriginProtection // of pages against what other sites send
	tls      *certfile.Certificate
	systemd  sdnotify.Notifier
	work     sync.WaitGroup // the goroutines that open starts
	stopWork context.CancelFunc
}

// newServer listens on the port, so that a second server on it fails at once, and
// sets up everything that needs no database.
func newServer(config Config, log *slog.Logger) (*Server, error) {
	s := &Server{serverState: newState(config, log), docs: theDocs()}
	var err error
	if config.TLSCertFile != "" {
		if s.tls, err = certfile.New(config.TLSCertFile, config.TLSKeyFile, log); err != nil {
			return nil, err
		}
	}
	if s.listener, err = net.Listen("tcp", config.addr()); err != nil {
		return nil, fmt.Errorf("listening on %s (HOST, PORT): %w", config.addr(), err)
	}
	s.logs = &logWriter{Server: s}
	s.tools = s.agentTools()
	s.routes()
	return s, nil
}

// addr is where the server listens, as host:port.
func (s *Server) addr() string { return s.listener.Addr().String() }

// url is where a client on this machine reaches the server.
func (s *Server) url() string {
	scheme, host := "http", s.config.Host
	if s.tls != nil {
		scheme = "https"
	}
	_, port, _ := net.SplitHostPort(s.addr()) // a listener's address always has one
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// router is the handler of all routes, with the middleware around them.
func (s *Server) router() http.Handler { return s.middleware(s.dispatch(s.mux)) }

// open opens the database, a private one without DATABASE_URL, and starts the
// background goroutines. It waits for a database that can't be reached yet, or
// accepts no writes. When it returns nil, requests can be served.
func (s *Server) open(ctx context.Context) error {
	url, err := s.databaseURL(ctx)
	if err != nil {
		return err
	}
	if err := s.awaitDatabase(ctx, url); err != nil {
		return err
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stopWork = stop
	s.work.Go(func() { s.feed.run(working) })
	s.work.Go(func() { s.hub.pump(working) })
	s.work.Go(func() { s.sweep(working) })
	s.work.Go(func() { s.publishFigures(working) })
	s.opened.Store(true)
	return nil
}

// awaitDatabase repeats openDatabase until that succeeds, or fails in a way that
// waiting can't help. It logs once what it waits for.
func (s *Server) awaitDatabase(ctx context.Context, url string) error {
	for wait := maxStartPause / 20; ; wait = min(2*wait, maxStartPause) {
		err := s.openDatabase(ctx, url)
		trouble := passing(err)
		if before := s.trouble.set(trouble); trouble != noTrouble && trouble != before {
			s.log.Warn("waiting for the database", "reason", trouble.code(), "error", advise(err))
		}
		if trouble == noTrouble || ctx.Err() != nil {
			return err
		}
		s.systemd.Waiting(trouble.code(), wait+startTry)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		case <-s.postgresEnded():
			return errPostgresEnded
		}
	}
}

var errPostgresEnded = errors.New("the private Postgres has ended; its log says why")

// postgresEnded is closed when the private Postgres has ended, if there is one.
func (s *Server) postgresEnded() <-chan struct{} {
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Done()
}

// openDatabase migrates the database and connects to it.
func (s *Server) openDatabase(ctx context.Context, url string) error {
	if _, err := migrate(ctx, url, s.log); err != nil {
		return err
	}
	if err := s.openState(ctx, url); err != nil {
		return err
	}
	if err := s.ensureAdmin(ctx); err != nil {
		s.db.Close()
		s.db = nil
		return fmt.Errorf("making the account of ADMIN_EMAIL: %w", err)
	}
	return nil
}

// databaseURL returns DATABASE_URL, or that of a private Postgres, which it starts.
func (s *Server) databaseURL(ctx context.Context) (string, error) {
	if s.config.DatabaseURL != "" {
		return s.config.DatabaseURL, nil
	}
	var err error
	if s.postgres, err = pgserver.Start(ctx, s.log, s.config.DataDir); err != nil {
		return "", err
	}
	return s.postgres.URL(pgserver.Database), nil
}

// run serves until ctx ends, then drains and stops all that it started. It calls
// ready once, when requests can be served.
func (s *Server) run(ctx context.Context, ready func()) error {
	public := s.httpServer(s.router())
	public.RegisterOnShutdown(func() { close(s.stopping) })
	failed := make(chan error, 2)
	go func() { failed <- s.serve(public) }()
	var internal *http.Server
	if s.config.InternalAddr != "" {
		var err error
		if internal, err = s.serveInternal(failed); err != nil {
			return errors.Join(err, public.Close())
		}
	}
	s.systemd.Starting()
	err := s.open(ctx)
	if ctx.Err() != nil { // asked to stop before it was up: not a failure
		return s.drain(public, internal, 0)
	}
	if err == nil {
		s.systemd.Ready(s.url())
		ready()
		select {
		case <-ctx.Done():
		case err = <-failed:
		case <-s.postgresEnded():
			err = errPostgresEnded
		}
	}
	if err != nil { // without the drain delay
		return errors.Join(err, s.drain(public, internal, 0))
	}
	return s.drain(public, internal, s.config.DrainDelay)
}

// serve answers requests on the main listener, with TLS if configured.
func (s *Server) serve(public *http.Server) error {
	if s.tls != nil {
		public.TLSConfig = s.tls.Config()
		return public.ServeTLS(s.listener, "", "")
	}
	return public.Serve(s.listener)
}

// serveInternal answers /internal without credentials on INTERNAL_ADDR.
func (s *Server) serveInternal(failed chan<- error) (*http.Server, error) {
	listener, err := net.Listen("tcp", s.config.InternalAddr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s (INTERNAL_ADDR): %w", s.config.InternalAddr, err)
	}
	if addr := listener.Addr().(*net.TCPAddr); !addr.IP.IsLoopback() {
		s.log.Warn("INTERNAL_ADDR isn't loopback: anyone who can reach it needs no credential", "addr", addr)
	}
	internal := s.httpServer(s.middleware(s.dispatch(s.internal)))
	go func() { failed <- internal.Serve(listener) }()
	return internal, nil
}

// httpServer sets no WriteTimeout, which would cut streams: limits.bound sets
// deadlines for each request.
func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: min(headerTimeout, s.config.RequestTimeout),
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// drain stops the server in the order that loses nothing: it becomes unready and
// its responses ask clients to close; then, after the delay, it ends the requests;
// then what they use.
// See docs/design.md, Drain.
func (s *Server) drain(public, internal *http.Server, delay time.Duration) error {
	s.draining.Store(true)
	s.systemd.Stopping(delay + s.config.ShutdownTimeout + closeTime)
	s.log.Info("stopping", "drain_delay", delay)
	time.Sleep(delay)

	ctx, cancel := context.WithTimeout(context.Background(), s.config.ShutdownTimeout)
	defer cancel()
	var closing sync.WaitGroup
	closing.Go(func() { s.sockets.closeAll(ctx) })
	var errs []error
	if err := public.Shutdown(ctx); err != nil {
		errs = append(errs, fmt.Errorf("some requests outlasted SHUTDOWN_TIMEOUT: %w", err), public.Close())
	}
	closing.Wait()
	if internal != nil {
		errs = append(errs, internal.Close())
	}
	return errors.Join(append(errs, s.close())...)
}

// close stops what open has started. It waits at most poolTime for goroutines that
// still use a connection and so keep the pool from closing.
func (s *Server) close() error {
	if s.stopWork != nil {
		s.stopWork()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.work.Wait()
		if s.db != nil {
			s.db.Close()
		}
	}()
	select {
	case <-closed:
	case <-time.After(poolTime / 2):
		s.conns.cut() // the database may have stopped answering
		select {
		case <-closed:
		case <-time.After(poolTime / 2):
			s.log.Warn("something still uses a connection to the database; not waiting for it")
		}
	}
	if s.postgres == nil {
		return nil
	}
	return s.postgres.Stop()
}

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// health is what the server says about itself.
type health struct {
	Status        string                 `json:"status"` // ok, starting, draining or unavailable
	Reason        string                 `json:"reason,omitempty"`
	Version       string                 `json:"version"`
	UptimeSeconds int64                  `json:"uptime_seconds"`
	Checks        map[string]healthCheck `json:"checks"`
}

// readiness is whether requests should be sent here, and the code of the trouble
// with the database, if there is any.
type readiness struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// healthCheck is the state of something the server needs.
type healthCheck struct {
	Status    string  `json:"status"` // ok or failing
	LatencyMS float64 `json:"latency_ms"`
}

// status says whether requests should be sent here, without asking the
// database: the feed polls it twice a second.
func (s *Server) status() readiness {
	trouble := s.trouble.get()
	switch {
	case s.draining.Load():
		return readiness{Status: "draining"}
	case !s.opened.Load():
		return readiness{"starting", trouble.code()}
	case trouble != noTrouble:
		return readiness{"unavailable", trouble.code()}
	}
	return readiness{Status: "ok"}
}

// getHealth is GET /internal/health. As with the other two, a query is ignored:
// some load balancers append one, and would take a 422 for a server that is down.
func (s *Server) getHealth(w http.ResponseWriter, r *http.Request, c *call) error {
	status := s.status()
	database := healthCheck{Status: "failing"}
	if s.opened.Load() {
		database.LatencyMS = float64(time.Duration(s.feed.latency.Load()).Microseconds()) / 1000
		if s.trouble.get() == noTrouble {
			database.Status = "ok"
		}
	}
	return sendStatus(w, r, c, status, health{
		Status: status.Status, Reason: status.Reason, Version: programVersion(),
		UptimeSeconds: int64(time.Since(s.started) / time.Second),
		Checks:        map[string]healthCheck{"database": database},
	})
}

// getLive is GET /internal/health/live: the process answers.
func getLive(w http.ResponseWriter, r *http.Request, c *call) error {
	return respond(w, r, c, map[string]string{"status": "ok"})
}

// getReady is GET /internal/health/ready: requests should be sent here, or not
// (503) while the server starts, drains or has no database that takes writes.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request, c *call) error {
	status := s.status()
	return sendStatus(w, r, c, status, status)
}

// sendStatus answers with body: 200 if the server is ready, else 503.
func sendStatus(w http.ResponseWriter, r *http.Request, c *call, is readiness, body any) error {
	made, err := newResponse(c, body)
	if err != nil {
		return err
	}
	if is.Status != "ok" {
		made.status = http.StatusServiceUnavailable
	}
	return made.write(w, r, c)
}

// connectionView is an open WebSocket as operators see it.
type connectionView struct {
	ID            string    `json:"id"`
	Account       string    `json:"account"` // id; "" until the client has signed in
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
	Queued        int       `json:"queued"` // events that wait for it
	Sent          int64     `json:"sent"`   // events
}

// listConnections is GET /internal/connections.
func (s *Server) listConnections(context.Context, *call) (list[connectionView], error) {
	return list[connectionView]{Items: s.sockets.connections()}, nil
}

// healthcheckTimeout is how long `tachikoma healthcheck` waits for an answer.
const healthcheckTimeout = 5 * time.Second

// runHealthcheck asks the server that has this configuration whether it is
// ready, for containers, which have no curl. An error says why it isn't.
func runHealthcheck(ctx context.Context, config Config, stdout io.Writer) error {
	server, err := config.localURL()
	if err != nil {
		return err
	}
	is, err := askReady(ctx, server)
	switch {
	case err != nil:
		return fmt.Errorf("the server at %s doesn't answer: %w", server, err)
	case is.Reason != "":
		return fmt.Errorf("the server at %s isn't ready: %s, %s", server, is.Status, is.Reason)
	case is.Status != "ok":
		return fmt.Errorf("the server at %s isn't ready: %s", server, is.Status)
	}
	fmt.Fprintf(stdout, "The server at %s is ready.\n", server)
	return nil
}

// localURL is where a process on this machine reaches the server of this
// configuration.
func (c Config) localURL() (string, error) {
	if c.Port == 0 {
		return "", errors.New("with PORT=0 nobody but the server knows its port: choose one")
	}
	server := url.URL{Scheme: "http"}
	if c.TLSCertFile != "" {
		server.Scheme = "https"
	}
	host := c.Host
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		if host = "127.0.0.1"; addr.Is6() {
			host = "::1"
		}
	}
	server.Host = net.JoinHostPort(host, strconv.Itoa(c.Port))
	return server.String(), nil
}

// askReady asks a server whether it is ready. It accepts any certificate: the
// question is whether this machine's port serves, under whatever name. With an
// http.Client this function would be 14 lines shorter, and the program 385 KB
// larger, since nothing else here is an HTTP client.
func askReady(ctx context.Context, server string) (is readiness, err error) {
	deadline := time.Now().Add(healthcheckTimeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/internal/health/ready", nil)
	if err != nil {
		return is, err
	}
	request.Close = true
	dial := new(net.Dialer).DialContext
	if request.URL.Scheme == "https" {
		dial = (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext
	}
	conn, err := dial(ctx, "tcp", request.URL.Host)
	if err != nil {
		return is, err
	}
	defer conn.Close()
	if err := errors.Join(conn.SetDeadline(deadline), request.Write(conn)); err != nil {
		return is, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return is, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, 4<<10)).Decode(&is); err != nil || is.Status == "" {
		return is, fmt.Errorf("something else does, with HTTP status %d", response.StatusCode)
	}
	return is, nil
}

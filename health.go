package main

import (
	"net/http"
	"runtime/debug"
	"time"
)

// version is the program's: the module's, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "devel"
}

// health is what the server says of itself.
type health struct {
	Status        string           `json:"status"` // ok, starting, draining or unavailable
	Version       string           `json:"version"`
	UptimeSeconds int64            `json:"uptime_seconds"`
	Checks        map[string]check `json:"checks"`
}

// check is the state of something the server needs.
type check struct {
	Status    string  `json:"status"` // ok or failing
	LatencyMS float64 `json:"latency_ms"`
}

// status says whether requests should be sent here, without asking the
// database: the feed asks it every second.
func (s *Server) status() string {
	switch {
	case s.draining.Load():
		return "draining"
	case !s.opened.Load():
		return "starting"
	case s.feed.down.Load():
		return "unavailable"
	}
	return "ok"
}

// getHealth is GET /internal/health.
func (s *Server) getHealth(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	status := s.status()
	database := check{Status: "failing"}
	if s.opened.Load() {
		database.LatencyMS = float64(time.Duration(s.feed.latency.Load()).Microseconds()) / 1000
		if !s.feed.down.Load() {
			database.Status = "ok"
		}
	}
	return respond(w, r, reply{status: statusCode(status), body: health{
		Status: status, Version: version(),
		UptimeSeconds: int64(time.Since(s.started) / time.Second),
		Checks:        map[string]check{"database": database},
	}})
}

// getLive is GET /internal/health/live: the process answers.
func (s *Server) getLive(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	return respondOK(w, r, map[string]string{"status": "ok"})
}

// getReady is GET /internal/health/ready: requests should be sent here, or not
// (503) while the server starts, drains or has no database.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	status := s.status()
	return respond(w, r, reply{status: statusCode(status), body: map[string]string{"status": status}})
}

func statusCode(status string) int {
	if status == "ok" {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// connectionView is an open WebSocket as operators see it.
type connectionView struct {
	ID            string    `json:"id"`
	Account       string    `json:"account"` // id; "" until it has signed in
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
	Queued        int       `json:"queued"` // events that wait for it
	Sent          int64     `json:"sent"`   // events
}

// listConnections is GET /internal/connections.
func (s *Server) listConnections(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	return respondOK(w, r, list[connectionView]{Items: s.sockets.connections()})
}

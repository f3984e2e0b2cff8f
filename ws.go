//go:build !nows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	socketProtocol  = "tachikoma.v1"
	socketToken     = "bearer." // prefix of the subprotocol that carries a browser's token
	socketHello     = 5 * time.Second
	socketWrite     = 10 * time.Second
	socketPing      = 30 * time.Second
	socketPong      = 10 * time.Second
	socketReadLimit = 64 << 10
	socketLimit     = 10_000
)

// sockets are the WebSocket connections of this process. Safe for concurrent use.
type sockets struct {
	mu     sync.Mutex // guards the following
	open   map[*socket]struct{}
	closed bool // none may be added any more
}

// socket is one WebSocket. The goroutine of its request reads it and owns it.
type socket struct {
	id      string
	conn    *websocket.Conn
	addr    netip.Addr
	account account
	since   time.Time
}

func newSockets() *sockets { return &sockets{open: make(map[*socket]struct{})} }

// add takes a connection in, unless there are too many or the server stops.
func (s *sockets) add(c *socket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= socketLimit {
		return errors.New("no more connections are taken")
	}
	s.open[c] = struct{}{}
	return nil
}

func (s *sockets) remove(c *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// closeAll tells every client that the server goes away, all at once, since a
// close waits for the client's answer, and cuts off who hasn't answered when
// ctx ends.
func (s *sockets) closeAll(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	var closing sync.WaitGroup
	for c := range s.open {
		stop := context.AfterFunc(ctx, func() { _ = c.conn.CloseNow() })
		closing.Go(func() {
			defer stop()
			_ = c.conn.Close(websocket.StatusGoingAway, "the server is stopping")
		})
	}
	s.mu.Unlock()
	closing.Wait()
}

// connections describes the open WebSockets.
func (s *sockets) connections() []connectionView {
	s.mu.Lock()
	defer s.mu.Unlock()
	views := make([]connectionView, 0, len(s.open))
	for c := range s.open {
		views = append(views, connectionView{c.id, c.account.userID, c.since.UTC()})
	}
	slices.SortFunc(views, func(a, b connectionView) int { return strings.Compare(a.ID, b.ID) })
	return views
}

func (s *Server) socketRoutes() {
	s.handleWithin(limits{}, public, "GET /ws", s.serveSocket)
}

// serveSocket is GET /ws. The credential is in the Authorization header, in a
// subprotocol "bearer.<token>" beside "tachikoma.v1", or in the first message.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return problem(http.StatusUpgradeRequired, "upgrade_required", "This is a WebSocket: ask for the upgrade.").
			withHeader("Upgrade", "websocket")
	}
	if err := refuseForeign(r, s.config.CORSAllowedOrigins, trusts(s.config.TrustedProxies, parseHop(r.RemoteAddr))); err != nil {
		return err
	}
	c := &socket{id: newID(), addr: callOf(r).addr, since: time.Now()}
	if token := socketCredential(r); token != "" {
		var err error
		if c.account, err = s.authenticate(r.Context(), token, callOf(r).addr); err != nil {
			return err
		}
		callOf(r).account = c.account
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{socketProtocol},
		InsecureSkipVerify: true, // refuseForeign has looked at the scheme too
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil //nolint:nilerr // Accept has answered
	}
	c.conn = conn
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(socketReadLimit)
	// The request's context ends with the handshake's connection state; a
	// socket lives until its reader returns.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	s.talk(ctx, c)
	return nil
}

// talk authenticates and greets the client, and then reads until it goes.
func (s *Server) talk(ctx context.Context, c *socket) {
	if c.account.userID == "" && !s.authenticateSocket(ctx, c) {
		return
	}
	if err := s.sockets.add(c); err != nil {
		_ = c.conn.Close(websocket.StatusTryAgainLater, err.Error())
		return
	}
	defer s.sockets.remove(c)
	if err := c.send(ctx, map[string]any{"type": "welcome", "connection_id": c.id,
		"limits": map[string]any{"max_message_bytes": socketReadLimit}}); err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	pinging.Go(func() { c.keepAlive(ctx) })
	for {
		message, err := c.receive(ctx)
		if err != nil {
			return
		}
		answer := map[string]any{"type": "error", "code": "unknown_type", "message": "this message type isn't known"}
		if message.Type == "ping" {
			answer = map[string]any{"type": "pong"}
		}
		if message.ID != "" {
			answer["reply_to"] = message.ID
		}
		if err := c.send(ctx, answer); err != nil {
			return
		}
	}
}

// socketMessage is what a client sends.
type socketMessage struct {
	Type  string `json:"type"`
	ID    string `json:"id"`
	Token string `json:"token"`
}

// authenticateSocket waits for the first message, which has to sign in.
func (s *Server) authenticateSocket(ctx context.Context, c *socket) bool {
	ctx, cancel := context.WithTimeout(ctx, socketHello)
	defer cancel()
	message, err := c.receive(ctx)
	if err == nil && message.Type == "authenticate" {
		c.account, err = s.authenticate(ctx, message.Token, c.addr)
	}
	if err != nil || c.account.userID == "" {
		_ = c.conn.Close(4401, "sign in with the first message")
		return false
	}
	return true
}

// receive reads one message.
func (c *socket) receive(ctx context.Context) (socketMessage, error) {
	var message socketMessage
	kind, raw, err := c.conn.Read(ctx)
	if err != nil {
		return message, err
	}
	if kind != websocket.MessageText || checkJSON(raw) != nil || json.Unmarshal(raw, &message) != nil {
		return socketMessage{}, nil
	}
	return message, nil
}

// send writes one message, within socketWrite.
func (c *socket) send(ctx context.Context, message any) error {
	encoded, err := encode(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, socketWrite)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, encoded)
}

// keepAlive pings until a pong is missing, and then ends the connection.
func (c *socket) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(socketPing)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		ponging, cancel := context.WithTimeout(ctx, socketPong)
		err := c.conn.Ping(ponging)
		cancel()
		if err != nil {
			_ = c.conn.CloseNow()
			return
		}
	}
}

// socketCredential finds the token of a handshake: in the header, or for
// browsers, which can't set one, in a subprotocol.
func socketCredential(r *http.Request) string {
	if token, err := bearerToken(r); err == nil {
		return token
	}
	for _, header := range r.Header.Values("Sec-Websocket-Protocol") {
		for protocol := range strings.SplitSeq(header, ",") {
			if token, ok := strings.CutPrefix(strings.TrimSpace(protocol), socketToken); ok {
				return token
			}
		}
	}
	return ""
}

// refuseForeign refuses browsers' requests from other sites: scheme, host and
// port of the Origin must be the server's own, or one of CORS_ALLOWED_ORIGINS.
// trusted says whether the peer is a proxy whose word counts for the scheme.
func refuseForeign(r *http.Request, allowed []string, trusted bool) error {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(allowed, origin) {
		return nil
	}
	scheme := "http"
	if r.TLS != nil || trusted && r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	if u, err := url.Parse(origin); err == nil && u.Scheme == scheme && strings.EqualFold(u.Host, r.Host) {
		return nil
	}
	return errForbidden("This origin may not connect; see CORS_ALLOWED_ORIGINS.")
}

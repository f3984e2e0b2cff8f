//go:build !nows

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

const (
	socketProtocol = "tachikoma.v1"
	socketToken    = "bearer."        // prefix of the subprotocol that carries a browser's token
	socketHello    = 5 * time.Second  // for the first message, if the handshake had no credential
	socketWrite    = 10 * time.Second // to send one frame
	socketClose    = 5 * time.Second  // for the client to agree to a close
	socketBuffer   = 1 << 10          // for reading
	socketBurst    = 100              // messages that a client may send at once,
	socketRate     = 20               // and after that each second
)

// Close codes (RFC 6455, 7.4), beside 1002 and 1009, which the library sends.
const (
	closeGoingAway   = websocket.StatusGoingAway               // 1001: the server is stopping
	closeInvalidText = websocket.StatusInvalidFramePayloadData // 1007: a text that isn't UTF-8
	closeViolation   = websocket.StatusPolicyViolation         // 1008: the account has too many connections
	closeCredential  = websocket.StatusCode(4401)              // missing, or has ended: expiry, logout, account disabled
	closePermission  = websocket.StatusCode(4403)              // the client may no longer read a mission
	closeTooSlow     = websocket.StatusCode(4408)              // resume after the last seq seen
	closeCursorGone  = websocket.StatusCode(4410)              // events were lost: read what is followed again
	closeFlood       = websocket.StatusCode(4429)              // too many messages
)

// socket is one WebSocket. One goroutine reads, and a second one pings and watches
// the credential. The senders send what waits in the queue, or a third goroutine
// while the client is slow to take it.
type socket struct {
	id    string
	conn  *websocket.Conn // nil until the handshake is done
	wire  *socketWire     // what conn is on
	addr  netip.Addr
	since time.Time
	queue *queue
	sent  atomic.Int64  // events
	renew chan struct{} // a new token has come
	flush func()        // sends what waits in the queue; set before the first subscription

	working  sync.WaitGroup // the goroutines beside the reader
	catching sync.Mutex     // held to read the database for the queue

	mu      sync.Mutex // guards the following
	account account
	token   string
	topics  map[string]*subscription // by stream
}

// sockets are the WebSockets of this process. Safe for concurrent use.
type sockets struct {
	senders *senders

	mu     sync.Mutex // guards the following
	open   map[*socket]struct{}
	by     map[string]int // account → how many it has
	closed bool           // no more may be added
}

func newSockets() *sockets {
	return &sockets{senders: newSenders(), open: make(map[*socket]struct{}), by: make(map[string]int)}
}

// add registers a socket before its handshake, or returns why it is refused.
func (s *sockets) add(c *socket, config Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return problem(http.StatusServiceUnavailable, "draining", "The server is stopping.").withHeader("Retry-After", "1")
	case len(s.open) >= config.WSMaxConnections:
		return problem(http.StatusServiceUnavailable, "busy",
			"The server has reached its limit of WebSockets.").withHeader("Retry-After", "5")
	case s.by[c.account.userID] >= config.WSMaxPerAccount:
		return problem(http.StatusTooManyRequests, "too_many_connections", "An account has at most %d WebSockets here.",
			config.WSMaxPerAccount).
			withHeader("Retry-After", "5")
	}
	s.open[c] = struct{}{}
	s.by[c.account.userID]++
	return nil
}

// upgraded records that the handshake is done, and reports whether the server is
// still serving.
func (s *sockets) upgraded(c *socket, conn *websocket.Conn, on *socketWire) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.conn, c.wire = conn, on
	return !s.closed
}

// signedIn moves a socket to the account that its first message signed in, unless
// that has most sockets already; it reports whether it did.
func (s *sockets) signedIn(c *socket, a account, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[a.userID] >= most {
		return false
	}
	s.by[""]--
	s.by[a.userID]++
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account = a
	return true
}

func (s *sockets) remove(c *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if s.by[c.account.userID]--; s.by[c.account.userID] <= 0 {
		delete(s.by, c.account.userID)
	}
}

// closeAll closes all sockets because the server is going away: all at once, since
// a close waits for the client's reply. Connections whose clients haven't replied
// when ctx ends are cut.
func (s *sockets) closeAll(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	var closing sync.WaitGroup
	for c := range s.open {
		if c.conn == nil {
			continue // upgraded will report it
		}
		stop := context.AfterFunc(ctx, func() { _ = c.wire.Close() })
		closing.Go(func() {
			defer stop()
			c.close(closeGoingAway, "the server is stopping")
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
		c.mu.Lock()
		views = append(views, connectionView{c.id, c.account.userID, c.since.UTC(), len(c.topics), c.queue.length(),
			c.sent.Load()})
		c.mu.Unlock()
	}
	slices.SortFunc(views, func(a, b connectionView) int { return strings.Compare(a.ID, b.ID) })
	return views
}

// count is how many WebSockets are open.
func (s *sockets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

func (s *Server) socketRoutes() {
	s.handle(forAnyone, "GET /ws", withoutQuery(s.serveSocket), boundsItself)
}

// serveSocket is GET /ws. The credential is in the Authorization header, in a
// subprotocol "bearer.<token>" beside "tachikoma.v1", or in the first message.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request, request *call) error {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return problem(http.StatusUpgradeRequired, "upgrade_required",
			"This is a WebSocket endpoint: send an upgrade request.").
			withHeader("Upgrade", "websocket")
	}
	if r.ContentLength != 0 { // it would be read as frames
		return malformedHandshake()
	}
	if err := s.refuseForeign(r); err != nil {
		return err
	}
	c := &socket{
		id: newID(), addr: request.addr, since: time.Now(),
		renew: make(chan struct{}, 1), topics: make(map[string]*subscription),
	}
	c.queue = newQueue(s.config.WSQueue, func() {
		c.working.Add(1) // until what waits is sent
		s.sockets.senders.add(c.flush)
	})
	if c.token = socketCredential(r); c.token != "" {
		var err error
		if c.account, err = s.authenticate(r.Context(), c.token, c.addr); err != nil {
			return err
		}
		request.account = c.account
	}
	if err := s.sockets.add(c, s.config); err != nil {
		return err
	}
	shake := &handshake{ResponseWriter: w}
	conn, err := websocket.Accept(shake, r, &websocket.AcceptOptions{
		Subprotocols:       []string{socketProtocol},
		InsecureSkipVerify: true, // refuseForeign has looked at the scheme too
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		s.sockets.remove(c)
		return malformedHandshake().because(err)
	}
	go s.runSocket(c, conn, shake.wire)
	return nil
}

// runSocket serves a socket until it ends. It doesn't run in the request's
// goroutine, whose stack, headers and buffers are half of what an idle socket
// would need.
func (s *Server) runSocket(c *socket, conn *websocket.Conn, on *socketWire) {
	defer s.sockets.remove(c)
	defer func() { _ = conn.CloseNow() }()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic", "panic", p, "connection_id", c.id, "stack", string(debug.Stack()))
		}
	}()
	conn.SetReadLimit(s.config.WSMaxMessage)
	if !s.sockets.upgraded(c, conn, on) {
		c.close(closeGoingAway, "the server is stopping")
		return
	}
	s.counters.socketOpened()
	defer s.counters.socketClosed()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.serveClient(ctx, cancel, c)
}

// serveClient signs the client in, greets it, and serves it until it disconnects.
// It owns the goroutines of the socket.
func (s *Server) serveClient(ctx context.Context, cancel context.CancelFunc, c *socket) {
	if c.account.userID == "" && !s.signInSocket(ctx, c) {
		return
	}
	if c.send(map[string]any{"type": "welcome", "connection_id": c.id, "limits": map[string]any{
		"max_message_bytes": s.config.WSMaxMessage, "max_subscriptions": s.config.WSMaxSubscriptions,
		"queue_events": s.config.WSQueue, "ping_seconds": int(s.config.WSPing / time.Second),
	}}) != nil {
		return
	}
	defer c.working.Wait()
	defer func() { _ = c.conn.CloseNow() }() // so that no goroutine waits for the client any more
	defer s.unsubscribeAll(c)
	defer cancel()
	c.flush = func() { s.sendWaiting(ctx, c) }
	c.working.Go(func() { s.keep(ctx, c) })
	allowed := float64(socketBurst)
	for last := time.Now(); ; {
		message, bad, err := c.receive(ctx)
		if err != nil {
			return
		}
		now := time.Now()
		if allowed = min(socketBurst, allowed+now.Sub(last).Seconds()*socketRate) - 1; allowed < 0 {
			c.close(closeFlood, "too many messages")
			return
		}
		last = now
		if bad == nil {
			bad = s.handleMessage(ctx, c, message)
		}
		if bad != nil && c.reply(message, map[string]any{"type": "error", "code": bad.code, "message": bad.detail}) != nil {
			return
		}
	}
}

// signInSocket waits for the first message, which must sign in, and reports whether it did.
func (s *Server) signInSocket(ctx context.Context, c *socket) bool {
	ctx, cancel := context.WithTimeout(ctx, socketHello)
	defer cancel()
	message, bad, err := c.receive(ctx)
	if err != nil {
		return false
	}
	if bad != nil || message.Type != "authenticate" {
		c.close(closeCredential, "sign in with the first message")
		return false
	}
	a, err := s.authenticate(ctx, message.Token, c.addr)
	if err != nil {
		c.close(closeCredential, asProblem(err).code)
		return false
	}
	if !s.sockets.signedIn(c, a, s.config.WSMaxPerAccount) {
		c.close(closeViolation, "too many connections of this account")
		return false
	}
	c.token = message.Token
	return true
}

// socketMessage is what a client sends.
type socketMessage struct {
	Type      string          `json:"type"`
	ID        json.RawMessage `json:"id"`
	Token     string          `json:"token"`
	Topic     string          `json:"topic"`
	MissionID string          `json:"mission_id"`
	After     json.RawMessage `json:"after"`
}

// receive reads one message. bad is what is wrong with it, to be told to the client;
// an error ends the connection.
func (c *socket) receive(ctx context.Context) (message socketMessage, bad *apiError, err error) {
	kind, raw, err := c.conn.Read(ctx)
	if err != nil {
		return message, nil, err
	}
	if kind == websocket.MessageText && !utf8.Valid(raw) { // RFC 6455, 8.1
		c.close(closeInvalidText, "this text isn't UTF-8")
		return message, nil, errors.New("a text that isn't UTF-8")
	}
	if kind != websocket.MessageText {
		return message, problem(http.StatusBadRequest, "malformed_message", "Send JSON in text messages."), nil
	}
	if err = checkJSON(raw); err == nil {
		err = decode(raw, &message)
	}
	if err != nil {
		bad = problem(http.StatusBadRequest, "malformed_message", "%s", messageText(asProblem(err)))
	}
	return message, bad, nil
}

// messageText is what is wrong with a message, in one text.
func messageText(e *apiError) string {
	if len(e.fields) == 0 {
		return e.detail
	}
	var wrong []string
	for _, f := range e.fields {
		wrong = append(wrong, cmp.Or(f.Field, "The message")+" "+f.Message)
	}
	return strings.Join(wrong, "; ") + "."
}

// reply sends an answer that names the message it replies to.
func (c *socket) reply(to socketMessage, answer map[string]any) error {
	if len(to.ID) > 0 {
		answer["reply_to"] = to.ID
	}
	return c.send(answer)
}

// send writes one message.
func (c *socket) send(message any) error {
	encoded, err := encode(message)
	if err != nil {
		return err
	}
	return c.wire.send(withHead(append(make([]byte, frameHead, frameHead+len(encoded)), encoded...)))
}

// close tells the client why and waits for its close frame. After socketClose it
// cuts the connection: the library would wait for the rest of a frame.
func (c *socket) close(code websocket.StatusCode, reason string) {
	cut := time.AfterFunc(socketClose, func() { _ = c.wire.Close() })
	defer cut.Stop()
	_ = c.conn.Close(code, reason) // it may be closed already
}

// keep sends pings, and closes the connection when its credential or a permission
// has ended.
func (s *Server) keep(ctx context.Context, c *socket) {
	changed, stop := s.credentials.watch(c.currentAccount().userID)
	defer stop()
	ping := time.NewTicker(s.config.WSPing)
	defer ping.Stop()
	expiry := time.NewTimer(s.lasts(c.currentToken()))
	defer expiry.Stop()
	for {
		var code websocket.StatusCode
		var reason string
		select {
		case <-ctx.Done():
			return
		case <-c.renew:
			expiry.Reset(s.lasts(c.currentToken()))
		case <-changed:
			code, reason = s.checkCredential(ctx, c)
		case <-expiry.C:
			if code, reason = s.checkCredential(ctx, c); code == 0 {
				expiry.Reset(max(time.Second, s.lasts(c.currentToken())))
			}
		case <-ping.C:
			go c.ping(ctx, s.config.WSPong) // it ends with the pong or its timeout
		}
		if code != 0 {
			c.close(code, reason)
			return
		}
	}
}

// ping sends a ping and waits for the pong. If none comes it ends the connection.
func (c *socket) ping(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if c.conn.Ping(ctx) != nil {
		_ = c.conn.CloseNow()
	}
}

// checkCredential checks the socket's credential again. A code of 0 means it is still good.
func (s *Server) checkCredential(ctx context.Context, c *socket) (code websocket.StatusCode, reason string) {
	a, err := s.authenticate(ctx, c.currentToken(), c.addr)
	if err != nil {
		if e := asProblem(err); e.status == http.StatusUnauthorized {
			return closeCredential, e.code
		}
		return 0, "" // the database can't be reached; the feed notifies again when it can
	}
	c.mu.Lock()
	c.account = a
	var missions []string
	for stream, sub := range c.topics {
		if sub.topic.MissionID != "" {
			missions = append(missions, stream)
		}
	}
	_, figures := c.topics[figuresStream]
	c.mu.Unlock()
	if figures && !a.admin() {
		return closePermission, "only admins can see the server's metrics"
	}
	for _, id := range missions { // with another role it may see less
		if code, reason = s.checkMission(ctx, a, id); code != 0 {
			return code, reason
		}
	}
	return 0, ""
}

// checkMission checks again whether a mission may be followed. A code of 0 means yes.
func (s *Server) checkMission(ctx context.Context, a account, id string) (code websocket.StatusCode, reason string) {
	err := s.mayFollow(ctx, a, id)
	switch {
	case err == nil:
		return 0, ""
	case asProblem(err).status == http.StatusNotFound:
		return closePermission, "you may no longer read the mission " + id
	}
	return closeTooSlow, "your access can't be checked right now: resume after the last seq you saw"
}

// lasts returns how long a credential is good until it must be checked again.
func (s *Server) lasts(token string) time.Duration {
	claims, err := s.parseAccessToken(token)
	if err != nil { // an API key, or expired
		return credentialTTL
	}
	return time.Until(claims.ExpiresAt.Time) + clockSkew + time.Second
}

func (c *socket) currentToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *socket) currentAccount() account {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.account
}

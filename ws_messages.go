//go:build !nows

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// subscription is a stream that a socket follows.
type subscription struct {
	follower
	stop context.CancelFunc // ends its catching up
}

// figuresStream is the stream of the topic metrics, the highest UUID. Nothing in
// it is stored.
const figuresStream = "ffffffff-ffff-ffff-ffff-ffffffffffff"

// handleMessage does what a client's message asks and replies to it, or returns
// what is wrong with it.
func (s *Server) handleMessage(ctx context.Context, c *socket, m socketMessage) *apiError {
	switch m.Type {
	case "ping":
		_ = c.reply(m, map[string]any{"type": "pong"})
		return nil
	case "authenticate":
		return s.renew(ctx, c, m)
	case "subscribe":
		return s.subscribe(ctx, c, m)
	case "unsubscribe":
		topic, bad := c.topicOf(m)
		if bad != nil {
			return bad
		}
		s.unsubscribe(c, topic.Stream)
		_ = c.reply(m, map[string]any{"type": "ack"})
		return nil
	}
	return problem(http.StatusBadRequest, "unknown_type", "A message is authenticate, subscribe, unsubscribe or ping.")
}

// renew replaces the token of a live socket by a new one of the same account.
func (s *Server) renew(ctx context.Context, c *socket, m socketMessage) *apiError {
	a, err := s.authenticate(ctx, m.Token, c.addr)
	if err != nil {
		return asProblem(err)
	}
	c.mu.Lock()
	same := a.userID == c.account.userID
	if same {
		c.account, c.token = a, m.Token
	}
	c.mu.Unlock()
	if !same {
		return problem(http.StatusForbidden, "other_account", "This token belongs to another account: open a new connection.")
	}
	trySend(c.renew)
	_ = c.reply(m, map[string]any{"type": "ack"})
	return nil
}

// topicOf returns the topic that a message names. Under the topic mission, the
// streams of the other topics are not found.
func (c *socket) topicOf(m socketMessage) (*topicName, *apiError) {
	user, id := c.currentAccount().userID, strings.ToLower(m.MissionID)
	switch {
	case m.Topic == "mission" && !validID(id):
		return nil, problem(http.StatusBadRequest, "malformed_message", "mission_id must be the id of a mission.")
	case m.Topic == "mission" && (id == user || id == figuresStream):
		return nil, errNotFound()
	case m.Topic == "mission":
		return &topicName{Topic: m.Topic, MissionID: id, Stream: id}, nil
	case m.Topic == "user":
		return &topicName{Topic: m.Topic, Stream: user}, nil
	case m.Topic == "metrics":
		return &topicName{Topic: m.Topic, Stream: figuresStream}, nil
	}
	return nil, problem(http.StatusBadRequest, "unknown_topic", "A topic is mission, user or metrics.")
}

// subscribe starts to follow a stream. The reply says after which seq.
func (s *Server) subscribe(ctx context.Context, c *socket, m socketMessage) *apiError {
	topic, bad := c.topicOf(m)
	if bad != nil {
		return bad
	}
	c.mu.Lock()
	_, twice := c.topics[topic.Stream]
	full := len(c.topics) >= s.config.WSMaxSubscriptions
	c.mu.Unlock()
	switch {
	case twice:
		return problem(http.StatusConflict, "already_subscribed", "This connection is already subscribed to that topic.")
	case full:
		return problem(http.StatusTooManyRequests, "too_many_subscriptions", "A connection has at most %d subscriptions.",
			s.config.WSMaxSubscriptions)
	case topic.Topic == "metrics":
		return s.subscribeFigures(c, m, topic)
	}
	after, bad := readAfter(m.After)
	if bad != nil {
		return bad
	}
	view, err := s.readHead(ctx, c.currentAccount(), topic.Stream)
	if err == nil {
		after, err = view.start(after)
	}
	if err != nil {
		return asProblem(err)
	}
	catching, stop := context.WithCancel(ctx)
	sub := &subscription{follower: follower{topic: topic, queue: c.queue, last: after}, stop: stop}
	c.mu.Lock()
	c.topics[topic.Stream] = sub
	c.mu.Unlock()
	if c.reply(m, map[string]any{"type": "ack", "seq": after}) != nil {
		return nil // the reader notices that the connection is gone
	}
	s.hub.follow(&sub.follower, view.LastSeq)
	if !s.hub.caughtUp(&sub.follower) {
		c.working.Go(func() { s.feedFollower(catching, c, sub) })
	}
	return nil
}

// readAfter reads where a subscription starts: after a number, at "latest", or at
// the oldest event kept if it is absent.
func readAfter(raw json.RawMessage) (int64, *apiError) {
	var n int64
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return fromOldest, nil
	case string(raw) == `"latest"`:
		return fromLatest, nil
	case json.Unmarshal(raw, &n) != nil || n < 0:
		return 0, problem(http.StatusBadRequest, "malformed_message", `after must be a number from 0, or "latest".`)
	}
	return n, nil
}

// feedFollower reads the events that a follower has missed from the database into
// its queue, as fast as the client takes them, until the follower is live.
func (s *Server) feedFollower(ctx context.Context, c *socket, sub *subscription) {
	f := &sub.follower
	for !s.hub.caughtUp(f) {
		if s.feedPage(ctx, c, f) != nil {
			return
		}
	}
}

// feedPage reads the next events of a follower. The followers of one socket take
// turns, so that together they hold no more than one page.
func (s *Server) feedPage(ctx context.Context, c *socket, f *follower) error {
	c.catching.Lock()
	defer c.catching.Unlock()
	if err := c.queue.waitForRoom(ctx); err != nil {
		return err
	}
	events, err := readEvents(ctx, s.db, f.topic.Stream, f.last, catchUpPage)
	if ctx.Err() == nil && err != nil {
		c.queue.end(errTooSlow) // the database can't be reached: the client comes back later
	}
	for _, e := range events {
		payload, err := encode(e)
		if err != nil || e.Seq != f.last+1 {
			c.queue.end(errCursorGone)
			return errCursorGone
		}
		if err := c.queue.waitForRoom(ctx); err != nil { // a page may have more bytes than the queue holds
			return err
		}
		c.queue.push(f, newBatches(queuedEvent{seq: e.Seq, effect: effectOf(e.Type), payload: payload})...)
		f.last = e.Seq
		s.counters.eventsDelivered(1)
	}
	return err
}

// unsubscribe ends a subscription, if there is one.
func (s *Server) unsubscribe(c *socket, stream string) {
	c.mu.Lock()
	sub := c.topics[stream]
	delete(c.topics, stream)
	c.mu.Unlock()
	if sub != nil {
		sub.stop()
		sub.ended.Store(true)
		s.hub.unfollow(&sub.follower)
	}
}

func (s *Server) unsubscribeAll(c *socket) {
	c.mu.Lock()
	var streams []string
	for stream := range c.topics {
		streams = append(streams, stream)
	}
	c.mu.Unlock()
	for _, stream := range streams {
		s.unsubscribe(c, stream)
	}
}

// subscribeFigures subscribes an admin to the server's figures, sent every figuresEvery.
func (s *Server) subscribeFigures(c *socket, m socketMessage, topic *topicName) *apiError {
	if !c.currentAccount().admin() {
		return asProblem(errForbidden("Only admins can see the server's metrics."))
	}
	sub := &subscription{follower: follower{topic: topic, queue: c.queue}, stop: func() {}}
	c.mu.Lock()
	c.topics[topic.Stream] = sub
	c.mu.Unlock()
	if c.reply(m, map[string]any{"type": "ack"}) != nil {
		return nil
	}
	s.hub.follow(&sub.follower, 0)
	return nil
}

// figuresEvery is how often metrics_update is sent.
const figuresEvery = 5 * time.Second

// publishFigures sends metrics_update to the admins who subscribed to it, until
// ctx ends. It isn't stored, and costs nothing while nobody is subscribed.
func (s *Server) publishFigures(ctx context.Context) {
	ticker := time.NewTicker(figuresEvery)
	defer ticker.Stop()
	for before := s.hub.count(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := s.hub.count()
		rate := float64(now-before) / figuresEvery.Seconds()
		before = now
		if !s.hub.followed(figuresStream) || s.trouble.get() == unreachable {
			continue
		}
		update, err := s.figuresUpdate(ctx, rate)
		if errors.Is(err, pgx.ErrNoRows) {
			continue // nothing has been counted yet
		}
		if err != nil {
			s.log.Warn("metrics_update wasn't sent", "error", err)
			continue
		}
		s.hub.broadcast(figuresStream, update)
	}
}

// figuresUpdate returns a metrics_update, encoded: an event without a seq.
func (s *Server) figuresUpdate(ctx context.Context, rate float64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.acquireTimeout)
	defer cancel()
	n, err := s.readTotals(ctx)
	if err != nil {
		return nil, err
	}
	missions := make(map[string]int64)
	for i, status := range missionStatuses {
		if n.missions[i] > 0 {
			missions[status] = n.missions[i]
		}
	}
	return encode(map[string]any{"type": "metrics_update", "at": time.Now().UTC(), "data": map[string]any{
		"missions": missions, "specs": n.specs, "connections": s.sockets.count(), "events_per_second": rate,
	}})
}

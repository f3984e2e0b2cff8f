package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	sseKeepAlive = 15 * time.Second // a comment line, so that proxies don't close an idle connection
	sseWrite     = 10 * time.Second // for a client to take what is sent at once
	catchUpPage  = 200              // events that a follower reads at a time
)

// wantsEventStream reports whether a request asks for server-sent events.
func wantsEventStream(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// eventStream is a client that follows a stream by server-sent events. It belongs
// to the request's goroutine.
type eventStream struct {
	*Server
	r       *http.Request
	c       *call
	f       *follower
	out     sseWriter
	ready   chan struct{}    // something is in the queue, or its end
	changed <-chan struct{}  // its account has changed
	alive   <-chan time.Time // it is time for a comment line
}

// streamEvents sends a stream as server-sent events (WHATWG HTML, 9.2) until the
// client disconnects, its credential or its permission ends, the mission is
// deleted or the server stops. It starts after f.last; head is the newest seq.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request, c *call, f *follower, head int64) error {
	userID := c.account.userID
	if !s.streams.Take(userID, 1, s.config.WSMaxConnections, s.config.WSMaxPerAccount) {
		return problem(http.StatusServiceUnavailable, "busy",
			"Too many streams are open. Close some, or try again soon.").withHeader("Retry-After", "5")
	}
	defer s.streams.Give(userID, 1)
	ready := make(chan struct{}, 1)
	f.queue = newQueue(s.config.WSQueue, func() { trySend(ready) })
	changed, stop := s.credentials.watch(userID)
	defer stop()
	s.hub.follow(f, head)
	defer s.hub.unfollow(f)
	s.counters.streamOpened()
	defer s.counters.streamClosed()
	alive := time.NewTicker(sseKeepAlive)
	defer alive.Stop()

	header := w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("X-Accel-Buffering", "no") // so that nginx passes events on at once
	w.WriteHeader(http.StatusOK)
	e := &eventStream{s, r, c, f, sseWriter{w: w, control: http.NewResponseController(w)}, ready, changed, alive.C}
	err := e.out.comment("tachikoma")
	always := make(chan struct{})
	close(always)
	for err == nil && !s.hub.caughtUp(f) {
		err = e.next(always, e.catchUp)
	}
	for err == nil {
		err = e.next(ready, e.sendQueued)
	}
	if errors.Is(err, errTooSlow) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.counters.slowClosed()
	}
	c.cause = err
	return nil
}

// next waits for one thing to happen, and calls send if ready says so. If several
// happen at once any may come first, so a client for which there is always
// something to send can't outlive its credential. The error is why the stream
// ends.
func (e *eventStream) next(ready <-chan struct{}, send func() error) error {
	select {
	case <-ready:
		return send()
	case <-e.changed:
		if err := e.signIn(e.r.Context(), e.c); err != nil {
			return err
		}
		return e.mayFollow(e.r.Context(), e.c.account, e.f.topic.Stream)
	case <-e.alive:
		return errors.Join(e.signIn(e.r.Context(), e.c), e.out.comment("still here"))
	case <-e.stopping:
		return errStreamEnded
	case <-e.r.Context().Done():
		return context.Cause(e.r.Context())
	}
}

// catchUp sends a page of events from the database, after the follower's last,
// which is behind the topic's. The error is errCursorGone if the next event is
// missing.
func (e *eventStream) catchUp() error {
	events, err := readEvents(e.r.Context(), e.db, e.f.topic.Stream, e.f.last, catchUpPage)
	if err == nil && (len(events) == 0 || events[0].Seq != e.f.last+1) {
		err = errCursorGone
	}
	for i := 0; i < len(events) && err == nil; i++ {
		var payload []byte
		if payload, err = encode(events[i]); err == nil {
			err = e.send(events[i].Seq, effectOf(events[i].Type), payload)
			e.f.last = events[i].Seq
			e.counters.eventsDelivered(1)
		}
	}
	return errors.Join(err, e.out.flush())
}

// sendQueued sends what the queue's next take returns.
func (e *eventStream) sendQueued() error {
	batches, err := e.f.queue.take()
	if len(batches) > 0 {
		trySend(e.ready) // there may be more
	}
	for _, b := range batches {
		for i := 0; i < len(b.events) && err == nil; i++ {
			err = e.send(b.events[i].seq, b.events[i].effect, b.events[i].payload)
		}
	}
	return errors.Join(err, e.out.flush())
}

// send sends one event. After one that may have taken away the client's access,
// that is checked again before the next.
func (e *eventStream) send(seq int64, effect streamEffect, payload []byte) error {
	if err := e.out.add(seq, payload); err != nil {
		return err
	}
	switch effect {
	case endsStream:
		return errStreamEnded
	case movesAccess:
		return e.mayFollow(e.r.Context(), e.c.account, e.f.topic.Stream)
	}
	return nil
}

// sseWriter writes server-sent events. Each flush has sseWrite to reach the client.
type sseWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  bytes.Buffer
}

// add writes one event: its number, by which a client resumes, and its JSON,
// which has no line breaks. There is no event name, so that onmessage sees all.
func (o *sseWriter) add(seq int64, payload []byte) error {
	o.buffer.WriteString("id: " + strconv.FormatInt(seq, 10) + "\ndata: ")
	o.buffer.Write(payload)
	o.buffer.WriteString("\n\n")
	if o.buffer.Len() < maxFrame {
		return nil
	}
	return o.flush()
}

func (o *sseWriter) comment(text string) error {
	o.buffer.WriteString(": " + text + "\n\n")
	return o.flush()
}

func (o *sseWriter) flush() error {
	if o.buffer.Len() == 0 {
		return nil
	}
	if err := o.control.SetWriteDeadline(time.Now().Add(sseWrite)); err != nil {
		return fmt.Errorf("sending events: %w", err)
	}
	_, err := o.buffer.WriteTo(o.w)
	err = errors.Join(err, o.control.Flush())
	// HTTP/2 ends a stream whose deadline passes even while nothing is written.
	return errors.Join(err, o.control.SetWriteDeadline(time.Time{}))
}

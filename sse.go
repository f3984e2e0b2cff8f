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
	sseKeepAlive = 15 * time.Second // a comment line, so that proxies don't take silence for the end
	sseWrite     = 10 * time.Second // that a client may take for what is sent at once
	catchUpPage  = 200              // events that a follower reads at a time
)

// wantsEventStream reports whether a request asks for server-sent events.
func wantsEventStream(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// streamEvents follows a stream as server-sent events (WHATWG HTML, 9.2) until
// the client goes, its credential or its permission ends, the mission is
// deleted or the server stops. f says from where; head is the newest seq.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request, f *follower, head int64) error {
	f.queue = newQueue(s.config.WSQueue)
	changed, stop := s.credentials.watch(callOf(r).account.userID)
	defer stop()
	s.hub.follow(f, head)
	defer s.hub.unfollow(f)
	s.metrics.streamOpened()
	defer s.metrics.streamClosed()

	out := &sseWriter{w: w, control: http.NewResponseController(w)}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("X-Accel-Buffering", "no") // nginx passes it on at once
	w.WriteHeader(http.StatusOK)
	err := out.comment("tachikoma")
	for !s.hub.caughtUp(f) && err == nil {
		err = s.catchUp(r.Context(), f, out)
	}
	for err == nil {
		err = s.nextEvents(r, f, out, changed)
	}
	if errors.Is(err, errTooSlow) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.metrics.slowClosed()
	}
	callOf(r).cause = err
	return nil
}

// catchUp sends what the database has after the follower's place.
func (s *Server) catchUp(ctx context.Context, f *follower, out *sseWriter) error {
	events, err := readEvents(ctx, s.db, f.topic.Stream, f.last, catchUpPage)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Seq != f.last+1 {
			return errCursorGone
		}
		payload, err := encode(e)
		if err != nil {
			return err
		}
		if err := out.add(e.Seq, payload); err != nil {
			return err
		}
		f.last = e.Seq
	}
	s.metrics.eventsDelivered(len(events))
	return out.flush()
}

// nextEvents waits for something to happen and sends it. Its error is why the
// stream ends.
func (s *Server) nextEvents(r *http.Request, f *follower, out *sseWriter, changed <-chan struct{}) error {
	quiet := time.NewTimer(sseKeepAlive)
	defer quiet.Stop()
	select {
	case <-f.queue.ready:
		return s.sendQueued(r, f, out)
	case <-changed:
		return s.stillAllowed(r)
	case <-quiet.C:
		return errors.Join(s.stillAllowed(r), out.comment("still here"))
	case <-s.stopping:
		return errStreamEnded
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
}

// sendQueued sends all that waits. An event that may have taken the reader's
// access away is the last before that is looked at again.
func (s *Server) sendQueued(r *http.Request, f *follower, out *sseWriter) error {
	for {
		items, err := f.queue.take(maxFrame)
		if err != nil {
			return errors.Join(err, out.flush())
		}
		if len(items) == 0 {
			return out.flush()
		}
		for _, item := range items {
			if err := out.add(item.seq, item.payload); err != nil {
				return err
			}
		}
		switch items[len(items)-1].effect {
		case endsStream:
			return errors.Join(errStreamEnded, out.flush())
		case movesAccess:
			if err := s.mayFollow(r.Context(), callOf(r).account, f.topic.Stream); err != nil {
				return errors.Join(err, out.flush())
			}
		}
	}
}

// mayFollow looks again whether an account may read a mission. One that is
// deleted may be followed to its end, which is near.
func (s *Server) mayFollow(ctx context.Context, a account, missionID string) error {
	var may bool
	err := s.db.QueryRow(ctx, `SELECT coalesce(bool_or(`+readableSQL+`), true) FROM missions m WHERE m.id = $3`,
		a.userID, a.admin(), missionID).Scan(&may)
	if err != nil {
		return fmt.Errorf("checking access: %w", err)
	}
	if !may {
		return errNotFound()
	}
	return nil
}

// stillAllowed looks at the request's credential again.
func (s *Server) stillAllowed(r *http.Request) error {
	token, err := bearerToken(r)
	if err != nil {
		return err
	}
	_, err = s.authenticate(r.Context(), token, callOf(r).addr)
	return err
}

// sseWriter writes server-sent events. What is sent at once has sseWrite to
// reach the client.
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
	return errors.Join(err, o.control.Flush())
}

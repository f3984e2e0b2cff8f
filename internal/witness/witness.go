// Package witness follows the events of a mission in tests, as clients do, and
// checks that none is missing.
package witness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Event is the part of an event that a witness looks at.
type Event struct {
	Stream string    `json:"stream"`
	Seq    int64     `json:"seq"`
	Type   string    `json:"type"`
	At     time.Time `json:"at"`
}

// Follow reads events, and has the witness take each, until a connection ends.
type Follow func(ctx context.Context, w *Witness) error

// Witness follows one stream from its beginning, over one protocol and as many
// connections as it takes. A missing event fails the test.
type Witness struct {
	T       testing.TB
	Name    string
	Server  func() (base, token string) // its address changes when it is restarted
	Mission string                      // its path, "/api/v1/missions/…"
	Follow  Follow
	Heard   func(Event) // gets each event, if not nil

	Connections, Slow int // Slow: those closed because they were slow; to be read after Stop

	seen      atomic.Int64
	stop      context.CancelFunc
	following sync.WaitGroup
}

// errBroken is for a response that no client should ever get.
var errBroken = errors.New("the promise is broken")

// Seen returns the seq of the last event. Each is the previous one plus one.
func (w *Witness) Seen() int64 { return w.seen.Load() }

// Start follows until Stop is called, and resumes where a connection ended.
func (w *Witness) Start(ctx context.Context) {
	ctx, w.stop = context.WithCancel(ctx)
	w.following.Go(func() {
		for pause := time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 100*time.Millisecond) {
			before := w.Seen()
			if err := w.Follow(ctx, w); errors.Is(err, errBroken) {
				w.T.Errorf("%s: %v", w.Name, err)
				return
			}
			w.Connections++
			if w.Seen() > before {
				pause = time.Millisecond
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause): // as clients do
			}
		}
	})
}

// Stop stops following, and returns once that has ended.
func (w *Witness) Stop() {
	w.stop()
	w.following.Wait()
}

// take checks an event.
func (w *Witness) take(e Event) error {
	if e.Seq != w.Seen()+1 {
		return fmt.Errorf("%w: seq %d came after %d", errBroken, e.Seq, w.Seen())
	}
	w.seen.Store(e.Seq)
	if w.Heard != nil {
		w.Heard(e)
	}
	return nil
}

// ByPolling asks for one page after another.
func ByPolling(ctx context.Context, w *Witness) error {
	for {
		response, err := w.get(ctx, fmt.Sprintf("?after=%d&limit=%d", w.Seen(), 1+rand.IntN(200)))
		if err != nil {
			return err
		}
		content, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		var page struct{ Items []Event }
		if err := json.Unmarshal(content, &page); err != nil {
			return fmt.Errorf("%w: %s", errBroken, content)
		}
		for _, e := range page.Items {
			if err := w.take(e); err != nil {
				return err
			}
		}
		if len(page.Items) == 0 {
			return nil // ask again in a moment
		}
	}
}

// BySSE reads server-sent events.
func BySSE(ctx context.Context, w *Witness) error {
	response, err := w.get(ctx, "", "Accept", "text/event-stream", "Last-Event-ID", fmt.Sprint(w.Seen()))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return nil // a killed server leaves half a line
		}
		if err := w.take(e); err != nil {
			return err
		}
	}
	return lines.Err()
}

// get asks for the mission's events. headers are names and values.
func (w *Witness) get(ctx context.Context, query string, headers ...string) (*http.Response, error) {
	base, token := w.Server()
	r, err := http.NewRequestWithContext(ctx, "GET", base+w.Mission+"/events"+query, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, refused(response.StatusCode)
	}
	return response, nil
}

// refused returns what a response without events means.
func refused(status int) error {
	if status == http.StatusServiceUnavailable {
		return errors.New("not now")
	}
	return fmt.Errorf("%w: status %d", errBroken, status)
}

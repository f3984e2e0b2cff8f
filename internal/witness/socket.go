//go:build !nows

package witness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/coder/websocket"
)

// BySocket subscribes over a WebSocket. It is nil in builds without them.
var BySocket Follow = OverSocket(http.DefaultClient, nil)

// OverSocket is BySocket with another HTTP client. It doesn't read before held is
// closed, if that isn't nil.
func OverSocket(over *http.Client, held <-chan struct{}) Follow {
	return func(ctx context.Context, w *Witness) error {
		base, token := w.Server()
		conn, response, err := websocket.Dial(ctx, base+"/ws", &websocket.DialOptions{
			HTTPClient: over, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
		})
		if err != nil {
			if response != nil {
				return refused(response.StatusCode)
			}
			return err
		}
		defer conn.CloseNow()
		subscribe := fmt.Appendf(nil, `{"type":"subscribe","topic":"mission","mission_id":"%s","after":%d}`,
			strings.TrimPrefix(w.Mission, "/api/v1/missions/"), w.Seen())
		if err := conn.Write(ctx, websocket.MessageText, subscribe); err != nil {
			return err
		}
		if held != nil {
			<-held
		}
		for {
			if err := w.hear(ctx, conn); err != nil {
				return err
			}
		}
	}
}

// hear takes the events of the next message.
func (w *Witness) hear(ctx context.Context, conn *websocket.Conn) error {
	_, raw, err := conn.Read(ctx)
	if err != nil {
		switch code := websocket.CloseStatus(err); code {
		case -1, websocket.StatusGoingAway:
		case 4408:
			w.Slow++
		default:
			return fmt.Errorf("%w: closed with %d", errBroken, code)
		}
		return err
	}
	var message struct {
		Type, Code string
		Events     []Event
	}
	if err := json.Unmarshal(raw, &message); err != nil {
		return fmt.Errorf("%w: %s", errBroken, raw)
	}
	if message.Type == "error" {
		if message.Code == "database_unavailable" || message.Code == "busy" || message.Code == "timeout" {
			return fmt.Errorf("not now: %s", message.Code)
		}
		return fmt.Errorf("%w: %s", errBroken, raw)
	}
	for _, e := range message.Events {
		if err := w.take(e); err != nil {
			return err
		}
	}
	return nil
}

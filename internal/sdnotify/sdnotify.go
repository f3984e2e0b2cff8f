// Package sdnotify tells systemd when a service of Type=notify is ready and when it
// stops, in the protocol of sd_notify(3).
//
// There is no watchdog. If the server hangs, it waits for the database, and a
// restart doesn't bring that back: it only ends the remaining requests, streams
// and waiting claims.
package sdnotify

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// patience is how long a write may wait while the socket's buffer is full.
const patience = time.Second

// Notifier talks to the service manager that started this process, over the
// datagram socket that it named in NOTIFY_SOCKET: a path, or an abstract name
// after an @. One without a socket says nothing.
type Notifier struct {
	Socket string
	Log    *slog.Logger
}

// tell sends assignments such as READY=1, all at once. An error is only logged:
// serving requests doesn't depend on the manager.
func (n Notifier) tell(assignments ...string) {
	if n.Socket == "" {
		return
	}
	if err := n.send(strings.Join(assignments, "\n")); err != nil {
		n.Log.Warn("can't notify the service manager", "NOTIFY_SOCKET", n.Socket, "message", assignments, "error", err)
	}
}

func (n Notifier) send(message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.Socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}

// Starting says what the wait is for.
func (n Notifier) Starting() { n.tell("STATUS=Bringing up the database") }

// Waiting says why the start takes longer, and that the next message comes within
// limit: the unit's TimeoutStartSec is extended to it.
func (n Notifier) Waiting(reason string, limit time.Duration) {
	n.tell("STATUS=Waiting for the database: "+reason, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", limit.Microseconds()))
}

// Ready says that requests are served at url.
func (n Notifier) Ready(url string) { n.tell("READY=1", "STATUS=Serving at "+url) }

// Stopping says that the server ends within limit. The unit's TimeoutStopSec is
// extended to it, so that it doesn't have to be adjusted to DRAIN_DELAY.
func (n Notifier) Stopping(limit time.Duration) {
	n.tell("STOPPING=1", "STATUS=Draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", limit.Microseconds()))
}

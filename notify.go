package main

// What systemd is told of a service of Type=notify: when it serves and when it
// stops, in the protocol of sd_notify(3). There is no watchdog. What a hung
// server waits for is the database, and a restart doesn't bring that back: it
// only takes the requests, streams and waiting claims that were left.

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// notifyPatience is how long the socket may be full, since a datagram to it
// waits for room.
const notifyPatience = time.Second

// notifier talks to the service manager that started this process, over the
// datagram socket that it named in NOTIFY_SOCKET: a path, or an abstract name
// after an @. One without a socket says nothing.
type notifier struct {
	socket string
	log    *slog.Logger
}

// tell sends assignments such as READY=1, all at once. That it can't is logged
// and no more: the requests don't need a manager.
func (n notifier) tell(assignments ...string) {
	if n.socket == "" {
		return
	}
	if err := n.send(strings.Join(assignments, "\n")); err != nil {
		n.log.Warn("the service manager can't be told", "NOTIFY_SOCKET", n.socket, "message", assignments, "error", err)
	}
}

func (n notifier) send(message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyPatience)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}

// tellStarting says what the wait is for.
func (n notifier) tellStarting() { n.tell("STATUS=Bringing up the database") }

// tellReady says that requests are served at url.
func (n notifier) tellReady(url string) { n.tell("READY=1", "STATUS=Serving at "+url) }

// tellStopping says that the server ends within limit. The unit's
// TimeoutStopSec is prolonged to it, so that nobody has to keep that and
// DRAIN_DELAY in step.
func (n notifier) tellStopping(limit time.Duration) {
	n.tell("STOPPING=1", "STATUS=Draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", limit.Microseconds()))
}

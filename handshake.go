//go:build !nows

package main

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// handshake is the writer that websocket.Accept answers on. It keeps the
// connection, and leaves refusals to the one place that writes errors.
type handshake struct {
	http.ResponseWriter
	wire net.Conn
}

func (h *handshake) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *handshake) Write(refusal []byte) (int, error) { return len(refusal), nil }

// Hijack gives the library small buffers for net/http's. Large frames pass them by.
func (h *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	wire, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = wire
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what came with the handshake
	in := bufio.NewReaderSize(bytes.NewReader(early), max(socketBuffer, len(early)))
	_, err = in.Peek(len(early)) // where the library looks for it
	return wire, bufio.NewReadWriter(in, bufio.NewWriterSize(wire, socketBuffer)), err
}

func malformedHandshake() *apiError {
	return problem(http.StatusBadRequest, "malformed_handshake", "This isn't the handshake of a WebSocket (RFC 6455, 4.2.1).")
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

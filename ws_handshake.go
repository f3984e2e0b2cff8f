//go:build !nows

package main

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"strings"
)

// handshake is the writer that websocket.Accept answers on. It keeps the
// connection, and leaves refusals to the one place that writes errors.
type handshake struct {
	http.ResponseWriter
	wire *wire
}

func (h *handshake) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *handshake) Write(refusal []byte) (int, error) { return len(refusal), nil }

// Hijack gives the library small buffers for net/http's, and the wire for the connection.
func (h *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = newWire(conn)
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what came with the handshake
	in := bufio.NewReaderSize(bytes.NewReader(early), max(socketBuffer, len(early)))
	_, err = in.Peek(len(early)) // where the library looks for it
	return h.wire, bufio.NewReadWriter(in, bufio.NewWriterSize(h.wire, socketControl)), err
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

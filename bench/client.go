package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience is how long a request, such as an import of 10,000 specs, a round of events,
// the start of a process or its end may take on a busy machine.
const patience = 2 * time.Minute

// client is one persistent HTTP/1.1 connection. It does as little as HTTP allows,
// since it shares the cores with what it measures: it writes a request at once,
// and looks only at the status and Content-Length of the response. It isn't safe
// for concurrent use.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	head string // of each request, after the path
	out  bytes.Buffer
	body []byte
}

// dial connects to a base URL; a token, unless empty, goes with each request.
func dial(base, token string) (*client, error) {
	host := strings.TrimPrefix(base, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	head := " HTTP/1.1\r\nHost: " + host + "\r\n"
	if token != "" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 32<<10), head: head}, nil
}

func (c *client) close() { c.conn.Close() }

// get sends a GET and returns the body, which is valid until the next request.
func (c *client) get(path string) ([]byte, error) { return c.call(200, "GET", path, "", "") }

// post sends JSON and returns the body; another status than want is an error.
func (c *client) post(want int, path, body string) ([]byte, error) {
	return c.call(want, "POST", path, "application/json", body)
}

// call sends a request and returns the response's body, which is valid until the
// next request. Another status than want is an error.
func (c *client) call(want int, method, path, contentType, body string) ([]byte, error) {
	c.out.Reset()
	c.out.WriteString(method + " " + path + c.head)
	if contentType != "" {
		fmt.Fprintf(&c.out, "Content-Type: %s\r\nContent-Length: %d\r\n", contentType, len(body))
	}
	c.out.WriteString("\r\n" + body)
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(c.out.Bytes()); err != nil {
		return nil, err
	}
	status, err := c.response()
	if err == nil && status != want {
		err = fmt.Errorf("status %d instead of %d: %.300s", status, want, c.body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return c.body, nil
}

// response reads a response with a Content-Length, or without a body.
func (c *client) response() (status int, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		switch {
		case err != nil:
			return 0, err
		case first && len(line) > 12:
			status, _ = strconv.Atoi(string(line[9:12])) // 0 is never the wanted one
		case len(line) <= len("\r\n"):
			if cap(c.body) < length {
				c.body = make([]byte, length)
			}
			c.body = c.body[:length]
			_, err := io.ReadFull(c.in, c.body)
			return status, err
		default:
			name, value, _ := bytes.Cut(line, []byte(":"))
			if len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")) {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
			}
		}
	}
}

// between returns the text after the last of the marks, each found after the one
// before it, up to the next quote or backslash, or "" if a mark is missing.
func between(text []byte, marks ...string) string {
	for _, mark := range marks {
		i := bytes.Index(text, []byte(mark))
		if i < 0 {
			return ""
		}
		text = text[i+len(mark):]
	}
	if end := bytes.IndexAny(text, `"\`); end >= 0 {
		text = text[:end]
	}
	return string(text)
}

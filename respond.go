package main

// The adapters between a route and its handler: what decodes and checks a
// request, runs the handler, in a transaction where it writes, and sends what
// it returns. Tools have adapters of their own in mcp_tools.go.

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipFrom is the size in bytes from which a compressible body is compressed.
const gzipFrom = 1024

// serveRead adapts a read without parameters.
func serveRead[Out any](do func(ctx context.Context, c *call) (Out, error)) handler {
	return serveQuery(func(ctx context.Context, c *call, q *query) (out Out, err error) {
		if err := q.err(); err != nil {
			return out, err
		}
		return do(ctx, c)
	})
}

// serveQuery adapts a read with parameters, which has to look at q.err before it
// does anything.
func serveQuery[Out any](do func(ctx context.Context, c *call, q *query) (Out, error)) handler {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		out, err := do(r.Context(), c, newQuery(r))
		if err != nil {
			return err
		}
		return respond(w, r, c, out)
	}
}

// withoutQuery adapts what answers by itself, and takes no parameters.
func withoutQuery(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		if err := newQuery(r).err(); err != nil {
			return err
		}
		return h(w, r, c)
	}
}

// checkedRequest is a body, or a tool's arguments. validate checks what can be
// checked without the database, and brings the fields into the form they are
// stored in.
type checkedRequest[T any] interface {
	*T
	validate(v *violations, config *Config)
}

// nothing is the request of routes that take none, and the response of those
// that have none: these return nil, which is a 204.
type nothing struct{}

func (*nothing) validate(*violations, *Config) {}

// serveBody adapts what takes a body.
func serveBody[T any, In checkedRequest[T], Out any](s *Server,
	do func(ctx context.Context, c *call, in In) (*Out, error)) handler {
	return func(w http.ResponseWriter, r *http.Request, c *call) error {
		in := In(new(T))
		hash, err := decodeRequest(r, in)
		if err != nil {
			return err
		}
		c.hash = hash
		if err := s.validate(in); err != nil {
			return err
		}
		out, err := do(r.Context(), c, in)
		if kept, ok := errors.AsType[*keptResponse](err); ok {
			return kept.write(w, r, c)
		}
		if err != nil {
			return err
		}
		made, err := responseOf(c, out)
		if err != nil {
			return err
		}
		return made.write(w, r, c)
	}
}

// validate is a 422 with all that is wrong with a request, if anything is.
func (s *Server) validate(in interface{ validate(*violations, *Config) }) error {
	var v violations
	in.validate(&v, &s.config)
	return v.err()
}

// serveWrite adapts what takes a body and does all of its work in one transaction.
func serveWrite[T any, In checkedRequest[T], Out any](s *Server,
	do func(ctx context.Context, t *tx, c *call, in In) (*Out, error)) handler {
	return serveBody(s, inOneTx(s, do))
}

// inOneTx puts a function into a transaction of its own.
func inOneTx[In, Out any](s *Server,
	do func(ctx context.Context, t *tx, c *call, in In) (*Out, error)) func(context.Context, *call, In) (*Out, error) {
	return func(ctx context.Context, c *call, in In) (*Out, error) {
		return transact(ctx, s, c, func(ctx context.Context, t *tx) (*Out, error) { return do(ctx, t, c, in) })
	}
}

// readBody reads the whole body of r, up to the limit that the middleware has
// set with http.MaxBytesReader; an empty one is nil and needs no Content-Type.
// Its errors: 413 body_too_large, 415 unsupported_media_type, 408
// request_timeout, and 400 incomplete_body for one that breaks off.
func readBody(r *http.Request) ([]byte, error) {
	mediaErr := checkMediaType(r)
	if mediaErr != nil && r.ContentLength > 0 {
		return nil, mediaErr // spares the client the upload
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyProblem(err)
	}
	if len(body) == 0 {
		return nil, nil
	}
	return body, mediaErr
}

// checkMediaType accepts JSON in UTF-8 without a content coding, and for a
// PATCH also the name that RFC 7396 gave it.
func checkMediaType(r *http.Request) error {
	refuse := func(detail string) error {
		return problem(http.StatusUnsupportedMediaType, "unsupported_media_type", detail)
	}
	for _, coding := range r.Header.Values("Content-Encoding") {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return refuse("Send the body without a Content-Encoding.")
		}
	}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || len(r.Header.Values("Content-Type")) > 1 ||
		mediaType != "application/json" &&
			(mediaType != "application/merge-patch+json" || r.Method != http.MethodPatch) {
		return refuse("Send the body as application/json.")
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return refuse("Send the body in UTF-8.")
	}
	return nil
}

// bodyProblem says why a body couldn't be read: whatever it was, it happened
// between the client and here, and not in the database.
func bodyProblem(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem(http.StatusRequestEntityTooLarge, "body_too_large",
			"The body may have at most %d bytes.", tooLarge.Limit).because(err)
	}
	if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
		return problem(http.StatusRequestTimeout, "request_timeout",
			"The body took too long to arrive.").withHeader("Connection", "close").because(err)
	}
	return problem(http.StatusBadRequest, "incomplete_body",
		"The body ended early.").because(err)
}

// jsonResponse is a success, ready to be sent, or to be kept under an
// Idempotency-Key.
type jsonResponse struct {
	status         int
	body           []byte // JSON; nil for a 204
	location, etag string // "" for none
}

// responseOf is newResponse for what may be nil, which is a 204.
func responseOf[Out any](c *call, out *Out) (jsonResponse, error) {
	if out == nil {
		return jsonResponse{status: http.StatusNoContent}, nil
	}
	return newResponse(c, out)
}

// newResponse encodes what a handler returns.
func newResponse(c *call, out any) (made jsonResponse, err error) {
	made.status = http.StatusOK
	if c.traits&makesOne != 0 {
		made.status = http.StatusCreated
		if at, ok := out.(interface{ location() string }); ok {
			made.location = at.location()
		}
	}
	if versioned, ok := out.(interface{ etag() string }); ok {
		made.etag = versioned.etag()
	}
	if made.body, err = encode(out); err != nil {
		return made, fmt.Errorf("encoding a response: %w", err)
	}
	return made, nil
}

func (a jsonResponse) write(w http.ResponseWriter, r *http.Request, c *call) error {
	if a.location != "" {
		w.Header().Set("Location", a.location)
	}
	if a.etag != "" {
		w.Header().Set("ETag", a.etag)
	}
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return nil
	}
	return writeBytes(w, r, c, a.status, "application/json", a.body)
}

// respond answers with what a handler returned. Nothing is sent if it can't be
// encoded.
func respond(w http.ResponseWriter, r *http.Request, c *call, out any) error {
	made, err := newResponse(c, out)
	if err != nil {
		return err
	}
	return made.write(w, r, c)
}

// etagOf is the entity tag of a version of a mission or spec.
func etagOf(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// checkVersion holds If-Match against the version of what is changed: a 412
// when none of the tags given is that version's. Weak tags count, since proxies
// that compress weaken them.
func (c *call) checkVersion(version int64) error {
	if len(c.ifMatch) == 0 {
		return nil
	}
	for tag := range strings.SplitSeq(strings.Join(c.ifMatch, ","), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == etagOf(version) {
			return nil
		}
	}
	return problem(http.StatusPreconditionFailed, "version_mismatch",
		"It has changed since you read it: it is now version %d. Read it again, then decide.", version).
		with("version", version)
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

// writeBytes sends a whole body, compressed where that pays and the client
// takes it. What holds secrets beside what a client sent isn't: the length of a
// compressed response tells them apart (BREACH). An error means that nothing was
// sent.
func writeBytes(w http.ResponseWriter, r *http.Request, c *call, status int, contentType string, body []byte) error {
	header := w.Header()
	release, err := c.holdResponse(len(body))
	if err != nil {
		header.Del("ETag")
		return err
	}
	defer release()
	header.Set("Content-Type", contentType)
	if len(body) > gzipFrom && c.traits&holdsSecrets == 0 {
		header.Add("Vary", "Accept-Encoding")
		if acceptsGzip(r) {
			header.Set("Content-Encoding", "gzip")
			body = compressed(body)
		}
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// A client that has gone is no error of ours, and there is nobody to tell.
	_, _ = w.Write(body)
	return nil
}

func compressed(body []byte) []byte {
	var buffer bytes.Buffer
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	z.Reset(&buffer)
	_, _ = z.Write(body) // a bytes.Buffer takes everything
	_ = z.Close()
	return buffer.Bytes()
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3). What it says of gzip
// counts before what it says of all others.
func acceptsGzip(r *http.Request) (accepts bool) {
	for coding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(coding, ";")
		_, q, weighted := strings.Cut(strings.ReplaceAll(params, " ", ""), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		wanted := !weighted || err == nil && weight > 0
		switch name = strings.TrimSpace(name); {
		case strings.EqualFold(name, "gzip"):
			return wanted
		case name == "*":
			accepts = wanted
		}
	}
	return accepts
}

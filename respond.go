package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipFrom is the size in bytes from which a compressible body is compressed.
const gzipFrom = 1024

// reply is a successful answer, still to be encoded. A transaction keeps a
// copy of it when the request has an Idempotency-Key.
type reply struct {
	status   int
	body     any    // encoded as JSON; nil: no body
	location string // of a thing just made
	etag     string // see etagOf

	// finish fills in what is known only once all statements of the write were
	// sent; nil if nothing is.
	finish func(a *reply) error
}

// etagOf is the entity tag of a version of a mission or spec.
func etagOf(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// checkIfMatch holds a request's If-Match against the version of the thing it
// changes: a 412 when none of the tags given is that version's. Weak tags
// count, since proxies that compress weaken them.
func checkIfMatch(r *http.Request, version int64) error {
	given := r.Header.Values("If-Match")
	if len(given) == 0 {
		return nil
	}
	for tag := range strings.SplitSeq(strings.Join(given, ","), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == etagOf(version) {
			return nil
		}
	}
	return problem(http.StatusPreconditionFailed, "version_mismatch",
		"It has changed since you read it: it is now version %d. Read it again, then decide.", version).
		with("version", version)
}

// respond encodes the reply and writes it. Nothing is sent if it can't be encoded.
func respond(w http.ResponseWriter, r *http.Request, answer reply) error {
	encoded, err := answer.encode()
	if err != nil {
		return err
	}
	return answer.write(w, r, encoded)
}

// respondOK answers 200 with body.
func respondOK(w http.ResponseWriter, r *http.Request, body any) error {
	return respond(w, r, reply{status: http.StatusOK, body: body})
}

func (a *reply) encode() ([]byte, error) {
	if a.finish != nil {
		if err := a.finish(a); err != nil {
			return nil, err
		}
		a.finish = nil
	}
	if a.body == nil {
		return nil, nil
	}
	encoded, err := encode(a.body)
	if err != nil {
		return nil, fmt.Errorf("encoding an answer: %w", err)
	}
	return encoded, nil
}

// write sends the reply with its body, which is already encoded.
func (a reply) write(w http.ResponseWriter, r *http.Request, encoded []byte) error {
	if a.location != "" {
		w.Header().Set("Location", a.location)
	}
	if a.etag != "" {
		w.Header().Set("ETag", a.etag)
	}
	if encoded == nil {
		w.WriteHeader(a.status)
		return nil
	}
	writeBytes(w, r, a.status, "application/json", encoded)
	return nil
}

// list is the answer of every route that lists things.
type list[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// page makes a list of at most limit rows from rows, of which one more than
// limit was asked for: the extra row says that there is a next page. cursor
// makes the cursor that continues after a row.
func page[T any](rows []T, limit int, cursor func(last T) string) list[T] {
	if rows == nil {
		rows = []T{}
	}
	if len(rows) <= limit {
		return list[T]{Items: rows}
	}
	next := cursor(rows[limit-1])
	return list[T]{Items: rows[:limit], NextCursor: &next}
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

// writeBytes sends a whole body, compressed where that pays and the client
// takes it. What is under /auth isn't: it holds secrets beside what a client
// sent, and the length of a compressed answer tells them apart (BREACH).
func writeBytes(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	if len(body) > gzipFrom && !strings.HasPrefix(r.URL.Path, "/api/v1/auth/") {
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

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"tachikoma/internal/witness"
)

// client makes requests with a token, or anonymously without one.
type client struct {
	t     *testing.T
	base  string
	token string
}

const (
	adminEmail   = "root@example.com"
	testPassword = "correct horse battery staple"
)

// logIn returns a client with a session of an account that has the tests' password.
func (c *client) logIn(email string) *client {
	c.t.Helper()
	session := c.post("/api/v1/auth/login", map[string]any{"email": email, "password": testPassword}).want(http.StatusOK)
	return &client{c.t, c.base, session.text("access_token")}
}

// signUp makes an account, as an admin, and returns a client with a session of it.
func (c *client) signUp(name string) *client {
	c.t.Helper()
	email := name + "@example.com"
	account := map[string]any{"email": email, "password": testPassword, "role": "user"}
	c.post("/api/v1/users", account).want(http.StatusCreated)
	return c.logIn(email)
}

// withKey returns a client of the same account that uses a new API key.
func (c *client) withKey(scope string) *client {
	c.t.Helper()
	key := c.post("/api/v1/api-keys", map[string]any{"name": "test", "scope": scope}).want(http.StatusCreated)
	return &client{c.t, c.base, key.text("key")}
}

// answer is a response, read to its end.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

func (c *client) get(path string) *answer            { c.t.Helper(); return c.do("GET", path, nil) }
func (c *client) post(path string, body any) *answer { c.t.Helper(); return c.do("POST", path, body) }

// do makes a request, and ends the test if there is no answer. It asks again while
// the program takes its database for lost, which that is on a machine so busy that it
// gives no answer for a second.
func (c *client) do(method, path string, body any, headers ...string) (a *answer) {
	c.t.Helper()
	eventually(c.t, "the program finds its database", func() bool {
		var err error
		if a, err = c.try(c.t.Context(), method, path, body, headers...); err != nil {
			c.t.Fatal(err)
		}
		return a.status != http.StatusServiceUnavailable || !bytes.Contains(a.body, []byte(`"code":"database_unavailable"`))
	})
	return a
}

// try is do for requests that may fail, and for goroutines of a test. body is
// sent as it is if it is bytes, as JSON otherwise, and not at all if it is nil.
// headers are names and values.
func (c *client) try(ctx context.Context, method, path string, body any, headers ...string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	response, err := c.send(ctx, method, path, body, headers...)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &answer{c.t, method + " " + path, response.StatusCode, response.Header, content}, nil
}

// send is try without reading the response. The caller closes its body.
func (c *client) send(ctx context.Context, method, path string, body any, headers ...string) (*http.Response, error) {
	sent, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return http.DefaultTransport.RoundTrip(r) // redirects are returned, not followed
}

// want ends the test unless the answer has the status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// wantProblem ends the test unless the answer is a problem of that status and code.
func (a *answer) wantProblem(status int, code string) *answer {
	a.t.Helper()
	a.want(status)
	if got := a.text("code"); got != code || a.header.Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("%s: problem %q (%s), want %q: %s", a.what, got, a.header.Get("Content-Type"), code, a.body)
	}
	return a
}

// into decodes the body.
func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
}

// at is what stands at a path of members such as "lease.token", or nil.
func (a *answer) at(path string) any {
	a.t.Helper()
	var v any
	a.into(&v)
	for name := range strings.SplitSeq(path, ".") {
		in, _ := v.(map[string]any)
		v = in[name]
	}
	return v
}

// text is at for a value that must be a string.
func (a *answer) text(path string) string {
	a.t.Helper()
	text, ok := a.at(path).(string)
	if !ok {
		a.t.Fatalf("%s: no text at %s: %s", a.what, path, a.body)
	}
	return text
}

// newMission makes a mission and returns its path, "/api/v1/missions/…".
func (c *client) newMission(name string) string {
	c.t.Helper()
	made := c.post("/api/v1/missions", map[string]any{"name": name}).want(http.StatusCreated)
	return "/api/v1/missions/" + made.text("id")
}

// newActive makes a mission and starts it.
func (c *client) newActive(name string) string {
	c.t.Helper()
	mission := c.newMission(name)
	c.post(mission+"/start", nil).want(http.StatusOK)
	return mission
}

// newSpec makes a spec in the mission at a path. fields go on top of the key and a title.
func (c *client) newSpec(mission, key string, fields map[string]any) {
	c.t.Helper()
	body := map[string]any{"key": key, "title": "Spec " + key}
	for name, value := range fields {
		body[name] = value
	}
	c.post(mission+"/specs", body).want(http.StatusCreated)
}

// complete completes the spec of a claim.
func (c *client) complete(claimed *answer) {
	c.t.Helper()
	lease := map[string]any{"lease_token": claimed.text("lease.token")}
	c.post("/api/v1/specs/"+claimed.text("spec.id")+"/complete", lease).want(http.StatusOK)
}

// importFiles imports spec files, each a path and what is in it, into the mission at a path.
func (c *client) importFiles(mission string, files ...string) {
	c.t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for i := 0; i+1 < len(files); i += 2 {
		err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))})
		if err == nil {
			_, err = io.WriteString(w, files[i+1])
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.do("POST", mission+"/import", packed.Bytes(), "Content-Type", "application/x-tar").want(http.StatusOK)
}

// stream is a stream of server-sent events, read only when the test asks for the next one.
type stream struct {
	t     *testing.T
	body  io.Reader
	lines *bufio.Scanner // of body
}

// stream follows the mission at a path from its beginning, until the test ends.
func (c *client) stream(mission string) *stream {
	c.t.Helper()
	response, err := c.send(c.t.Context(), "GET", mission+"/events", nil, "Accept", "text/event-stream")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || len(response.TransferEncoding) != 1 {
		c.t.Fatalf("a stream of %s: %v", mission, response)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return &stream{c.t, response.Body, lines}
}

// want reads events until one of a type, and checks that none is missing.
func (s *stream) want(kind string, after int64) witness.Event {
	s.t.Helper()
	for s.lines.Scan() {
		data, is := strings.CutPrefix(s.lines.Text(), "data: ")
		if !is {
			continue
		}
		var e witness.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			s.t.Fatalf("%v: %s", err, data)
		}
		if after++; e.Seq != after {
			s.t.Fatalf("got seq %d, want %d", e.Seq, after)
		}
		if e.Type == kind {
			return e
		}
	}
	s.t.Fatalf("the stream ended before %s: %v", kind, s.lines.Err())
	panic("unreachable")
}

// rest reads to the last chunk, which a connection that was cut doesn't have.
func (s *stream) rest() string {
	s.t.Helper()
	content, err := io.ReadAll(s.body)
	if err != nil {
		s.t.Errorf("a stream ended with: %v", err)
	}
	return string(content)
}

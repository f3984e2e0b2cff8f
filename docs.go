package main

// The API's description: openapi.json as it is, and a page for people that is
// made from it. Both are made once, at start, and are the same for everybody.

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed openapi.json
var openAPI []byte

//go:embed docs.html
var docsTemplate string

// asset is an answer that doesn't change while the process runs.
type asset struct {
	body        []byte
	contentType string
	etag        string // weak, since the compressed answer has it too
	policy      string // Content-Security-Policy of a page; "" otherwise
}

func newAsset(body []byte, contentType string) asset {
	sum := sha256.Sum256(body)
	return asset{body: body, contentType: contentType, etag: `W/"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`}
}

// docs are the OpenAPI document and its page.
type docs struct{ document, page asset }

// theDocs are made once, however many servers a process has.
var theDocs = sync.OnceValues(func() (docs, error) { return newDocs(openAPI) })

// newDocs makes a document and its page ready to be served. It fails on a
// document that the page can't show.
func newDocs(document []byte) (docs, error) {
	var d description
	if err := json.Unmarshal(document, &d); err != nil {
		return docs{}, fmt.Errorf("reading openapi.json: %w", err)
	}
	if err := d.arrange(); err != nil {
		return docs{}, fmt.Errorf("openapi.json: %w", err)
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"prose": prose, "line": line}).Parse(docsTemplate)
	if err != nil {
		return docs{}, fmt.Errorf("reading docs.html: %w", err)
	}
	var html bytes.Buffer
	if err := t.Execute(&html, &d); err != nil {
		return docs{}, fmt.Errorf("making the page of openapi.json: %w", err)
	}
	page := newAsset(html.Bytes(), "text/html; charset=utf-8")
	// The policy lets nothing in but what the page holds itself.
	_, style, _ := bytes.Cut(page.body, []byte("<style>"))
	style, _, _ = bytes.Cut(style, []byte("</style>"))
	sum := sha256.Sum256(style)
	page.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; " +
		"img-src data:; " + // the empty icon, without which browsers ask for /favicon.ico
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return docs{newAsset(document, "application/json"), page}, nil
}

// getOpenAPI is GET /api/v1/openapi.json.
func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request) error {
	return s.docs.document.serve(w, r)
}

// getDocs is GET /api/v1/docs.
func (s *Server) getDocs(w http.ResponseWriter, r *http.Request) error {
	return s.docs.page.serve(w, r)
}

// getRoot is GET /: people who try the server's address find the docs.
func (s *Server) getRoot(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	return respond(w, r, reply{status: http.StatusFound, location: "/api/v1/docs"})
}

// serve answers with the asset, or with 304 to a client that has it.
func (a asset) serve(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	header := w.Header()
	header.Set("Cache-Control", "no-cache") // may be kept, if it is asked for again each time
	header.Set("ETag", a.etag)
	if a.policy != "" {
		header.Set("Content-Security-Policy", a.policy)
		header.Set("Referrer-Policy", "no-referrer")
	}
	for tag := range strings.SplitSeq(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == strings.TrimPrefix(a.etag, "W/") {
			header.Add("Vary", "Accept-Encoding") // as on the 200
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	writeBytes(w, r, http.StatusOK, a.contentType, a.body)
	return nil
}

// Curl is a command that makes the request of the operation's example, or ""
// for a WebSocket, with which curl can't talk. What isn't for a terminal becomes
// a file.
func (o *operation) Curl() template.HTML {
	if slices.ContainsFunc(o.Responses, func(r entry[*response]) bool { return r.Name == "101" }) {
		return ""
	}
	path, query := o.Path, url.Values{}
	var words []string
	if len(o.Security) > 0 {
		words = append(words, `-H "Authorization: Bearer $TOKEN"`)
	}
	for _, p := range o.Parameters {
		switch example := fmt.Sprint(p.Example); {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(example))
		case p.Required && p.In == "query":
			query.Set(p.Name, example)
		case p.Required:
			words = append(words, "-H "+shellQuote(p.Name+": "+example))
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	method := "-X " + o.Method + " "
	if body := o.JSONBody(); body != nil {
		words = append(words, "-H 'Content-Type: application/json'", "-d "+shellQuote(body.example()))
	} else if len(o.RequestBody.Content) > 0 {
		words = append(words, "-H 'Content-Type: "+o.RequestBody.Content[0].Name+"'", "--data-binary @specs.tar")
	}
	for _, answer := range o.Responses {
		if len(answer.Value.Content) > 0 && !readable(answer.Value.Content[0].Name) {
			words = append(words, "--remote-name --remote-header-name")
		}
	}
	if o.Method == http.MethodGet || o.Method == http.MethodPost && len(o.RequestBody.Content) > 0 {
		method = "" // curl's own choice
	}
	command := strings.Join(append([]string{"curl " + method + `"$TACHIKOMA` + path + `"`}, words...), " \\\n  ")
	return template.HTML(escaper.Replace(command))
}

// readable reports whether what has the media type may go to a terminal.
func readable(mediaType string) bool {
	return strings.HasPrefix(mediaType, "text/") || strings.HasSuffix(mediaType, "json")
}

// example is the example in one line if it is short, and indented otherwise.
func (c *content) example() string {
	var text bytes.Buffer
	_ = json.Compact(&text, c.Example) // it has been decoded
	if text.Len() > 72 {
		text.Reset()
		_ = json.Indent(&text, c.Example, "  ", "  ")
	}
	return text.String()
}

// prose makes paragraphs of a text in as much of Markdown as descriptions use:
// blank lines between paragraphs, and code in backquotes. All else is shown as
// it is written.
func prose(text string) template.HTML {
	return "<p>" + line(text)
}

// line is prose without the tag of its first paragraph.
func line(text string) template.HTML {
	paragraphs := strings.Split(strings.TrimSpace(text), "\n\n")
	for i := range paragraphs {
		paragraphs[i] = withCode(paragraphs[i])
	}
	return template.HTML(strings.Join(paragraphs, "<p>"))
}

// escaper is for text between tags, where quotes mean nothing. html/template
// escapes them too, which the commands are full of.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// withCode is a paragraph, escaped, with code where it has backquotes.
func withCode(text string) string {
	parts := strings.Split(text, "`")
	for i, part := range parts {
		parts[i] = escaper.Replace(part)
		if i%2 == 1 && i < len(parts)-1 {
			parts[i] = "<code>" + parts[i] + "</code>"
		} else if i%2 == 1 {
			parts[i] = "`" + parts[i] // has no partner
		}
	}
	return strings.Join(parts, "")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._@+-]+$`)

// shellQuote writes a word so that a shell takes it as it is.
func shellQuote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

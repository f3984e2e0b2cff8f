package main

// The API's description: docs/openapi.json, and docs/api.html, a page for people that
// internal/apidocs makes from it. The server sends both as they are. The schemas
// of tools are derived from their types.

//go:generate go run ./internal/apidocs/gendocs docs/openapi.json docs/api.html

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	//go:embed docs/openapi.json
	openAPI []byte
	//go:embed docs/api.html
	docsHTML []byte
)

// asset is a response that doesn't change while the process runs.
type asset struct {
	body        []byte
	contentType string
	etag        string // weak, since the compressed response has it too
	policy      string // Content-Security-Policy of a page; "" otherwise
}

func newAsset(body []byte, contentType string) asset {
	sum := sha256.Sum256(body)
	return asset{body: body, contentType: contentType, etag: `W/"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`}
}

// docs are the OpenAPI document and its page.
type docs struct{ document, page asset }

// theDocs are made once, however many servers a process has.
var theDocs = sync.OnceValue(func() docs {
	page := newAsset(docsHTML, "text/html; charset=utf-8")
	// The policy allows only what the page itself contains.
	_, style, _ := bytes.Cut(page.body, []byte("<style>"))
	style, _, _ = bytes.Cut(style, []byte("</style>"))
	sum := sha256.Sum256(style)
	page.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; " +
		"img-src data:; " + // the empty icon, without which browsers ask for /favicon.ico
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return docs{newAsset(openAPI, "application/json"), page}
})

// getOpenAPI is GET /api/v1/openapi.json.
func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request, c *call) error {
	return s.docs.document.serve(w, r, c)
}

// docsAddress is the server's address in docs/api.html.
const docsAddress = "http://127.0.0.1:8080"

// getDocs is GET /api/v1/docs: the page with the address that it was asked for by.
func (s *Server) getDocs(w http.ResponseWriter, r *http.Request, c *call) error {
	address := html.EscapeString(s.addressFor(r))
	page := newAsset(bytes.Replace(s.docs.page.body, []byte(docsAddress), []byte(address), 1), s.docs.page.contentType)
	page.policy = s.docs.page.policy
	return page.serve(w, r, c)
}

// serve answers with the asset, or with 304 to a client that has it.
func (a asset) serve(w http.ResponseWriter, r *http.Request, c *call) error {
	header := w.Header()
	header.Set("Cache-Control", "no-cache") // may be stored, but must be revalidated each time
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
	return writeBytes(w, r, c, http.StatusOK, a.contentType, a.body)
}

// schemaOf describes a type as encoding/json writes it. A struct's fields are
// required unless they may be left out (omitempty, omitzero), as all pointers
// may; their tags doc and enum, the latter separated by commas, say more. A
// schema names one type at a time, since some clients support no more.
func schemaOf(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Interface:
		return map[string]any{"type": "object"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Struct:
		if t != reflect.TypeFor[time.Time]() {
			return structSchema(t)
		}
	}
	return map[string]any{"type": "string"}
}

// structSchema describes an object that has the fields of t.
func structSchema(t reflect.Type) map[string]any {
	properties, required := make(map[string]any), []string{}
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue // the fields of an embedded struct are visible themselves
		}
		property := schemaOf(field.Type)
		if doc := field.Tag.Get("doc"); doc != "" {
			property["description"] = doc
		}
		if words := field.Tag.Get("enum"); words != "" {
			property["enum"] = strings.Split(words, ",")
		}
		properties[name] = property
		if !slices.Contains([]string{"omitempty", "omitzero"}, options) {
			required = append(required, name)
		}
	}
	schema := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

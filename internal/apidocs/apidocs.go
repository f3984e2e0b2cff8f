// Package apidocs makes the page that shows people an API, from its OpenAPI
// document: one HTML file without scripts that needs no other file.
//
// It covers the part of OpenAPI 3.1 that openapi.json uses, and one extension:
// x-permission says who may call an operation, see [Callers].
package apidocs

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

//go:embed page.html
var pageTemplate string

// Page returns the page of an OpenAPI document. The same document always gives the
// same bytes. The error is for a document that the page can't show, such as one
// with an unknown permission, a parameter that isn't defined, or a request body
// without an example.
func Page(document []byte) ([]byte, error) {
	var d description
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("reading the document: %w", err)
	}
	if err := d.arrange(); err != nil {
		return nil, err
	}
	t, err := template.New("page").Funcs(template.FuncMap{"prose": prose, "line": line}).Parse(pageTemplate)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, &d); err != nil {
		return nil, fmt.Errorf("making the page: %w", err)
	}
	return page.Bytes(), nil
}

// Curl is a command that makes the request of the operation's example, or ""
// for a WebSocket, which curl doesn't support. It writes to a file what isn't
// readable in a terminal.
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
		method = "" // the one that curl chooses
	}
	command := strings.Join(append([]string{"curl " + method + `"$TACHIKOMA` + path + `"`}, words...), " \\\n  ")
	return template.HTML(escaper.Replace(command))
}

// readable reports whether content of the media type can be written to a terminal.
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

// prose makes HTML paragraphs of a text in the part of Markdown that descriptions
// use: blank lines between paragraphs, and code in backquotes. All else is shown
// as it is written.
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

// escaper is for text between tags, where quotes have no meaning. html/template
// would escape them too, and the commands are full of them.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// withCode is a paragraph, escaped, with code where it has backquotes.
func withCode(text string) string {
	parts := strings.Split(text, "`")
	for i, part := range parts {
		parts[i] = escaper.Replace(part)
		if i%2 == 1 && i < len(parts)-1 {
			parts[i] = "<code>" + parts[i] + "</code>"
		} else if i%2 == 1 {
			parts[i] = "`" + parts[i] // is unpaired
		}
	}
	return strings.Join(parts, "")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._@+-]+$`)

// shellQuote quotes a word so that a shell takes it literally.
func shellQuote(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

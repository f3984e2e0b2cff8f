package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/apidocs"
)

// callers are the words of the page, and of the README, for the permissions.
var callers = apidocs.Callers

// docsPage is the page and the header it came with.
func docsPage(t *testing.T) (string, http.Header) {
	t.Helper()
	a := newTestServer(t, nil).anonymous().get("/api/v1/docs").want(http.StatusOK)
	return string(a.body), a.header
}

// attributes are the values that an attribute has in the page's tags.
func attributes(page, name string) []string {
	var values []string
	for _, m := range regexp.MustCompile(`<[^>]*\s`+name+`=("[^"]*"|[^\s>]*)`).FindAllStringSubmatch(page, -1) {
		values = append(values, strings.Trim(m[1], `"`))
	}
	return values
}

func TestDocsPageIsMadeFromTheDocument(t *testing.T) {
	t.Parallel()
	page, err := apidocs.Page(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, docsHTML) {
		t.Error("docs.html isn't the page that openapi.json makes: run go generate")
	}
}

func TestDocsPageIsSmallAndNeedsNothingElse(t *testing.T) {
	t.Parallel()
	page, header := docsPage(t)
	if len(page) > 100<<10 {
		t.Errorf("the page has %d bytes, want at most 100 KiB", len(page))
	}
	if found := regexp.MustCompile(`(?i)<(script|img|iframe|object|embed|form|base)\b|<[^>]*\s(src|srcset|style|on\w+)=|@import|url\(`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, href := range attributes(page, "href") {
		if !strings.HasPrefix(href, "#") && href != "openapi.json" && href != "data:," {
			t.Errorf("the page leads to %q", href)
		}
	}
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(page, -1)
	if len(styles) != 1 {
		t.Fatalf("the page has %d styles, want 1", len(styles))
	}
	sum := sha256.Sum256([]byte(styles[0][1]))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy,
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestDocsPageHasEveryOperationAndSchema(t *testing.T) {
	t.Parallel()
	page, _ := docsPage(t)
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	content, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	ids := attributes(page, "id")
	for path, operations := range document.Paths {
		for method, o := range operations {
			_, article, _ := strings.Cut(page, "<article id="+o.OperationID+">")
			article, _, _ = strings.Cut(article, "</article>")
			// The path is in the command with ids from the examples.
			literal := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), `[\w-]+`)
			command := regexp.MustCompile(`<pre tabindex=0>curl (-X ` + strings.ToUpper(method) + ` )?"\$TACHIKOMA` + literal + `[?"]`)
			_, socket := o.Responses["101"] // curl can't talk with it
			if command.MatchString(article) == socket || !strings.Contains(article, html.EscapeString(o.Summary)) {
				t.Errorf("%s: the page has no section with its summary and a command: %s", o.OperationID, article)
			}
		}
	}
	for name := range document.Components.Schemas {
		if !slices.Contains(ids, "schema-"+name) {
			t.Errorf("the page has no schema %s", name)
		}
	}
	if len(document.Paths) == 0 || len(document.Components.Schemas) == 0 {
		t.Error("openapi.json has no paths or no schemas")
	}
	for _, href := range attributes(page, "href") {
		if id, internal := strings.CutPrefix(href, "#"); internal && !slices.Contains(ids, id) {
			t.Errorf("a link leads to %s, which isn't there", href)
		}
	}
	slices.Sort(ids)
	if once := slices.Compact(slices.Clone(ids)); len(once) != len(ids) {
		t.Errorf("an id is there twice: %q", ids)
	}
}

func TestDocsAreSentOnceToEachClient(t *testing.T) {
	t.Parallel()
	nobody := newTestServer(t, nil).anonymous()
	document, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if a := nobody.get("/api/v1/openapi.json").want(http.StatusOK); !bytes.Equal(a.body, document) || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("the document isn't sent as it is, but as %s: %.100s", a.header.Get("Content-Type"), a.body)
	}
	for _, path := range []string{"/api/v1/openapi.json", "/api/v1/docs"} {
		whole := nobody.get(path).want(http.StatusOK)
		etag := whole.header.Get("ETag")
		if !strings.HasPrefix(etag, `W/"`) || whole.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: ETag %s, Cache-Control %q", path, etag, whole.header.Get("Cache-Control"))
		}
		for _, known := range []string{etag, strings.TrimPrefix(etag, "W/"), `"other", ` + etag, "*"} {
			a := nobody.do("GET", path, nil, "If-None-Match", known).want(http.StatusNotModified)
			for _, name := range []string{"ETag", "Cache-Control", "Vary", "Content-Security-Policy"} {
				if got, want := a.header.Get(name), whole.header.Get(name); got != want {
					t.Errorf("%s: %s of the 304 is %q, want %q", path, name, got, want)
				}
			}
		}
		nobody.do("GET", path, nil, "If-None-Match", `W/"other"`).want(http.StatusOK)

		packed := nobody.do("GET", path, nil, "Accept-Encoding", "gzip").want(http.StatusOK)
		z, err := gzip.NewReader(bytes.NewReader(packed.body))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if content, err := io.ReadAll(z); err != nil || !bytes.Equal(content, whole.body) || packed.header.Get("ETag") != etag {
			t.Errorf("%s: compressed it is another answer (%v)", path, err)
		}
		if head := nobody.do("HEAD", path, nil).want(http.StatusOK); len(head.body) > 0 || head.header.Get("ETag") != etag {
			t.Errorf("%s: HEAD has %d bytes and the ETag %s", path, len(head.body), head.header.Get("ETag"))
		}
	}
}

func TestServersAddressLeadsToTheDocs(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.RoundTrip(r) // which doesn't follow redirects
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Location"); response.StatusCode != http.StatusFound || got != "/api/v1/docs" {
		t.Errorf("status %d, to %q", response.StatusCode, got)
	}
	var console strings.Builder
	if s.greet(t.Context(), &console); !strings.Contains(console.String(), s.url()+"/api/v1/docs ") {
		t.Errorf("the console doesn't name the docs: %s", console.String())
	}
}

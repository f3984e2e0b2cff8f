package apidocs

import (
	"strings"
	"testing"
)

func TestProseOfDescriptionsIsEscaped(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "<p>",
		"one `a<b>` two":          "<p>one <code>a&lt;b&gt;</code> two",
		"one\n\n<script>two & so": "<p>one<p>&lt;script&gt;two &amp; so",
		"`a` and `b":              "<p><code>a</code> and `b",
		"`</code><img>`":          "<p><code>&lt;/code&gt;&lt;img&gt;</code>",
	} {
		if got := string(prose(text)); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestPageSaysWhatFits(t *testing.T) {
	t.Parallel()
	page, err := Page([]byte(`{"components": {"schemas": {"Thing": {"properties": {
		"open": {"description": "By type:\n\nmany."},
		"short": {"type": "string", "minLength": 1},
		"some": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
		"several": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}
	}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"open <i>anything, optional</i><dd>By type:<p>many.<dt>",
		"short <i>string (not empty), optional</i>",
		"some <i>integer (1 to 9) or null, optional</i>",
		"several <i>list of <code>a</code>, <code>b</code> (at most 3 items), optional</i>",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page has no %s", want)
		}
	}
}

func TestPageIsRefusedForABrokenDocument(t *testing.T) {
	t.Parallel()
	const operation = `"operationId": "read", "tags": ["T"], "x-permission": "public"`
	with := func(operation string) string {
		return `{"tags": [{"name": "T"}], "paths": {"/x": {"get": {` + operation + `}}}}`
	}
	withParameter := func(p string) string { return with(operation + `, "parameters": [` + p + `]`) }
	withBody := func(media string) string {
		return with(operation + `, "requestBody": {"content": {"application/json": ` + media + `}}`)
	}
	if _, err := Page([]byte(with(operation))); err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string]string{
		"no JSON":              `{"paths": `,
		"paths in a list":      `{"paths": [1]}`,
		"an unknown caller":    with(strings.Replace(operation, "public", "publik", 1)),
		"an unknown tag":       with(strings.Replace(operation, `["T"]`, `["U"]`, 1)),
		"a missing parameter":  withParameter(`{"$ref": "#/components/parameters/Gone"}`),
		"a missing answer":     with(operation + `, "responses": {"200": {"$ref": "#/components/responses/Gone"}}`),
		"a missing schema":     withBody(`{"schema": {"$ref": "#/components/schemas/Gone"}, "example": {}}`),
		"a body, no example":   withBody(`{"schema": {}}`),
		"a path, no example":   withParameter(`{"name": "a", "in": "path", "required": true, "schema": {}}`),
		"an untyped parameter": withParameter(`{"name": "a", "in": "query"}`),
	} {
		if _, err := Page([]byte(document)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

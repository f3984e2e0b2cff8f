package jsonschema

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSchemaChecker(t *testing.T) {
	t.Parallel()
	named := make(map[string]*Schema)
	if err := json.Unmarshal([]byte(`{
		"Cat": {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}},
		"Dog": {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "dog"}, "friend": {"$ref": "#/components/schemas/Pet"}}},
		"Pet": {"oneOf": [{"$ref": "#/components/schemas/Cat"}, {"$ref": "#/components/schemas/Dog"}], "discriminator": {"propertyName": "kind"}}
	}`), &named); err != nil {
		t.Fatal(err)
	}
	for name, s := range named {
		if err := s.Link(name, named); err != nil {
			t.Fatal(err)
		}
	}
	const object = `{"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}`
	for _, test := range []struct{ schema, value, problems string }{
		{`{}`, `{"a": [1]}`, ``},
		{`true`, `{"a": [1]}`, ``},
		{`false`, `1`, `the value isn't allowed`},
		{`{"type": "string"}`, `null`, `the value is null, not string`},
		{`{"type": ["string", "null"]}`, `null`, ``},
		{`{"type": "integer"}`, `1.5`, `the value is 1.5, not integer`},
		{`{"type": "integer"}`, `1e2`, `the value is 1e2, not integer`},
		{`{"type": "number"}`, `1.5`, ``},
		{`{"type": "boolean"}`, `"true"`, `the value is "true", not boolean`},
		{`{"const": "a"}`, `"b"`, `the value is "b", not "a"`},
		{`{"enum": ["a", null]}`, `null`, ``},
		{`{"enum": ["a", null]}`, `"b"`, `the value is "b", not one of ["a",null]`},
		{`{"minLength": 1, "maxLength": 2}`, `"äöü"`, `the value has 3 characters`},
		{`{"minLength": 1}`, `""`, `the value has 0 characters`},
		{`{"maxLength": 3}`, `"äöü"`, ``},
		{`{"pattern": "^a+$"}`, `"ab"`, `the value doesn't match ^a+$: "ab"`},
		{`{"format": "uuid"}`, `"01997a3e"`, `the value isn't a valid uuid: "01997a3e"`},
		{`{"format": "uuid"}`, `"01997a3e-5b60-7c1a-9d2e-3f4a5b6c7d0a"`, ``},
		{`{"format": "date-time"}`, `"2026-01-31"`, `the value isn't a valid date-time: "2026-01-31"`},
		{`{"format": "date-time"}`, `"2026-01-31T12:00:00.5Z"`, ``},
		{`{"format": "email"}`, `"Ada <ada@example.com>"`, `the value isn't a valid email: "Ada <ada@example.com>"`},
		{`{"format": "email"}`, `"ada@example.com"`, ``},
		{`{"format": "uri"}`, `"/docs"`, `the value isn't a valid uri: "/docs"`},
		{`{"format": "uri"}`, `"https://example.com/docs"`, ``},
		{`{"minimum": 0, "maximum": 9}`, `10`, `the value is out of range: 10`},
		{`{"minimum": 0, "maximum": 9}`, `-1`, `the value is out of range: -1`},
		{`{"minItems": 2, "maxItems": 3}`, `[1]`, `the value has 1 entries`},
		{`{"maxItems": 0}`, `[1]`, `the value has 1 entries`},
		{`{"uniqueItems": true}`, `[{"a": 1}, {"a": 1}]`, `[1] is a duplicate`},
		{`{"items": {"type": "string"}}`, `["a", 1, 2]`, `[1] is 1, not string; [2] is 2, not string`},
		{object, `{}`, `a is missing`},
		{object, `{"a": 1}`, `a is 1, not string`},
		{object, `{"a": "", "b": 1}`, `b isn't described`},
		{`{"type": "object"}`, `{"b": 1}`, `b isn't described`},
		{`{"type": "object", "additionalProperties": true}`, `{"b": {"c": 1}}`, ``},
		{`{"type": "object", "additionalProperties": false}`, `{"b": 1}`, `b isn't allowed`},
		{`{"type": "object", "additionalProperties": {"type": "string"}}`, `{"b": 1}`, `b is 1, not string`},
		{`{"type": "object", "properties": {"in": ` + object + `}}`, `{"in": {"a": "", "b": 1}}`, `in.b isn't described`},
		{`{"allOf": [` + object + `, {"properties": {"b": {"enum": [1, 2]}}}]}`, `{"a": "", "b": 1}`, ``},
		{`{"allOf": [` + object + `, {"properties": {"b": {"enum": [1, 2]}}}]}`, `{"a": "", "b": 3, "c": 1}`, `b is 3, not one of [1,2]; c isn't described`},
		{`{"allOf": [` + object + `], "additionalProperties": true}`, `{"a": "", "b": 3}`, ``},
		{`{"anyOf": [` + object + `, {"type": "null"}]}`, `null`, ``},
		{`{"anyOf": [` + object + `, {"type": "null"}]}`, `{"a": "", "b": 1}`, `b isn't described`},
		{`{"anyOf": [` + object + `, {"type": "null"}]}`, `{"a": 1}`, `a is 1, not string`},
		{`{"anyOf": [{"type": "string"}, {"type": "null"}]}`, `1`, `the value fits none of the schemas: 1`},
		{`{"oneOf": [{"minimum": 1}, {"minimum": 2}]}`, `1`, ``},
		{`{"oneOf": [{"minimum": 1}, {"minimum": 2}]}`, `2`, `the value fits 2 of the schemas, not one`},
		{`{"$ref": "#/components/schemas/Pet"}`, `{"kind": "cat", "lives": 9}`, ``},
		{`{"$ref": "#/components/schemas/Pet"}`, `{"kind": "cat", "lives": 10}`, `lives is out of range: 10`},
		{`{"$ref": "#/components/schemas/Pet"}`, `{"kind": "dog", "friend": {"kind": "cat", "lives": 0}}`, `friend.lives is out of range: 0`},
		{`{"$ref": "#/components/schemas/Pet"}`, `{"kind": "dog", "lives": 1}`, `lives isn't described`},
	} {
		var s Schema
		if err := json.Unmarshal([]byte(test.schema), &s); err != nil {
			t.Errorf("%s: %v", test.schema, err)
			continue
		}
		if err := s.Link("", named); err != nil {
			t.Errorf("%s: %v", test.schema, err)
			continue
		}
		var v any
		if err := Decode([]byte(test.value), &v); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.Problems(v, true), "; "); got != test.problems {
			t.Errorf("%s of %s: %q, want %q", test.value, test.schema, got, test.problems)
		}
		if got := s.Problems(v, false); strings.Contains(strings.Join(got, ""), "isn't described") {
			t.Errorf("%s of %s: %q, although it is open", test.value, test.schema, got)
		}
	}
	for _, bad := range []string{`{"minimun": 1}`, `{"properties": {"a": {"if": true}}}`} {
		if json.Unmarshal([]byte(bad), &Schema{}) == nil {
			t.Errorf("%s was taken for a schema", bad)
		}
	}
	for _, bad := range []Schema{{Ref: "#/components/schemas/Cow"}, {Pattern: "("}, {Items: &Schema{Ref: "Pet"}}} {
		if bad.Link("", named) == nil {
			t.Errorf("%+v could be linked", bad)
		}
	}
}

// Package jsonschema checks values against JSON Schemas, in the part of draft
// 2020-12 that openapi.json uses, and what OpenAPI adds to it. The tests check all
// requests and responses against openapi.json with it.
package jsonschema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/mail"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Schema is a JSON Schema. Decoding one fails on keywords other than those below,
// and Link must be called before any other method. After that it is only read, and
// safe for concurrent use.
type Schema struct {
	Ref                  string             `json:"$ref"`
	Type                 Types              `json:"type"`
	Properties           map[string]*Schema `json:"properties"`
	Required             []string           `json:"required"`
	AdditionalProperties *Schema            `json:"additionalProperties"`
	Items                *Schema            `json:"items"`
	Enum                 []any              `json:"enum"`
	Const                any                `json:"const"`
	MinLength            int                `json:"minLength"`
	MaxLength            *int               `json:"maxLength"`
	Pattern              string             `json:"pattern"`
	Format               string             `json:"format"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`
	MinItems             int                `json:"minItems"`
	MaxItems             *int               `json:"maxItems"`
	UniqueItems          bool               `json:"uniqueItems"`
	AllOf                []*Schema          `json:"allOf"`
	AnyOf                []*Schema          `json:"anyOf"`
	OneOf                []*Schema          `json:"oneOf"`
	Discriminator        *struct {
		PropertyName string            `json:"propertyName"`
		Mapping      map[string]string `json:"mapping"`
	} `json:"discriminator"`
	Default     any    `json:"default"`
	Description string `json:"description"`
	Title       string `json:"title"`
	Examples    []any  `json:"examples"`

	nothing  bool           // the schema false
	anything bool           // no keyword in it refuses anything
	target   *Schema        // what Ref names
	pattern  *regexp.Regexp // Pattern
}

// Types is the value of the keyword type: a name, or a list of names.
type Types []string

// UnmarshalJSON takes both forms.
func (t *Types) UnmarshalJSON(data []byte) error {
	if data[0] != '"' {
		return json.Unmarshal(data, (*[]string)(t))
	}
	*t = make([]string, 1)
	return json.Unmarshal(data, &(*t)[0])
}

// UnmarshalJSON also takes the schemas true and false.
func (s *Schema) UnmarshalJSON(data []byte) error {
	if text := string(data); text == "true" || text == "false" {
		s.nothing = text == "false"
		return nil
	}
	type plain Schema // without this method
	return Decode(data, (*plain)(s))
}

// Decode is json.Unmarshal, but refuses unknown fields and keeps numbers as
// json.Number, which Problems expects.
func Decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	d.UseNumber()
	return d.Decode(v)
}

// Link resolves the references of s and of every schema in it, each of which is
// "#/components/schemas/" and a name in named, and compiles the patterns. path
// says in errors where s is. The schemas in named must be linked separately.
func (s *Schema) Link(path string, named map[string]*Schema) error {
	var err error
	bare := *s
	bare.Default, bare.Description, bare.Title, bare.Examples = nil, "", "", nil
	s.anything = reflect.DeepEqual(bare, Schema{})
	if s.Pattern != "" {
		if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if s.Ref != "" {
		name, local := strings.CutPrefix(s.Ref, "#/components/schemas/")
		if s.target = named[name]; s.target == nil || !local {
			return fmt.Errorf("%s: there is no %s", path, s.Ref)
		}
	}
	for path, inner := range s.Inside(path) {
		if err := inner.Link(path, named); err != nil {
			return err
		}
	}
	return nil
}

// Inside yields every schema directly in s, with its path, which begins with
// that of s.
func (s *Schema) Inside(path string) iter.Seq2[string, *Schema] {
	return func(yield func(string, *Schema) bool) {
		for name, inner := range s.Properties {
			if !yield(path+".properties."+name, inner) {
				return
			}
		}
		for keyword, list := range map[string][]*Schema{
			"allOf": s.AllOf, "anyOf": s.AnyOf, "oneOf": s.OneOf, "items": {s.Items},
			"additionalProperties": {s.AdditionalProperties},
		} {
			for i, inner := range list {
				if inner != nil && !yield(fmt.Sprintf("%s.%s[%d]", path, keyword, i), inner) {
					return
				}
			}
		}
	}
}

// Target is the schema that the reference of s leads to, through further ones,
// or s itself if it has no reference.
func (s *Schema) Target() *Schema {
	for s.target != nil {
		s = s.target
	}
	return s
}

// IsFalse reports whether s is the schema false, which no value fits.
func (s *Schema) IsFalse() bool { return s.nothing }

// IsOpen reports whether s has no keyword that any value could break.
func (s *Schema) IsOpen() bool { return s.anything }

// Problems returns what keeps v from matching, one line for each problem, sorted,
// each beginning with its path. v is a value from Decode. closed also refuses
// members of objects that no schema describes.
func (s *Schema) Problems(v any, closed bool) []string {
	c := checking{closed: closed}
	c.value(s, "", v)
	slices.Sort(c.problems)
	return c.problems
}

// checking is one walk through a value.
type checking struct {
	closed   bool
	problems []string
}

func (c *checking) fail(path, message string, args ...any) {
	if path == "" {
		path = "the value"
	}
	c.problems = append(c.problems, strings.TrimPrefix(path, ".")+" "+fmt.Sprintf(message, args...))
}

// value checks a value against all schemas of its place.
func (c *checking) value(s *Schema, path string, v any) {
	described := make(map[string]bool)
	open := c.against(s, path, v, described)
	if object, ok := v.(map[string]any); ok && c.closed && !open {
		for name := range object {
			if !described[name] {
				c.fail(path+"."+name, "isn't described")
			}
		}
	}
}

// against checks a value against one schema, adds the members that it describes
// to described, and reports whether it describes all there could be.
func (c *checking) against(s *Schema, path string, v any, described map[string]bool) (open bool) {
	if s.nothing {
		c.fail(path, "isn't allowed")
		return true
	}
	if len(s.Type) > 0 && !slices.ContainsFunc(s.Type, func(name string) bool { return hasType(v, name) }) {
		c.fail(path, "is %s, not %s", brief(v), strings.Join(s.Type, " or "))
		return true // the rest would only repeat it
	}
	if s.Const != nil && !reflect.DeepEqual(v, s.Const) {
		c.fail(path, "is %s, not %s", brief(v), brief(s.Const))
	}
	if s.Enum != nil && !slices.ContainsFunc(s.Enum, func(one any) bool { return reflect.DeepEqual(v, one) }) {
		c.fail(path, "is %s, not one of %s", brief(v), brief(s.Enum))
	}
	switch v := v.(type) {
	case string:
		c.text(s, path, v)
	case json.Number:
		n, _ := v.Float64()
		if s.Minimum != nil && n < *s.Minimum || s.Maximum != nil && n > *s.Maximum {
			c.fail(path, "is out of range: %s", v)
		}
	case []any:
		c.list(s, path, v)
	case map[string]any:
		open = c.members(s, path, v, described)
	}
	for _, part := range s.AllOf {
		open = c.against(part, path, v, described) || open
	}
	if s.target != nil {
		open = c.against(s.target, path, v, described) || open
	}
	if len(s.AnyOf) > 0 {
		open = c.choice(s.AnyOf, false, path, v, described) || open
	}
	if len(s.OneOf) > 0 {
		open = c.choice(s.OneOf, true, path, v, described) || open
	}
	return open || s.anything
}

// choice checks a value against schemas of which one has to match, and only one
// if exactly is set. If none does, it reports the problems of the closest one.
func (c *checking) choice(choice []*Schema, exactly bool, path string, v any, described map[string]bool) (open bool) {
	var nearest []string
	fitting := 0
	for _, one := range choice {
		if !one.meantFor(v) {
			continue
		}
		try := checking{closed: c.closed}
		inner := make(map[string]bool)
		opens := try.against(one, path, v, inner)
		if len(try.problems) == 0 {
			fitting++
			open = open || opens
			maps.Copy(described, inner)
		} else if nearest == nil || len(try.problems) < len(nearest) {
			nearest = try.problems
		}
	}
	switch {
	case fitting == 0 && nearest == nil:
		c.fail(path, "fits none of the schemas: %s", brief(v))
		return true
	case fitting == 0:
		c.problems = append(c.problems, nearest...)
		return true
	case fitting > 1 && exactly:
		c.fail(path, "fits %d of the schemas, not one", fitting)
	}
	return open
}

// meantFor reports whether a schema is meant for values like v: those of its type
// that have the constants that say what kind of object they are.
func (s *Schema) meantFor(v any) bool {
	s = s.Target()
	if len(s.Type) > 0 && !slices.ContainsFunc(s.Type, func(name string) bool { return hasType(v, name) }) {
		return false
	}
	object, _ := v.(map[string]any)
	for name, p := range s.Properties {
		if is, ok := object[name]; ok && p.Const != nil && !reflect.DeepEqual(is, p.Const) {
			return false
		}
	}
	return true
}

func (c *checking) text(s *Schema, path, text string) {
	if n := utf8.RuneCountInString(text); n < s.MinLength || s.MaxLength != nil && n > *s.MaxLength {
		c.fail(path, "has %d characters", n)
	}
	if s.pattern != nil && !s.pattern.MatchString(text) {
		c.fail(path, "doesn't match %s: %s", s.Pattern, brief(text))
	}
	if s.Format != "" && !hasFormat(text, s.Format) {
		c.fail(path, "isn't a valid %s: %s", s.Format, brief(text))
	}
}

func (c *checking) list(s *Schema, path string, list []any) {
	if n := len(list); n < s.MinItems || s.MaxItems != nil && n > *s.MaxItems {
		c.fail(path, "has %d entries", n)
	}
	for i, v := range list {
		if s.Items != nil {
			c.value(s.Items, fmt.Sprintf("%s[%d]", path, i), v)
		}
		if s.UniqueItems && slices.ContainsFunc(list[:i], func(other any) bool { return reflect.DeepEqual(v, other) }) {
			c.fail(fmt.Sprintf("%s[%d]", path, i), "is a duplicate")
		}
	}
}

func (c *checking) members(s *Schema, path string, object map[string]any, described map[string]bool) (open bool) {
	for _, name := range s.Required {
		if _, ok := object[name]; !ok {
			c.fail(path+"."+name, "is missing")
		}
	}
	for name, v := range object {
		inner := s.Properties[name]
		if inner == nil {
			inner = s.AdditionalProperties
		}
		if inner != nil {
			described[name] = true
			c.value(inner, path+"."+name, v)
		}
	}
	return s.AdditionalProperties != nil
}

// hasType reports whether a value has one of JSON Schema's types. The server
// takes and writes whole numbers without a fraction or an exponent.
func hasType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case json.Number:
		_, err := strconv.ParseInt(v.String(), 10, 64)
		return name == "number" || name == "integer" && err == nil
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func hasFormat(text, format string) bool {
	switch format {
	case "uuid":
		return uuid.MatchString(text)
	case "date-time": // in a year that stays one in UTC
		var at time.Time
		return at.UnmarshalText([]byte(text)) == nil && at.UTC().Year() >= 1 && at.UTC().Year() <= 9999
	case "email":
		address, err := mail.ParseAddress(text)
		return err == nil && address.Address == text
	case "binary": // any bytes
		return true
	case "uri":
		u, err := url.Parse(text)
		return err == nil && u.IsAbs()
	}
	return false
}

// brief returns the beginning of a value as JSON.
func brief(v any) string {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text.Next(200)))
}

package apidocs

// The part of an OpenAPI document that its page shows: operations in their groups,
// with what they refer to.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// description is the part of an OpenAPI document that the page shows.
type description struct {
	Info       struct{ Title, Description string }
	Tags       []*group
	Paths      object[map[string]*operation]
	Components struct {
		Parameters object[*parameter]
		Responses  object[*response]
		Schemas    object[*schema]
	}
	Parameters []*parameter `json:"-"` // those of the components, which several operations have
	Problems   []*response  `json:"-"` // the same
}

// Lead is the first paragraph of the document's description of the API.
func (d *description) Lead() string {
	lead, _, _ := strings.Cut(d.Info.Description, "\n\n")
	return lead
}

// Conventions are its other paragraphs.
func (d *description) Conventions() string {
	_, rest, _ := strings.Cut(d.Info.Description, "\n\n")
	return rest
}

// group is a tag with its operations.
type group struct {
	Name, Description string
	Operations        []*operation `json:"-"`
}

// ID is the group's anchor.
func (g *group) ID() string { return "group-" + strings.ReplaceAll(g.Name, " ", "-") }

// operation is what a route does.
type operation struct {
	ID                   string `json:"operationId"`
	Summary, Description string
	Tags                 []string
	Permission           string `json:"x-permission"`
	Security             []any
	Parameters           []*parameter
	RequestBody          struct {
		Required bool
		Content  object[content]
	}
	Responses object[*response] // once arranged, without those that are Shared

	Method, Path, Who string            `json:"-"`
	Body              *schema           `json:"-"` // in JSON; nil if it can't contain anything
	Shared            object[*response] `json:"-"` // problems that several operations have
}

// parameter is part of a request beside its body: in the path, the query or a
// header.
type parameter struct {
	Ref                   string `json:"$ref"`
	Name, In, Description string
	Required              bool
	Schema                *schema
	Example               any

	ID string `json:"-"` // the anchor of one that several operations have
}

// response is a success of one operation, or a problem.
type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     object[content]

	ID, Status string `json:"-"` // of a problem: its anchor, and the status it is used for
	Only       bool   `json:"-"` // no other problem has the status
}

// content is a body of one media type.
type content struct {
	Schema  *schema
	Example json.RawMessage
}

// Callers says, for each value of x-permission, who may call such an operation,
// as the page words it. It must not be changed.
var Callers = map[string]string{
	"probe": "anyone", "public": "anyone", "guest": "anyone",
	"signed in": "signed in", "session": "session", "maker": "user", "admin": "admin", "manager": "admin's session",
	"reader": "reader", "editor": "editor", "owner": "owner", "editor session": "editor's session",
}

// arrange puts the operations into their groups and follows the references
// that the page doesn't show as links.
func (d *description) arrange() error {
	for _, c := range d.Components.Parameters {
		if c.Value.In != "path" {
			d.Parameters = append(d.Parameters, c.Value)
			c.Value.ID = fmt.Sprint("q", len(d.Parameters))
		}
	}
	for _, c := range d.Components.Responses {
		if c.Value.Codes() != nil {
			d.Problems = append(d.Problems, c.Value)
			c.Value.ID = fmt.Sprint("p", len(d.Problems))
		}
	}
	for _, path := range d.Paths {
		for _, method := range []string{"get", "post", "put", "patch", "delete"} {
			o, ok := path.Value[method]
			if !ok {
				continue
			}
			o.Method, o.Path, o.Who = strings.ToUpper(method), path.Name, Callers[o.Permission]
			i := slices.IndexFunc(d.Tags, func(g *group) bool { return slices.Contains(o.Tags, g.Name) })
			if o.ID == "" || o.Who == "" || i < 0 {
				return fmt.Errorf("%s %s has no operationId, or no tag or x-permission that is known", o.Method, o.Path)
			}
			d.Tags[i].Operations = append(d.Tags[i].Operations, o)
			if err := d.resolve(o); err != nil {
				return fmt.Errorf("%s: %w", o.ID, err)
			}
		}
	}
	for _, p := range d.Problems {
		p.Only = !slices.ContainsFunc(d.Problems, func(other *response) bool {
			return other != p && other.Status == p.Status
		})
	}
	return nil
}

// resolve follows an operation's references, and sets what else its part of the
// page needs.
func (d *description) resolve(o *operation) error {
	var err error
	for i, p := range o.Parameters {
		if p.Ref != "" {
			if o.Parameters[i], err = d.Components.Parameters.at(p.Ref); err != nil {
				return err
			}
		}
		if p = o.Parameters[i]; p.Required && p.Example == nil {
			return fmt.Errorf("the parameter %s has no example", p.Name)
		}
	}
	if body := o.JSONBody(); body != nil {
		if body.Schema == nil || body.Example == nil {
			return errors.New("its body has no schema or no example")
		}
		s := body.Schema
		if s.Ref != "" {
			if s, err = d.Components.Schemas.at(s.Ref); err != nil {
				return err
			}
		}
		if s.Fields() == nil && !o.RequestBody.Required {
			o.RequestBody.Content = nil // it can only be an empty object, and is better left out
		} else {
			o.Body = s
			s.bodies++
		}
	}
	var own object[*response]
	for _, answer := range o.Responses {
		if answer.Value.Ref != "" {
			if answer.Value, err = d.Components.Responses.at(answer.Value.Ref); err != nil {
				return err
			}
		}
		if answer.Value.ID != "" {
			answer.Value.Status = answer.Name
			o.Shared = append(o.Shared, answer)
		} else {
			own = append(own, answer)
		}
	}
	o.Responses = own
	return nil
}

// JSONBody is the request's JSON content, or nil if it has none.
func (o *operation) JSONBody() *content {
	for _, c := range o.RequestBody.Content {
		if strings.HasSuffix(c.Name, "json") {
			return &c.Value
		}
	}
	return nil
}

// BodyName is the name of the schema that is only this operation's body, which the
// page shows with the operation, or "".
func (o *operation) BodyName() string {
	if o.Body == nil || !o.Body.IsBody() {
		return ""
	}
	return o.JSONBody().Schema.Name()
}

// Codes are the codes that a problem can have, and nil for other responses.
func (r *response) Codes() []any {
	for _, c := range r.Content {
		if c.Value.Schema == nil {
			continue
		}
		for _, part := range c.Value.Schema.AllOf {
			for _, p := range part.Properties {
				if p.Name == "code" {
					return p.Value.Values()
				}
			}
		}
	}
	return nil
}

// UntoldCodes are the Codes that the description doesn't name.
func (r *response) UntoldCodes() []any {
	return slices.DeleteFunc(slices.Clone(r.Codes()), func(code any) bool {
		return strings.Contains(r.Description, fmt.Sprintf("`%s`", code))
	})
}

// schema is a JSON Schema, with the keywords that the document uses.
type schema struct {
	Ref                  string `json:"$ref"`
	Description          string
	Type                 any // a name, or a list of names
	Format, Pattern      string
	Properties           object[*schema]
	Required             []string
	AdditionalProperties *schema
	Items                *schema
	AllOf, AnyOf, OneOf  []*schema
	Enum                 []any
	Const                any
	Default              json.RawMessage
	MinLength, MaxLength json.Number
	Minimum, Maximum     json.Number
	MinItems, MaxItems   json.Number
	UniqueItems          bool

	bodies int  // in how many operations it is the body
	never  bool // the schema false, which nothing fits
}

// UnmarshalJSON also takes the schemas true and false.
func (s *schema) UnmarshalJSON(data []byte) error {
	if text := string(data); text == "true" || text == "false" {
		s.never = text == "false"
		return nil
	}
	type plain schema
	return json.Unmarshal(data, (*plain)(s))
}

// field is a property as the page lists it.
type field struct {
	Name   string // with the names of the objects it is in
	Schema *schema
	Mark   string // "required" in what clients send, "optional" in what they get
}

// Fields are the properties of an object, and of the objects inside it that
// have no name of their own.
func (s *schema) Fields() []field {
	var all []field
	sent := s.AdditionalProperties != nil && s.AdditionalProperties.never
	for _, part := range append([]*schema{s}, s.AllOf...) {
		for _, p := range part.Properties {
			f := field{Name: p.Name, Schema: p.Value}
			if required := slices.Contains(part.Required, p.Name); required && sent {
				f.Mark = "required"
			} else if !required && !sent {
				f.Mark = "optional"
			}
			all = append(all, f)
			inner, path := p.Value, p.Name+"."
			if inner.Items != nil {
				inner, path = inner.Items, p.Name+"[]."
			}
			for _, f := range inner.Fields() {
				f.Name = path + f.Name
				all = append(all, f)
			}
		}
	}
	return all
}

// Name is the name of the schema that this one refers to.
func (s *schema) Name() string { return lastName(s.Ref) }

// IsBody reports whether it is the body of one operation.
func (s *schema) IsBody() bool { return s.bodies == 1 }

// Choices are the schemas of which one has to match.
func (s *schema) Choices() []*schema { return slices.Concat(s.OneOf, s.AnyOf) }

// Values are all the values that match, if they are listed.
func (s *schema) Values() []any {
	if s.Const != nil {
		return []any{s.Const}
	}
	return s.Enum
}

// Word is the type, or the format if that says more.
func (s *schema) Word() string {
	names, ok := s.Type.([]any)
	if !ok && s.Type != nil {
		names = []any{s.Type}
	}
	var words []string
	for _, name := range names {
		if name != "null" {
			words = append(words, cmp.Or(s.Format, fmt.Sprint(name)))
		}
	}
	if words == nil && names != nil {
		return "null"
	}
	return strings.Join(words, " or ")
}

// Nullable reports whether the type allows null beside others.
func (s *schema) Nullable() bool {
	names, ok := s.Type.([]any)
	return ok && slices.Contains(names, any("null"))
}

// Bounds are the limits on a value, in words.
func (s *schema) Bounds() string {
	var words []string
	for _, b := range []struct {
		lo, hi json.Number
		unit   string
	}{
		{s.MinLength, s.MaxLength, " characters"}, {s.Minimum, s.Maximum, ""}, {s.MinItems, s.MaxItems, " items"},
	} {
		switch {
		case b.lo == "1" && b.hi == "" && b.unit != "":
			words = append(words, "not empty")
		case b.lo != "" && b.hi != "":
			words = append(words, string(b.lo+" to "+b.hi)+b.unit)
		case b.lo != "":
			words = append(words, "at least "+string(b.lo)+b.unit)
		case b.hi != "":
			words = append(words, "at most "+string(b.hi)+b.unit)
		}
	}
	if s.UniqueItems {
		words = append(words, "each once")
	}
	if s.Pattern != "" {
		words = append(words, "pattern "+s.Pattern)
	}
	if s.Default != nil {
		words = append(words, "default "+string(s.Default))
	}
	return strings.Join(words, ", ")
}

// object is a JSON object in the order in which it is written, which a map
// would lose.
type object[T any] []entry[T]

type entry[T any] struct {
	Name  string
	Value T
}

func (o *object[T]) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return fmt.Errorf("%.20q isn't an object (%v)", data, err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		e := entry[T]{Name: name.(string)} // encoding/json has made sure
		if err := d.Decode(&e.Value); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		*o = append(*o, e)
	}
	return nil
}

// at follows a reference to one of the entries.
func (o object[T]) at(ref string) (T, error) {
	for _, e := range o {
		if e.Name == lastName(ref) {
			return e.Value, nil
		}
	}
	var none T
	return none, fmt.Errorf("%s isn't defined", ref)
}

func lastName(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

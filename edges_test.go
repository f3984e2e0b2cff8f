package main

// The limits that openapi.json gives for bodies are the server's: what is
// right inside them it doesn't refuse, and what is just outside it does.

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/apidocs/jsonschema"
)

// edge is a value at a limit of a field.
type edge struct {
	field   string // as errors name it
	value   any    // for the whole body
	refused bool
}

func TestLimitsOfBodiesAreTheServers(t *testing.T) {
	t.Parallel()
	d, s := documentOf(t), newTestServer(t, nil)
	for _, pattern := range slices.Sorted(maps.Keys(d.routes)) {
		o := d.routes[pattern]
		if !o.takesJSON() || !strings.HasPrefix(o.path, "/api/") {
			continue
		}
		media := o.RequestBody.Content["application/json"]
		edges := edgesOf(media.Schema, "", media.Example, func(v any) any { return v })
		if len(edges) == 0 {
			continue
		}
		// Claims that would wait come first, while there is a spec for them.
		slices.SortStableFunc(edges, func(a, b edge) int { return strings.Compare(b.field, a.field) })
		t.Run(o.OperationID, func(t *testing.T) {
			st := newStory(t, d, s)
			st.tellUpTo(o.OperationID)
			path, _, _ := st.request(o)
			for _, outside := range []bool{true, false} { // what is inside may be done
				for _, e := range edges {
					if e.refused == outside {
						st.try(o, path, e)
					}
				}
			}
		})
	}
}

// try sends a body that is at a limit. Credentials that can't be any are
// refused like wrong ones.
func (st *story) try(o *apiOperation, path string, e edge) {
	st.t.Helper()
	body, err := encode(e.value)
	if err != nil {
		st.t.Fatal(err)
	}
	a := st.as(o).do(o.method, path, st.really(string(body)))
	var problem struct{ Errors []fieldError }
	refused := a.status == http.StatusUnprocessableEntity && json.Unmarshal(a.body, &problem) == nil &&
		slices.ContainsFunc(problem.Errors, func(p fieldError) bool { return p.Field == e.field })
	refused = refused || e.refused && a.status == http.StatusUnauthorized
	if refused != e.refused {
		st.t.Errorf("%s: %s: refused is %t, and openapi.json says %t: %.200s: %d %s", o.pattern(), e.field, refused, e.refused, body, a.status, a.body)
	}
}

// edgesOf are values at the limits of a schema. example is one that fits; put
// makes a body of a value for this schema.
func edgesOf(s *jsonschema.Schema, field string, example any, put func(v any) any) (found []edge) {
	nullable := slices.Contains(s.Type, "null")
	for _, one := range s.AnyOf {
		if slices.Contains(one.Type, "null") {
			nullable = true
		} else {
			s = one
		}
	}
	s = s.Target()
	add := func(refused bool, values ...any) {
		for _, v := range values {
			found = append(found, edge{field, put(v), refused})
		}
	}
	if field != "" && !s.IsOpen() {
		add(!nullable, nil)
	}
	switch {
	case slices.Contains(s.Type, "object") && s.AdditionalProperties != nil && s.AdditionalProperties.IsFalse():
		found = append(found, edgesOfMembers(s, field, example, put)...)
	case slices.Contains(s.Type, "object"):
		add(true, "text", []any{})
	case slices.Contains(s.Type, "array"):
		add(true, "text")
		add(s.MinItems > 0, []any{})
		of, _ := example.([]any)
		if len(of) > 0 {
			found = append(found, edgesOf(s.Items, field+"[0]", of[0], func(v any) any { return put([]any{v}) })...)
		}
		if s.MaxItems != nil && takesAnyText(s.Items) {
			add(false, several(*s.MaxItems))
			add(true, several(*s.MaxItems+1))
		}
	case slices.Contains(s.Type, "integer"):
		add(true, "1", 1.5)
		if s.Maximum != nil {
			add(false, *s.Maximum)
			add(true, *s.Maximum+1)
		}
		if s.Minimum != nil {
			add(false, *s.Minimum)
			add(true, *s.Minimum-1)
		}
	case slices.Contains(s.Type, "boolean"):
		add(true, "true", 1)
	case slices.Contains(s.Type, "string"):
		add(true, 1, false)
		if !takesAnyText(s) {
			add(true, "nonsense")
			break
		}
		if s.MinLength > 0 {
			add(true, strings.Repeat("ä", s.MinLength-1))
		}
		if s.MaxLength != nil {
			add(false, strings.Repeat("a", *s.MaxLength))
			add(true, strings.Repeat("a", *s.MaxLength+1))
		}
	}
	return found
}

// takesAnyText reports whether any text of the right length fits.
func takesAnyText(s *jsonschema.Schema) bool {
	return slices.Contains(s.Type, "string") && s.Enum == nil && s.Format == ""
}

// several are n different texts.
func several(n int) []any {
	texts := make([]any, n)
	for i := range texts {
		texts[i] = fmt.Sprint(i)
	}
	return texts
}

// edgesOfMembers are those of an object's members, of each beside the others
// of the example, and of objects with a member too many or too few.
func edgesOfMembers(s *jsonschema.Schema, field string, example any, put func(v any) any) (found []edge) {
	object, _ := example.(map[string]any)
	within := func(name string) string { return strings.TrimPrefix(field+"."+name, ".") }
	with := func(name string, v any) map[string]any {
		changed := maps.Clone(object)
		if changed == nil {
			changed = make(map[string]any)
		}
		changed[name] = v
		return changed
	}
	found = append(found, edge{within("nonsense"), put(with("nonsense", 1)), true})
	for _, name := range s.Required {
		less := maps.Clone(object)
		delete(less, name)
		found = append(found, edge{within(name), put(less), true})
	}
	for name, inner := range s.Properties {
		found = append(found, edgesOf(inner, within(name), object[name], func(v any) any { return put(with(name, v)) })...)
	}
	return found
}

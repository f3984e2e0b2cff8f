package main

// JSON Schemas (2020-12) of Go types, so that what is described is what is
// decoded and encoded.

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// schemaOf describes a type as encoding/json writes it. A struct's fields are
// required unless they may be left out (omitempty, omitzero), as all pointers
// may; their tags doc and enum, the latter separated by commas, say more. A
// schema has one type at a time, since some of those that read it know no other.
func schemaOf(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
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
			continue // what is embedded comes by its fields
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

package ijson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	nested := func(levels int) string {
		return strings.Repeat(`[`, levels) + strings.Repeat(`]`, levels)
	}
	for _, test := range []struct {
		body   string
		offset int // of the mistake; -1 when there is none
	}{
		{`{}`, -1},
		{` {"a" : [1, -0, 1.5e3, true, null, "x"], "b":{"a":{}, "b":[]}} `, -1},
		{`{"a":{"x":1},"b":{"x":1}}`, -1},
		{`[{"x":1},{"x":1}]`, -1},
		{`"\ud83d\ude00 é 😀 \" \\ \/ \b\f\n\r\t \u00e9 �"`, -1},
		{`"\\u0000 \\ud800"`, -1},
		{nested(32), -1},
		{`1e308`, -1},
		{`0.0e-7`, -1},
		{`12345678901234567890123`, -1},

		{``, 0},
		{`{"a":1`, 5},
		{`{"a":1} {}`, 8},
		{`{"a":1,}`, 7},
		{"\ufeff{}", 0},
		{"\"\x01\"", 1},
		{"\"ab\xff\"", 3},
		{"\"\xe2\x82\xe2\x82\xac\"", 1},
		{"\"\xed\xa0\x80\"", 1}, // a surrogate in UTF-8
		{`"a\ud800"`, 2},
		{`"\udc00\ud800"`, 1},
		{`"\ud800\u0041"`, 1},
		{`"\ud800\ud800\udc00"`, 1},
		{`"a\u0000"`, 2},
		{`{"\u0000":1}`, 2},
		{`"\uffff"`, 1},
		{"\"\ufdd0\"", 1},
		{`"\ud83f\udfff"`, 1}, // U+1FFFF
		{`{"a":1,"a":2}`, 7},
		{`{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"c":2}`, 61},
		{`{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"j":2}`, 61},
		{`{"a":1,"\u0061":2}`, 7},
		{`{"\n":1,"\u000a":2}`, 8},
		{`{"😀":1,"\ud83d\ude00":2}`, 10},
		{`[0,{"a":{"b":1},"c":[{}],"a":2}]`, 25},
		{nested(33), 32},
		{nested(20_000), 10_000},
		{`[1e999]`, 1},
		{`[-1e999]`, 1},
		{`[1e-999]`, 1},
		{`[0e-20000]`, 1},
		{`[0e99999999999999999999]`, 1},
		{`[0.` + strings.Repeat("0", 20_000) + `]`, 1},
	} {
		err := Check([]byte(test.body))
		if test.offset < 0 {
			if err != nil {
				t.Errorf("%.40q: %v", test.body, err)
			}
			continue
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Offset != test.offset {
			t.Errorf("%.40q: got %v, want byte %d", test.body, err, test.offset)
		}
	}
}

func TestCheckNamesTheValue(t *testing.T) {
	t.Parallel()
	for body, path := range map[string]string{
		`"\u0000"`: "", `{"a":{"b":[1,{},{"c":"\u0000"}]}}`: "a b [2] c", `[[],["x","\ud800"]]`: "[1] [1]",
		`{"a":[{"b":1}],"c":1e999}`: "c", `{"a":{"x":1,"\u0000":1}}`: "a", `{"a":{"x":1,"x":2}}`: "a x",
		`{"\u0061":["\uffff"]}`: "a [0]", "[0,{\"a\":\"\xff\"}]": "[1] a",
	} {
		e, ok := errors.AsType[*Error](Check([]byte(body)))
		if !ok || e.Syntax || strings.Join(e.Path, " ") != path {
			t.Errorf("%s: got %+v, want %s", body, e, path)
		}
	}
	if e, ok := errors.AsType[*Error](Check([]byte(`{"a":`))); !ok || !e.Syntax {
		t.Errorf("what breaks off: %+v", e)
	}
}

func FuzzCheck(f *testing.F) {
	for _, body := range []string{
		`{}`, `[]`, `null`, ``, ` `, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `"\ud800"`, `"\u0000"`, "\"\xff\"", `"\uFFFD"`,
		`[1e999,1e-999,-0,0e-20000]`, `{"name":"n","count":1.5,"tags":["a",null],"entries":[{"level":"x"}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := Check(body); err != nil {
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Fatal("accepted what isn't JSON in UTF-8")
		}
		var value any
		if err := json.Unmarshal(body, &value); err != nil {
			t.Fatalf("accepted what can't be decoded: %v", err)
		}
		again, err := json.Marshal(value)
		if err != nil {
			t.Fatalf("accepted what can't be encoded: %v", err)
		}
		if bytes.Contains(again, []byte(`\u0000`)) && !bytes.Contains(body, []byte(`\\u0000`)) {
			t.Fatal("accepted a NUL")
		}
		replaced := bytes.ContainsRune(again, utf8.RuneError)
		if replaced && !bytes.ContainsRune(body, utf8.RuneError) && !bytes.Contains(bytes.ToLower(body), []byte(`\ufffd`)) {
			t.Fatal("accepted text that encoding/json had to replace")
		}
		if err := Check(again); err != nil {
			t.Fatalf("accepted what isn't acceptable when it comes back: %v", err)
		}
	})
}

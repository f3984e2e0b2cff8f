package markdown_test

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/lineartime"
	"tachikoma/internal/markdown"
)

func TestHTML(t *testing.T) {
	t.Parallel()
	const rel = ` rel="noopener nofollow"`
	for _, c := range []struct{ name, source, want string }{
		{"nothing", "", ""},
		{"paragraphs", "a\nb\n\nc", "<p>a\nb</p>\n<p>c</p>\n"},
		{"windows", "a\r\n\r\nb\rc", "<p>a</p>\n<p>b\nc</p>\n"},
		{"not UTF-8", "a\xffb", "<p>a\ufffdb</p>\n"},
		{"NUL", "a\x00b", "<p>a\ufffdb</p>\n"},
		{"breaks", "a  \nb\\\nc", "<p>a<br>\nb<br>\nc</p>\n"},
		{"header of a spec", "**Status:** Planned\n**Phase:** 1", "<p><strong>Status:</strong> Planned<br>\n" +
			"<strong>Phase:</strong> 1</p>\n"},
		{"headings skip no level", "## a\n#### b ##\n## c\n# d", "<h3>a</h3>\n<h4>b</h4>\n<h3>c</h3>\n<h3>d</h3>\n"},
		{"deep headings", "# a\n## b\n### c\n#### d\n##### e", "<h3>a</h3>\n<h4>b</h4>\n<h5>c</h5>\n<h6>d</h6>\n<h6>e</h6>\n"},
		{"underlined", "a\n===\nb\n--", "<h3>a</h3>\n<h4>b</h4>\n"},
		{"no heading", "#a\n\n####### b\n\n#", "<p>#a</p>\n<p>####### b</p>\n<p>#</p>\n"},
		{"rule", "a\n\n---\n* * *", "<p>a</p>\n<hr>\n<hr>\n"},
		{"front matter", "---\na: <b>\n---\nc", `<pre tabindex="0"><code>a: &lt;b&gt;` + "\n</code></pre>\n<p>c</p>\n"},
		{"fenced", "```go\n\tif a < b {\n\n```\nc", `<pre tabindex="0"><code>    if a &lt; b {` + "\n\n</code></pre>\n<p>c</p>\n"},
		{"not closed", "~~~\n```\n*a*", `<pre tabindex="0"><code>` + "```\n*a*\n</code></pre>\n"},
		{"indented", "    a\n\n      b\nc", `<pre tabindex="0"><code>a` + "\n\n  b\n</code></pre>\n<p>c</p>\n"},
		{"table", "|a|b|\n|-|:-:|\n|*1*|2|\n\nc", `<pre class="table" tabindex="0"><code>|a|b|` + "\n|-|:-:|\n|*1*|2|\n" +
			"</code></pre>\n<p>c</p>\n"},
		{"quote", "> a\nb\n> > c\n\nd", "<blockquote>\n<p>a\nb</p>\n<blockquote>\n<p>c</p>\n</blockquote>\n</blockquote>\n" +
			"<p>d</p>\n"},
		{"list", "- a\n  b\n- c\n\n  d\n+ e", "<ul>\n<li>a\nb</li>\n<li>c\n<p>d</p>\n</li>\n</ul>\n<ul>\n<li>e</li>\n</ul>\n"},
		{"nested list", "1. a\n   - b\n     - c\n2. d\n", "<ol start=\"1\">\n<li>a\n<ul>\n<li>b\n<ul>\n<li>c</li>\n</ul>\n" +
			"</li>\n</ul>\n</li>\n<li>d</li>\n</ol>\n"},
		{"numbers", "007) a\n\n1234567890. b", "<ol start=\"7\">\n<li>a</li>\n</ol>\n<p>1234567890. b</p>\n"},
		{"code in an item", "- a\n\n      b\n- ```\n  c\n  ```\nd", "<ul>\n<li>a\n" + `<pre tabindex="0"><code>b` +
			"\n</code></pre>\n</li>\n<li>\n" + `<pre tabindex="0"><code>c` + "\n</code></pre>\n</li>\n</ul>\n<p>d</p>\n"},
		{"years begin no list", "In\n1984. b", "<p>In\n1984. b</p>\n"},
		{"boxes", "- [ ] a\n- [X] b\n- []* c\n- [~] d\n- [ ]\n- [x](y)", "<ul>\n" +
			`<li class="task"><label><input type="checkbox" disabled> a</label></li>` + "\n" +
			`<li class="task"><label><input type="checkbox" disabled checked> b</label></li>` + "\n" +
			`<li class="task"><label><input type="checkbox" disabled> c</label></li>` + "\n" +
			"<li>[~] d</li>\n<li>[ ]</li>\n<li>[x](y)</li>\n</ul>\n"},
		{"a box and what is below it", "1. [ ] # a\n   b\n   - c", `<ol start="1">` + "\n" +
			`<li class="task"><label><input type="checkbox" disabled> # a` + "\nb</label>\n<ul>\n<li>c</li>\n</ul>\n</li>\n</ol>\n"},
		{"emphasis", "*a* _b_ **c** __d__ ***e*** ~~f~~", "<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> " +
			"<em><strong>e</strong></em> <del>f</del></p>\n"},
		{"nested emphasis", "**a *b* c** *a **b***", "<p><strong>a <em>b</em> c</strong> <em>a <strong>b</strong></em></p>\n"},
		{"no emphasis", `snake_case_name 2 * 3 * 4 ****a**** \*b\* **c*d`, "<p>snake_case_name 2 * 3 * 4 ****a**** *b* **c*d</p>\n"},
		{"crossing", "*a **b* c** *d [e* f](https://x.example)", "<p><em>a <em><em>b</em> c</em></em> <em>d [e</em> f](" +
			`<a href="https://x.example"` + rel + ">https://x.example</a>)</p>\n"},
		{"code", "`a*b*` ``c`d`` ` `` ` `e", "<p><code>a*b*</code> <code>c`d</code> <code>``</code> `e</p>\n"},
		{"links", "[a *b*](https://x.example/a(b)?c=\"d\") [e](<mailto:a@x.example> 'f') <http://x.example>",
			`<p>[a <em>b</em>](<a href="https://x.example/a(b)?c="` + rel + `>https://x.example/a(b)?c=</a>&#34;d&#34;) ` +
				`<a href="mailto:a@x.example"` + rel + `>e</a> <a href="http://x.example"` + rel + ">http://x.example</a></p>\n"},
		{"bare links", "(see https://x.example/a_b, **https://x.example/c**.) xhttp://x.example",
			`<p>(see <a href="https://x.example/a_b"` + rel + `>https://x.example/a_b</a>, <strong>` +
				`<a href="https://x.example/c"` + rel + ">https://x.example/c</a></strong>.) xhttp://x.example</p>\n"},
		{"an address as the text", "[https://a.example](https://b.example)",
			`<p><a href="https://b.example"` + rel + ">https://a.example</a></p>\n"},
		{"image", "![a](https://x.example/a.png) ![b](c.png)", `<p><a href="https://x.example/a.png"` + rel +
			">a</a> ![b](c.png)</p>\n"},
		{"links aren't nested", "[a [b](https://x.example) c](https://y.example)", `<p>[a <a href="https://x.example"` + rel +
			`>b</a> c](<a href="https://y.example"` + rel + ">https://y.example</a>)</p>\n"},
		{"other addresses", "[a](../b.md) [c](#d) [](https://x.example)", `<p>[a](../b.md) [c](#d) [](<a href="https://x.example"` +
			rel + ">https://x.example</a>)</p>\n"},
	} {
		got := string(markdown.HTML(c.source, 3))
		if got != c.want {
			t.Errorf("%s: %q\ngives %s\nwant  %s", c.name, c.source, got, c.want)
		}
		checkSafe(t, c.source)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"":               "",
		"*a* <b>\n  `c`": "*a* &lt;b&gt;\n  `c`",
		"see https://x.example/a?b=1&c=2.": `see <a href="https://x.example/a?b=1&amp;c=2" rel="noopener nofollow">` +
			`https://x.example/a?b=1&amp;c=2</a>.`,
		`http://x.example"onmouseover="alert(1)`: `<a href="http://x.example" rel="noopener nofollow">http://x.example</a>` +
			`&#34;onmouseover=&#34;alert(1)`,
		"javascript://x.example at 10:30": "javascript://x.example at 10:30",
	} {
		if got := string(markdown.Text(source)); got != want {
			t.Errorf("%q\ngives %s\nwant  %s", source, got, want)
		}
	}
	for attack := range strings.Lines(attacks) {
		checkOutput(t, attack, "<p>"+string(markdown.Text(attack))+"</p>")
	}
}

// TestNothingIsHidden holds the words of documents against those that come out.
func TestNothingIsHidden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/*.md")
	specs, err2 := filepath.Glob("../specfile/testdata/specs/*/*.md")
	if err := errors.Join(err, err2); err != nil || len(files) == 0 || len(specs) == 0 {
		t.Fatalf("no files to try: %v", err)
	}
	word := regexp.MustCompile(`\pL[\pL\pN]*`)
	dropped := regexp.MustCompile(`(?m)^ *\x60{3}.*$|\[[xX]\]`) // the language of code, and what a box shows
	for _, file := range append(files, specs...) {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown := make(map[string]bool)
		for _, w := range word.FindAllString(html.UnescapeString(checkSafe(t, string(source))), -1) {
			shown[w] = true
		}
		for _, w := range word.FindAllString(dropped.ReplaceAllString(string(source), ""), -1) {
			if !shown[w] {
				t.Errorf("%s: %q is lost", file, w)
			}
		}
	}
}

//go:embed testdata/xss.txt
var attacks string

func TestNoAttackGetsThrough(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSuffix(attacks, "\n"), "\n")
	if len(lines) < 100 {
		t.Errorf("there are only %d attacks", len(lines))
	}
	for _, attack := range lines {
		for _, frame := range []string{"%s", "- %s", "> %s", "# %s", "**%s**", "`%s`", "[%s](https://x.example)",
			"[a](https://x.example/%s)", "[a](%s)", "<%s>", "```%s\n%s\n```", "|%s|\n|-|\n|%s|", "- [x] %s", "![%s](%s)"} {
			checkSafe(t, strings.ReplaceAll(frame, "%s", attack))
		}
	}
}

func FuzzHTML(f *testing.F) {
	for attack := range strings.Lines(attacks) {
		f.Add(attack)
	}
	f.Add("- [ ] *a [b](https://x.example/?a=b&c) `d`*\n  > 1. ```\n")
	f.Fuzz(func(t *testing.T, source string) {
		checkSafe(t, source)
		checkOutput(t, source, "<p>"+string(markdown.Text(source))+"</p>")
	})
}

// Any tag; those that may be there; and text as it may be.
var (
	tagOf = regexp.MustCompile(`<[^>]*>`)
	fixed = regexp.MustCompile(`^(?:</?(?:p|h[1-6]|ul|li|blockquote|code|em|strong|del|label)>|</(?:ol|pre|a)>|<br>|<hr>|` +
		`<ol start="[0-9]{1,9}">|<li class="task">|<pre(?: class="table")? tabindex="0">|` +
		`<input type="checkbox" disabled(?: checked)?>|` +
		`<a href="(?:https?://|mailto:)(?:[^"'<>&\s` + "`" + `\\]|&amp;|&#39;)+" rel="noopener nofollow">)$`)
	safeText = regexp.MustCompile(`^(?:[^<>&"'\x00]|&lt;|&gt;|&amp;|&#34;|&#39;)*$`)
)

// inside are the elements that each may stand in; "" is the page.
var inside = map[string]string{
	"p": " blockquote li", "ul": " blockquote li", "ol": " blockquote li", "blockquote": " blockquote li",
	"pre": " blockquote li", "hr": " blockquote li", "h": " blockquote li", "li": "ul ol", "label": "li", "input": "label",
}

// checkSafe renders source, checks the outcome, and returns it.
func checkSafe(t *testing.T, source string) string {
	t.Helper()
	out := string(markdown.HTML(source, 3))
	checkOutput(t, source, out)
	return out
}

// checkOutput reads what source has become as the few rules of the package say,
// independently of how it was written.
func checkOutput(t *testing.T, source, out string) {
	t.Helper()
	var open []string
	rest := out
	for rest != "" {
		at := strings.IndexByte(rest, '<')
		if at < 0 {
			at = len(rest)
		}
		if !safeText.MatchString(rest[:at]) {
			t.Fatalf("%q has the text %q", source, rest[:at])
		}
		if rest = rest[at:]; rest == "" {
			break
		}
		tag := tagOf.FindString(rest)
		if !fixed.MatchString(tag) {
			t.Fatalf("%q has the tag %q", source, tag)
		}
		rest = rest[len(tag):]
		name := strings.TrimRight(strings.Fields(strings.Trim(tag, "</>"))[0], "123456")
		parent := ""
		if len(open) > 0 {
			parent = open[len(open)-1]
		}
		if strings.HasPrefix(tag, "</") {
			if parent != name {
				t.Fatalf("%q closes %s in %q", source, name, open)
			}
			open = open[:len(open)-1]
			continue
		}
		parents, isBlock := inside[name]
		if isBlock != slices.Contains(strings.Split(parents, " "), parent) || name == "a" && slices.Contains(open, "a") {
			t.Fatalf("%q has %s in %q", source, name, open)
		}
		if name != "br" && name != "hr" && name != "input" {
			open = append(open, name)
		}
	}
	if len(open) > 0 {
		t.Fatalf("%q leaves %q open", source, open)
	}
}

func TestTimeIsLinear(t *testing.T) {
	for _, pattern := range []string{"*", "*a ", "**a *b ", "*a_ ", "a* b_ ", "[", "]", "[a](", "[](<", "![", "[a](b \"", "`a ``b ",
		"<", "<a", "http://", "http://a[", "https://a.example/( ", "\\", "a\n", "a\n---\n", "> ", "> a\n", ">", "- ", "- a\n", "-\n",
		" - a\n  ", "1. ", "1) a\n", "- [ ] a\n", "#", "# a\n", "```\n", "``` `\n", "~~~\n", "    a\n", "\t", "\t\n", "|a|\n|-|\n",
		"|", "---\n", "- - ", "* * *\n", "\n", "> - ", "> 1. a\n\n", "[a](https://a.example) ", "~~a ", "\"", "_a_", "***a", "a  \n"} {
		lineartime.Check(t, lineartime.Linear, 128<<10, func(size int) func() {
			source := strings.Repeat(pattern, size/len(pattern))
			return func() { markdown.HTML(source, 3) }
		})
		if t.Failed() {
			t.Fatalf("the time of %q over and over isn't linear", pattern)
		}
	}
}

// Runs of backticks of every length, which nothing closes.
func TestManyBackticks(t *testing.T) {
	t.Parallel()
	var ticks bytes.Buffer
	for n := 1; ticks.Len() < 1<<20; n++ {
		fmt.Fprintf(&ticks, "%s a ", strings.Repeat("`", n))
	}
	checkSafe(t, ticks.String())
}

// TestNestingHasABound nests each thing far deeper than anybody would.
func TestNestingHasABound(t *testing.T) {
	t.Parallel()
	for _, source := range []string{strings.Repeat("> ", 5000) + "a", strings.Repeat("- ", 5000) + "a",
		strings.Repeat("1. > ", 5000) + "a", strings.Repeat("*a **b ", 5000) + strings.Repeat("b** a*", 5000),
		strings.Repeat("[", 5000) + "a" + strings.Repeat("](https://x.example)", 5000)} {
		out := checkSafe(t, source)
		depth, deepest := 0, 0
		for _, tag := range tagOf.FindAllString(out, -1) {
			if strings.HasPrefix(tag, "</") {
				depth--
			} else {
				depth++
			}
			deepest = max(deepest, depth)
		}
		if deepest > 60 {
			t.Errorf("%.20q is %d deep", source, deepest)
		}
	}
}

func BenchmarkHTML(b *testing.B) {
	source, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		markdown.HTML(string(source), 3)
	}
}

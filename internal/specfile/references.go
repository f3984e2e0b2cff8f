package specfile

// Dependencies as they are written: lists taken apart, and each item read.
// resolve.go finds out what an item means.

import (
	"cmp"
	"iter"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxReference = 500 // characters that are kept of each

// splitReferences splits a field at what separates items: commas and semicolons
// outside parentheses and brackets, and "and" where a reference follows. "None",
// in whatever words, is no reference.
func splitReferences(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for item := range splitList(text) {
			item = trimConjunction(firstRunes(item, maxReference))
			if saysNone(item) {
				continue
			}
			for _, part := range severalOf(item) {
				if !yield(part) {
					return
				}
			}
		}
	}
}

func splitList(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, depth := 0, 0
		for i, r := range text {
			size := 0
			switch r {
			case '(', '[', '（':
				depth++
			case ')', ']', '）':
				depth = max(depth-1, 0)
			case ',', ';', '、', '，', '；':
				size = utf8.RuneLen(r)
			case ' ':
				size = conjunctionAt(text[i:])
			}
			if size == 0 || depth > 0 || i < start {
				continue
			}
			if !yield(strings.TrimSpace(text[start:i])) {
				return
			}
			start = i + size
		}
		yield(strings.TrimSpace(text[start:]))
	}
}

var conjunctions = []string{" and ", " & ", " + ", " und ", " et ", " y ", " e ", " и "}

// conjunctionAt returns how long the "and" is that a text begins with, if it is
// one between references.
func conjunctionAt(text string) int {
	for _, word := range conjunctions {
		if rest, ok := strings.CutPrefix(text, word); ok && startsReference(rest) {
			return len(word)
		}
	}
	return 0
}

func trimConjunction(item string) string {
	for _, word := range []string{"and ", "then ", "also "} {
		item, _ = cutFold(item, word)
	}
	return strings.TrimSpace(item)
}

// labels are what a reference can call a spec before its number.
var labels = []string{"specs ", "spec ", "stories ", "story ", "tasks ", "task ", "issues ", "issue ",
	"features ", "feature ", "tickets ", "ticket ", "epic "}

func cutLabel(text string) (rest string, found bool) {
	for _, label := range labels {
		if rest, ok := cutFold(text, label); ok {
			return strings.TrimLeft(rest, " "), true
		}
	}
	return text, false
}

// startsReference reports whether a text begins with what can hardly be prose: a
// link, or a word with a digit in it.
func startsReference(text string) bool {
	text = strings.TrimLeft(text, " *_`")
	text, _ = cutLabel(text)
	word, _, _ := strings.Cut(text, " ")
	return strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "[ ") || strings.ContainsAny(word, "0123456789")
}

// noneWords mean that there are no dependencies.
var noneWords = []string{"", "none", "n/a", "na", "nothing", "nil", "null", "keine", "keiner", "aucune", "aucun",
	"ninguna", "ninguno", "nenhuma", "nenhum", "нет", "无", "無", "なし", "没有", "없음", "nessuna", "nessuno", "कोई", "لا", "কোনো"}

func saysNone(item string) bool {
	text := strings.ToLower(strings.Trim(item, "*_`-–—[] "))
	first, rest, _ := strings.Cut(text, " ")
	first, _, _ = strings.Cut(first, "（")
	first = strings.Trim(first, ".:;。*_`")
	return slices.Contains(noneWords, first) || text == "tidak ada" ||
		first == "no" && fieldNames[strings.Trim(rest, ".")] == "dependencies"
}

// severalOf takes apart what has only spaces between: links, and words like "#12"
// and "012-cache".
func severalOf(item string) []string {
	var links []string
	for rest := item; ; {
		before, link, after := cutLink(rest)
		if link == "" {
			break
		}
		if links = append(links, link); strings.ContainsFunc(before, isDigit) {
			links = nil
			break
		}
		rest = after
	}
	if len(links) > 1 {
		return links
	}
	words := strings.Fields(item)
	for _, word := range words {
		number, slug := cutNumber(strings.ToLower(strings.TrimPrefix(word, "#")))
		if number == "" || slug == "" && word[0] != '#' {
			return []string{item}
		}
	}
	return words
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

// cutLink finds the first "[[target]]" or "[text](target)" in a text.
func cutLink(text string) (before, link, after string) {
	for at := 0; ; {
		open := strings.IndexByte(text[at:], '[')
		if open < 0 {
			return text, "", ""
		}
		open += at
		rest := text[open:]
		if strings.HasPrefix(rest, "[[") {
			if end := strings.Index(rest, "]]"); end > 0 {
				return text[:open], rest[:end+2], rest[end+2:]
			}
			return text, "", ""
		}
		if middle := strings.Index(rest, "]"); middle < 0 {
			return text, "", ""
		} else if strings.HasPrefix(rest[middle:], "](") {
			end := strings.IndexByte(rest[middle:], ')')
			if end < 0 {
				return text, "", ""
			}
			return text[:open], rest[:middle+end+1], rest[middle+end+1:]
		}
		at = open + 1
	}
}

// reference is one item of a dependency list, read but not resolved: a single
// spec, or a group of them if phase or last is set.
type reference struct {
	path   string // that it links to, or that it is
	key    string // the first word, as a key; "" where it is prose
	whole  string // all words, as a key
	number string // "316", "031a", "1.2"
	title  string // of the spec, according to the reference

	first, last string // a range: numbers or keys
	phase       string // a phase, in the canonical form
	previous    bool   // of the phase, only those before the referrer
}

// parseReference reads one item in any of the forms
//
//	316-server-crate   575   Spec 311: Title   Spec 161 (Title)   TASK-7   Title
//	[text](../a/316-server-crate.md)   a/316-server-crate.md   [[316-server-crate]]
//	311-320   A through B   Phase 15 Specs (311-334)   All storage specs (12-19)
//	Phase 10 (Title)   All Phase 15 specs   All previous Phase 4 specs
func parseReference(item string) reference {
	text, target := cleanReference(item)
	if ref, ok := parsePhaseReference(text); ok {
		return ref
	}
	if first, last, ok := cutLabelledRange(text); ok {
		return reference{key: strings.ToLower(text), first: first, last: last}
	}
	ref := reference{path: target, whole: keyFromStem(withoutMarkdown(text))}
	text, labelled := cutLabel(text)
	bare := strings.TrimLeft(text, "# ")
	labelled = labelled || bare != text
	word, rest := bare, ""
	if i := strings.IndexAny(bare, " \t:(（："); i >= 0 {
		word, rest = bare[:i], bare[i:]
	}
	word = withoutMarkdown(strings.Trim(word, "*_`."))
	if strings.Contains(word, "/") && rest == "" {
		ref.path = cmp.Or(ref.path, word)
		word = word[strings.LastIndexByte(word, '/')+1:]
	}
	key := keyFromStem(word)
	number, slug := cutNumber(key)
	if rest == "" || number != "" || labelled || isName(key) {
		ref.key, ref.number, ref.title = key, number, slug
	}
	if number != "" && slug == "" {
		ref.title = rest
	}
	return ref
}

// isName reports whether a word can't be one of a sentence: it has a dash, a dot or
// an underscore within, or a digit behind a letter.
func isName(word string) bool {
	return strings.ContainsAny(strings.Trim(word, ".-_"), ".-_") || strings.ContainsFunc(word, isDigit)
}

func withoutMarkdown(text string) string {
	text, _ = cutMarkdown(text)
	return text
}

// cleanReference takes off a task's box and emphasis. If the item is a link to a
// file, target is its path, and the text is what the link says.
func cleanReference(item string) (text, target string) {
	text = strings.TrimSpace(item)
	if len(text) > 3 && text[0] == '[' && text[2] == ']' && text[3] == ' ' {
		text = strings.TrimSpace(text[3:])
	}
	before, link, after := cutLink(text)
	if inner, ok := strings.CutPrefix(link, "[["); ok {
		inner, _, _ = strings.Cut(strings.TrimSuffix(inner, "]]"), "|")
		inner, _, _ = strings.Cut(inner, "#")
		if strings.Contains(inner, "/") {
			target = inner
		}
		return strings.TrimSpace(inner), target
	}
	if link != "" {
		label, address, _ := strings.Cut(strings.TrimSuffix(link[1:], ")"), "](")
		address, _, _ = strings.Cut(address, "#")
		address, _, _ = strings.Cut(address, " ")
		if decoded, err := url.PathUnescape(address); err == nil && utf8.ValidString(decoded) {
			address = decoded
		}
		if text = before + label + after; !strings.Contains(address, "://") && address != "" {
			return strings.Trim(label, "*_`. \t"), address
		}
	}
	return strings.Trim(text, "*_`. \t"), ""
}

// parsePhaseReference reads "[All] [previous] Phase 15 …", with a range of
// numbers in parentheses or without.
func parsePhaseReference(text string) (reference, bool) {
	ref := reference{}
	rest := text
	for {
		word, after, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		switch strings.ToLower(word) {
		case "all", "of", "the", "specs", "in", "from":
		case "previous", "prior", "earlier":
			ref.previous = true
		case "phase":
			number, behind := leadingNumber(strings.TrimLeft(after, " "))
			ref.phase = CanonicalPhase("phase " + number)
			if _, inside, ok := strings.Cut(behind, "("); ok {
				behind, _, _ = strings.Cut(inside, ")")
			}
			ref.first, ref.last, _ = cutRange(strings.TrimSpace(behind))
			return ref, number != ""
		default:
			return reference{}, false
		}
		rest = after
	}
}

// cutLabelledRange reads a range, with words in parentheses behind it, or in
// parentheses behind words: "12-19 (All storage specs)", "All storage specs (12-19)".
func cutLabelledRange(text string) (first, last string, ok bool) {
	label, inside, hasLabel := strings.Cut(text, "(")
	if first, last, ok = cutRange(strings.TrimSpace(label)); ok || !hasLabel || strings.ContainsFunc(label, isDigit) {
		return first, last, ok
	}
	inside, _, _ = strings.Cut(inside, ")")
	return cutRange(strings.TrimSpace(inside))
}

// cutRange splits "311-320", "311 to 320" and "a-key through b-key". Both ends
// are single words: "Spec 3: From A to B" is no range.
func cutRange(text string) (first, last string, ok bool) {
	text, _ = cutLabel(strings.ToLower(text))
	parts := strings.Fields(text)
	if len(parts) == 4 {
		if _, isLabel := cutLabel(parts[2] + " "); isLabel {
			parts = slices.Delete(parts, 2, 3)
		}
	}
	if len(parts) == 3 && slices.Contains([]string{"-", "–", "—", "to", "through", "thru"}, parts[1]) {
		if isNumbered(parts[0]) && isNumbered(parts[2]) {
			return parts[0], parts[2], true
		}
		return "", "", false
	}
	if len(parts) != 1 {
		return "", "", false
	}
	isDash := func(r rune) bool { return unicode.Is(unicode.Pd, r) }
	at := strings.IndexFunc(parts[0], isDash)
	if at < 0 {
		return "", "", false
	}
	first, last = parts[0][:at], strings.TrimLeftFunc(parts[0][at:], isDash)
	return first, last, isNumber(first) && isNumber(last)
}

func isNumbered(key string) bool {
	number, _ := cutNumber(key)
	return number != ""
}

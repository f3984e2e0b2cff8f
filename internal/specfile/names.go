package specfile

// Names: which files are specs, the keys and numbers made from their names, and the
// order of numbers.

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxKey    = 128 // characters
	maxNumber = 16
)

// notSpecs are the names, without ".md" and in lower case, of files about a
// repository, and of lists of specs.
var notSpecs = []string{"readme", "license", "agents", "claude", "gemini", "contributing", "changelog",
	"code_of_conduct", "security", "index", "_index", "epic"}

// openFolders are the hidden folders that have specs.
var openFolders = [][2]string{{".kiro", "specs"}, {".agent-os", "specs"}, {".specify", "specs"}, {".claude", "epics"},
	{".taskmaster", "tasks"}, {".backlog", "tasks"}, {".backlog", "drafts"}, {".beads", ""}}

// Skips reports whether the file at a slash-separated path isn't read, because of
// its name: all that is neither Markdown nor a tracker's file; files about the
// repository, such as README and AGENTS, and index files; what is in a folder
// "templates", "node_modules" or "openspec/specs", or in a hidden one that no tool
// is known to keep specs in; and what macOS adds.
func Skips(name string) bool {
	base := path.Base(name)
	stem, isMarkdown := cutMarkdown(base)
	if stem == "" || !isMarkdown && !IsTracker(name) || slices.Contains(notSpecs, strings.ToLower(stem)) ||
		strings.HasPrefix(base, "README") || strings.HasPrefix(base, "LICENSE") || strings.HasPrefix(base, "._") {
		return true
	}
	folders := strings.Split(path.Dir(name), "/")
	for i, folder := range folders {
		next := ""
		if i+1 < len(folders) {
			next = folders[i+1]
		}
		switch {
		case slices.Contains([]string{"__MACOSX", "templates",
			"node_modules"}, folder), folder == "openspec" && next == "specs":
			return true
		case len(folder) > 1 && folder[0] == '.' && folder != "..":
			open := func(known [2]string) bool { return folder == known[0] && (known[1] == "" || known[1] == next) }
			if !slices.ContainsFunc(openFolders, open) {
				return true
			}
		}
	}
	return false
}

// cutMarkdown cuts ".md" or ".markdown" off a file's name.
func cutMarkdown(base string) (stem string, ok bool) {
	for _, end := range []string{".md", ".markdown"} {
		if at := len(base) - len(end); at >= 0 && strings.EqualFold(base[at:], end) {
			return base[:at], true
		}
	}
	return base, false
}

// keyFromStem makes a key of a file's name without ".md": lower case, and "-" for
// each character that a key can't have.
func keyFromStem(stem string) string {
	key := strings.Map(func(r rune) rune {
		if r = unicode.ToLower(r); keyRune(r) {
			return r
		}
		return '-'
	}, stem)
	if key = firstRunes(key, maxKey); key == "." || key == ".." {
		return strings.Repeat("-", len(key))
	}
	return key
}

// ValidKey reports whether a text can be a key: 1 to 128 letters, digits, dots,
// underscores and dashes, in lower case, that aren't "." or "..".
func ValidKey(key string) bool {
	return key != "" && utf8.ValidString(key) && keyFromStem(key) == key
}

func keyRune(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || r == '.' || r == '_' || r == '-'
}

// KeyOf makes a key of a number and a title, such as "043-cut-the-roses". It has at
// most 100 characters.
func KeyOf(number, title string) string {
	words := strings.FieldsFunc(keyFromStem(title), func(r rune) bool { return strings.ContainsRune("-._", r) })
	if number != "" {
		words = slices.Insert(words, 0, number)
	}
	return cmp.Or(firstRunes(strings.Join(words, "-"), 100), "spec")
}

// NextNumber is the number behind another, of which it counts the first part and
// keeps the width: "043" for "042" and "042b", "001" for "". It is "" where there is
// none of at most 16 digits.
func NextNumber(last string) string {
	digits, _ := cutLetter(cmp.Or(last, "000"))
	n, err := strconv.ParseInt(digits, 10, 64)
	next := fmt.Sprintf("%0*d", len(digits), n+1)
	if err != nil || len(next) > maxNumber {
		return ""
	}
	return next
}

// Keys hands out keys that are unique in a mission.
type Keys struct {
	taken map[string]bool
	last  map[string]int // the number that was last put behind a key
}

// NewKeys returns a Keys for a mission in which the keys of taken aren't free.
func NewKeys(taken iter.Seq[string]) *Keys {
	k := &Keys{make(map[string]bool), make(map[string]int)}
	for key := range taken {
		k.taken[key] = true
	}
	return k
}

// Take returns the first free key for a file, and takes it: its Key, then
// that with one folder of the path after the other in front of it, then with a
// number behind it.
func (k *Keys) Take(f File) string {
	key, folders := f.Key, strings.Split(path.Dir(f.home()), "/")
	for _, folder := range slices.Backward(folders) {
		if !k.taken[key] || folder == "." || folder == "" || utf8.RuneCountInString(key) == maxKey {
			break
		}
		key = firstRunes(keyFromStem(folder+".")+key, maxKey)
	}
	base := firstRunes(f.Key, maxKey-len("-20000"))
	for k.taken[key] {
		k.last[base] = max(k.last[base], 1) + 1
		key = base + "-" + strconv.Itoa(k.last[base])
	}
	k.taken[key] = true
	return key
}

// cutNumber splits a key like "031a-mission-panel" into number and slug, and
// "1.2.cook-pasta" and "1-2-cook-pasta" likewise. A key without a number is all
// slug, and so is one that begins with a date.
func cutNumber(key string) (number, slug string) {
	number, rest := leadingNumber(key)
	if number == "" || rest != "" && !strings.ContainsAny(rest[:1], "-_.") {
		return "", key
	}
	for letterless(number) && rest != "" && rest[0] != '_' {
		part, behind := leadingNumber(rest[1:])
		dash := rest[0] == '-'
		if part == "" || behind != "" && !strings.ContainsAny(behind[:1], "-_.") ||
			dash && (number[0] == '0' || part[0] == '0') {
			break
		}
		if number, rest = number+rest[:1]+part, behind; len(number) > maxNumber {
			break
		}
	}
	if isDate(key) {
		return "", key
	}
	return number, strings.TrimLeft(rest, "-_.")
}

func letterless(number string) bool { return strings.Trim(number, "0123456789.-") == "" }

// isDate reports whether a text begins with "2026-01-09" or "20260109".
func isDate(text string) bool {
	for _, layout := range []string{"2006-01-02", "20060102"} {
		if len(text) < len(layout) {
			continue
		}
		day, err := time.Parse(layout, text[:len(layout)])
		if more := text[len(layout):]; err == nil && day.Year() >= 1900 && day.Year() < 2200 &&
			!startsWithAny(more, "0123456789") {
			return true
		}
	}
	return false
}

// leadingNumber splits off digits, with one letter after them, that no other
// letter or digit follows.
func leadingNumber(text string) (number, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	switch {
	case end < 0:
		return text, ""
	case end == 0:
		return "", text
	}
	if c := text[end] | 0x20; c >= 'a' && c <= 'z' {
		end++
	}
	next, _ := utf8.DecodeRuneInString(text[end:])
	if end < len(text) && (unicode.IsLetter(next) || unicode.IsDigit(next)) {
		return "", text
	}
	return text[:end], text[end:]
}

// isNumber reports whether a text is nothing but a number, like "316", "031a", "1.2".
func isNumber(text string) bool {
	number, slug := cutNumber(text)
	return number != "" && slug == "" && number == text
}

// canonicalNumber is the same for numbers that are equal: without leading zeros,
// and with dots between its parts.
func canonicalNumber(number string) string {
	parts := strings.FieldsFunc(strings.ToLower(number), func(r rune) bool { return r == '.' || r == '-' })
	for i, part := range parts {
		parts[i] = trimZeros(part)
	}
	return strings.Join(parts, ".")
}

// trimZeros takes off leading zeros: "031a" and "31a" are the same number.
func trimZeros(number string) string {
	trimmed := strings.TrimLeft(number, "0")
	if trimmed == "" || trimmed[0] < '0' || trimmed[0] > '9' {
		return "0" + trimmed
	}
	return trimmed
}

// compareNumbers orders "9", "31", "31a", "031b", and "1.2", "1.10", "2" part by
// part; what has no number is first.
func compareNumbers(a, b string) int {
	for a != "" || b != "" {
		var partA, partB string
		partA, a = cutPart(a)
		partB, b = cutPart(b)
		digitsA, letterA := cutLetter(partA)
		digitsB, letterB := cutLetter(partB)
		digitsA, digitsB = strings.TrimLeft(digitsA, "0"), strings.TrimLeft(digitsB, "0")
		order := cmp.Or(cmp.Compare(len(partA), 0)-cmp.Compare(len(partB), 0), cmp.Compare(len(digitsA), len(digitsB)),
			cmp.Compare(digitsA, digitsB), cmp.Compare(letterA, letterB))
		if order != 0 {
			return order
		}
	}
	return 0
}

func cutPart(number string) (part, rest string) {
	if at := strings.IndexAny(number, ".-"); at >= 0 {
		return number[:at], number[at+1:]
	}
	return number, ""
}

// cutLetter splits "031a" into its digits and what follows them.
func cutLetter(number string) (digits, letter string) {
	letter = strings.TrimLeft(number, "0123456789")
	return number[:len(number)-len(letter)], letter
}

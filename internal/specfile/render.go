package specfile

// The progress of the work, written back into a body.

import "strings"

// Render returns body with its criteria checked or unchecked as done says: done[i]
// is for Criteria(body, rules)[i], and criteria past the end of done stay as they
// are, and so do those without a box.
//
// derived is the status that body stood for when it was stored, such as
// File.Status. If status is the same, the status line is left alone, whatever it
// says. If not, a status line that says something else is rewritten, in its own
// style; a body without one gets none, and a status that isn't one of the seven
// is never written. What doesn't change keeps its bytes.
func Render(body string, rules Rules, done []bool, status, derived string) string {
	var out strings.Builder
	copied := 0
	replace := func(start, end int, text string) {
		out.WriteString(body[copied:start])
		out.WriteString(text)
		copied = end
	}
	var field headerField
	if status != derived {
		field = statusField(body, status)
	}
	found, _ := findCriteria(body, rules)
	for i, c := range found {
		if field.end > 0 && (!c.boxed || field.start < c.mark) && field.start >= copied {
			replace(field.start, field.end, statusText(status, field.value))
			field.end = 0
		}
		if !c.boxed || i >= len(done) || done[i] == c.done {
			continue
		}
		mark := " "
		if done[i] {
			mark = "x"
		}
		replace(c.mark, c.markEnd, mark)
	}
	if field.end > 0 {
		replace(field.start, field.end, statusText(status, field.value))
	}
	if copied == 0 {
		return body
	}
	out.WriteString(body[copied:])
	return out.String()
}

// statusField finds the status line that has to change to say status. The field
// has the end 0 if there is none.
func statusField(body, status string) headerField {
	field := readHeader(body).fields["status"]
	if said, _ := statusFromWords(field.value); said == status || statusWords[status] == "" {
		return headerField{}
	}
	return field
}

// statusText returns a status as it is written in place of before: after a space
// if that is empty, in lower case if that is, and joined by the same character.
func statusText(status, before string) string {
	text := statusWords[status]
	switch {
	case before == "":
		return " " + text
	case before != strings.ToLower(before) || strings.ToUpper(before) == before:
		return text
	case strings.Contains(before, "_"):
		return status
	case strings.Contains(before, "-"):
		return strings.ReplaceAll(status, "_", "-")
	}
	return strings.ToLower(text)
}

package specfile

// Criteria and the status in a body: read, written back, carried over.

import "strings"

// Criteria returns the checkboxes below all "Acceptance Criteria" headings of a
// body, outside fenced code, or nil if there are none. A section ends at the next
// heading of the same or a higher level.
func Criteria(body string) []Criterion {
	var criteria []Criterion
	for s := newScanner(body); s.scan(); {
		if box, ok := s.criterion(); ok {
			criteria = append(criteria, Criterion{len(criteria) + 1, box.text, box.done})
		}
	}
	return criteria
}

// Render returns body with its criteria checked or unchecked as done says: done[i]
// is for Criteria(body)[i], and criteria past the end of done stay as they are.
//
// derived is the status that body stood for when it was stored, such as
// File.Status. If status is the same, the status line is left alone, whatever it
// says. If not, a status line that says something else is rewritten, in its own
// style; a body without one gets none, and a status that isn't one of the seven
// is never written. What doesn't change keeps its bytes.
func Render(body string, done []bool, status, derived string) string {
	var out strings.Builder
	copied := 0
	replace := func(start, end int, text string) {
		out.WriteString(body[copied:start])
		out.WriteString(text)
		copied = end
	}
	var statusLine headerField
	if status != derived {
		statusLine = statusField(body, status)
	}
	n := 0
	for s := newScanner(body); s.scan(); {
		if box, ok := s.criterion(); ok {
			if n < len(done) && done[n] != box.done {
				mark := " "
				if done[n] {
					mark = "x"
				}
				replace(box.mark, box.mark+1, mark)
			}
			n++
		} else if statusLine.line == s.number {
			text := statusWords[status]
			if statusLine.value == "" {
				text = " " + text
			}
			replace(statusLine.start, statusLine.end, text)
		}
	}
	if copied == 0 {
		return body
	}
	out.WriteString(body[copied:])
	return out.String()
}

// statusField finds the status line that has to change to say status. The field
// has the line 0 if there is none.
func statusField(body, status string) headerField {
	field := readHeader(body).fields["status"]
	if said, _ := statusFromWords(field.value); said == status || statusWords[status] == "" {
		return headerField{}
	}
	return field
}

// CarryDone returns which criteria are done when a file has changed, one flag for
// each of after: those that after says are, and those that were done before under
// the same text, whatever their index. If several have the same text, the first
// takes over from the first, the second from the second.
func CarryDone(before, after []Criterion) []bool {
	earlier := make(map[string][]bool)
	for _, c := range before {
		text := oneLine(c.Text)
		earlier[text] = append(earlier[text], c.Done)
	}
	done := make([]bool, len(after))
	for i, c := range after {
		done[i] = c.Done
		text := oneLine(c.Text)
		if was := earlier[text]; len(was) > 0 {
			done[i] = done[i] || was[0]
			earlier[text] = was[1:]
		}
	}
	return done
}

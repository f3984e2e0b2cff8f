package specfile

// The criteria of texts that were stored before RulesSections.

import "strings"

// firstCriteria are the checkboxes, of brackets with a space or an x, below all
// "Acceptance Criteria" headings, outside fenced code. A section ends at the next
// heading of the same or a higher level.
func firstCriteria(body string) (found []*foundCriterion) {
	s := scanner{body: body}
	section, fence := 0, ""
	for next := 0; next < len(body); {
		s.start = next
		if s.text, next = lineAt(body, next); s.start == 0 && strings.HasPrefix(s.text, byteOrderMark) {
			s.start, s.text = len(byteOrderMark), s.text[len(byteOrderMark):]
		}
		text, shallow := cutIndent(s.text)
		run := fenceRun(text)
		switch {
		case fence != "":
			if shallow && run >= len(fence) && text[0] == fence[0] && strings.Trim(text[run:], " \t") == "" {
				fence = ""
			}
			continue
		case shallow && run >= 3 && (text[0] == '~' || !strings.Contains(text[run:], "`")):
			fence = text[:run]
			continue
		}
		if level, title := atxHeading(s.text); level > 0 {
			if strings.EqualFold(strings.Trim(title, "*_: "), "acceptance criteria") {
				if section == 0 || level < section {
					section = level
				}
			} else if level <= section {
				section = 0
			}
			continue
		}
		s.item, s.isItem = cutListMarker(s.text)
		box, ok := s.checkbox()
		if ok && section > 0 && strings.Contains(" xX", body[box.mark:box.markEnd]) && box.mark < box.markEnd &&
			body[box.markEnd+1] != '*' {
			found = append(found, &foundCriterion{checkbox: box, boxed: true, parts: []string{box.text}})
		}
	}
	return found
}

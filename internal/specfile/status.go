package specfile

// The seven statuses, as people write them and as Render does.

import "strings"

// statusWords is how Render writes a status.
var statusWords = map[string]string{
	"planned":     "Planned",
	"in_progress": "In Progress",
	"in_review":   "In Review",
	"testing":     "Testing",
	"completed":   "Completed",
	"blocked":     "Blocked",
	"deferred":    "Deferred",
}

// statusPhrases are the phrases that a status line can begin with, in lower case
// and without punctuation, and the status that each means.
var statusPhrases = invert(map[string][]string{
	"planned": {"planned", "plan", "planning", "draft", "todo", "to do", "open", "new", "proposed", "ready", "pending",
		"backlog", "queued", "approved", "accepted", "not", "unstarted", "incomplete"},
	"in_progress": {"in progress", "inprogress", "wip", "work in progress", "in development", "in work", "started",
		"ongoing", "active", "doing", "implementing", "underway", "under way", "partial", "partially", "reopened"},
	"in_review": {"in review", "inreview", "review", "reviewing", "under review", "code review", "needs review",
		"ready for review", "awaiting review", "pending review"},
	"testing": {"testing", "test", "in test", "in testing", "under test", "qa", "in qa", "ready for testing",
		"verifying", "in verification", "validating", "in validation"},
	"completed": {"completed", "complete", "done", "finished", "implemented", "shipped", "merged", "released", "closed",
		"resolved", "verified", "fully implemented"},
	"blocked": {"blocked", "stuck", "waiting", "blocker", "failed"},
	"deferred": {"deferred", "postponed", "later", "on hold", "hold", "parked", "paused", "cancelled", "canceled",
		"deprecated", "superseded", "obsolete", "rejected", "abandoned", "wontfix", "won t fix"},
})

func invert(groups map[string][]string) map[string]string {
	flat := make(map[string]string)
	for name, members := range groups {
		for _, member := range members {
			flat[member] = name
		}
	}
	return flat
}

// statusFromWords maps what a status line says to one of the seven: the longest
// known phrase of its first three words decides. Everything else is planned.
func statusFromWords(text string) (status string, known bool) {
	said := wordsOf(firstRunes(text, maxText))
	for n := min(3, len(said)); n > 0; n-- {
		if status, known := statusPhrases[strings.Join(said[:n], " ")]; known {
			return status, true
		}
	}
	if len(said) == 0 && strings.ContainsAny(text, "✅✔☑") {
		return "completed", true
	}
	return "planned", false
}

package specfile

// The seven statuses and the priorities, as people write them and as Render does.

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
	"planned": {"planned", "plan", "planning", "draft", "drafted", "todo", "to do", "open", "new", "proposed",
		"proposal", "ready",
		"ready for dev", "ready for development", "pending", "backlog", "queued", "approved", "accepted", "not", "unstarted",
		"incomplete", "optional", "待办", "未开始", "计划", "計画", "未着手", "예정", "offen", "geplant", "pendiente", "pendente",
		"à faire", "запланировано", "открыто"},
	"in_progress": {"in progress", "inprogress", "wip", "work in progress", "in development", "in work", "started",
		"ongoing", "active", "doing", "implementing", "underway", "under way", "partial", "partially", "reopened",
		"进行中", "進行中", "진행 중", "진행중", "in arbeit", "en progreso", "em andamento", "en cours", "в работе"},
	"in_review": {"in review", "inreview", "review", "reviewing", "under review", "code review", "needs review",
		"ready for review", "awaiting review", "pending review"},
	"testing": {"testing", "test", "in test", "in testing", "under test", "qa", "in qa", "ready for testing",
		"ready for qa", "verifying", "in verification", "validating", "in validation"},
	"completed": {"completed", "complete", "done", "finished", "implemented", "shipped", "merged", "released", "closed",
		"resolved", "verified", "fully implemented", "fixed", "delivered", "已完成", "完成", "完了", "완료", "erledigt", "fertig",
		"abgeschlossen", "completado", "terminado", "concluído", "terminé", "fini", "готово", "завершено", "выполнено"},
	"blocked": {"blocked", "stuck", "waiting", "blocker", "failed"},
	"deferred": {"deferred", "postponed", "later", "on hold", "hold", "parked", "paused", "cancelled", "canceled",
		"deprecated", "superseded", "obsolete", "rejected", "abandoned", "wontfix", "won t fix", "won t do", "wont do",
		"declined", "dropped", "duplicate", "archived", "icebox", "someday", "已取消", "abgebrochen", "отменено"},
})

// statusSigns mean a status if there is no word.
var statusSigns = map[string]string{
	"✅": "completed", "✔": "completed", "☑": "completed", "✓": "completed", "🚧": "in_progress", "🔄": "in_progress",
	"⏸": "deferred", "🚫": "blocked", "⛔": "blocked",
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
	if len(said) == 0 {
		for sign, status := range statusSigns {
			if strings.HasPrefix(strings.TrimSpace(text), sign) {
				return status, true
			}
		}
	}
	return "planned", false
}

// reviewFromWords is "human" if that is the first word, and else "".
func reviewFromWords(text string) string {
	if said := wordsOf(firstRunes(text, maxText)); len(said) > 0 && said[0] == "human" {
		return "human"
	}
	return ""
}

// priorityWords are the words that a priority can begin with, beside digits.
var priorityWords = map[string]int{
	"p0": 9, "critical": 9, "urgent": 9, "highest": 9, "blocker": 9,
	"p1": 6, "high": 6, "major": 6,
	"medium": DefaultPriority, "normal": DefaultPriority, "moderate": DefaultPriority,
	"p2": 3,
	"p3": 0, "p4": 0, "low": 0, "lowest": 0, "minor": 0, "trivial": 0,
}

// priorityFromWords maps what a priority line says to 0 to 9: its first word, or
// a digit. Without a word it is the default.
func priorityFromWords(text string) (priority int, known bool) {
	said := wordsOf(firstRunes(text, maxText))
	if len(said) == 0 {
		return DefaultPriority, true
	}
	if word := said[0]; len(word) == 1 && word >= "0" && word <= "9" {
		return int(word[0] - '0'), true
	}
	priority, known = priorityWords[said[0]]
	if !known {
		priority = DefaultPriority
	}
	return priority, known
}

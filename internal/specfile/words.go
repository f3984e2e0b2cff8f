package specfile

// The words that headings and fields are known by, in the languages that most
// people write in.

import "strings"

// invert makes a lookup table of groups of names for one thing.
func invert(groups map[string][]string) map[string]string {
	flat := make(map[string]string)
	for name, members := range groups {
		for _, member := range members {
			flat[member] = name
		}
	}
	return flat
}

// fieldNames are the fields that are read, and what each is called here. Names
// are in lower case and without punctuation.
var fieldNames = invert(map[string][]string{
	"phase":             {"phase"},
	"review":            {"review"},
	"spec id":           {"spec id", "id"},
	"estimated context": {"estimated context"},
	"status": {"status", "state", "状态", "狀態", "状況", "ステータス", "상태", "estado", "statut", "статус", "stato",
		"الحالة", "स्थिति", "অবস্থা", "حیثیت"},
	"priority": {"priority", "优先级", "優先級", "優先度", "우선순위", "priorität", "priorité", "prioridad", "prioridade",
		"приоритет", "priorità", "prioritas", "الأولوية", "प्राथमिकता"},
	"dependencies": {"dependencies", "dependency", "depends on", "blocked by", "prerequisites", "prerequisite", "requires",
		"依赖", "依赖项", "依赖于", "依賴", "前置条件", "前置任务", "依存", "依存関係", "前提条件", "의존성", "종속성", "선행 조건",
		"abhängigkeiten", "abhängig von", "hängt ab von", "voraussetzungen", "dépendances", "dépend de", "prérequis",
		"dependencias", "depende de", "requisitos previos", "prerrequisitos", "dependências", "pré requisitos",
		"зависимости", "зависит от", "dipendenze", "dipende da", "prerequisiti", "dependensi", "ketergantungan",
		"bergantung pada", "التبعيات", "يعتمد على", "निर्भरता", "निर्भरताएँ", "নির্ভরতা", "انحصار"},
})

// dependentNames are fields that list what depends on a spec.
var dependentNames = []string{"blocks", "blocking", "enables", "unblocks", "dependents", "required by", "needed by",
	"used by",
	"related", "related specs", "next"}

// The kinds of sections whose boxes are criteria.
const (
	acceptance = "acceptance"
	tasks      = "tasks"
)

// sectionNames are what headings of such sections begin with.
var sectionNames = invert(map[string][]string{
	acceptance: {"acceptance criteria", "acceptance criterion", "acceptance scenarios", "definition of done",
		"success criteria",
		"done criteria", "completion criteria", "exit criteria",
		"验收标准", "验收条件", "驗收標準", "完成定义", "完成标准", "成功标准", "成功標準",
		"criterios de aceptación", "criterios de éxito", "definición de terminado", "definición de hecho",
		"स्वीकृति मानदंड", "स्वीकृति मापदंड", "सफलता मानदंड", "معايير القبول", "معايير النجاح", "تعريف الإنجاز",
		"গ্রহণযোগ্যতার মানদণ্ড", "গ্রহণের মানদণ্ড", "critérios de aceitação", "critérios de aceite", "critérios de sucesso",
		"definição de pronto", "критерии приёмки", "критерии приемки", "критерии готовности", "критерии успеха",
		"قبولیت کے معیار", "kriteria penerimaan", "kriteria keberhasilan", "définition de terminé", "définition du fini",
		"critères d acceptation", "critères de réussite", "critères de succès",
		"akzeptanzkriterien", "abnahmekriterien", "erfolgskriterien",
		"受け入れ基準", "受入基準", "受け入れ条件", "受入条件", "完了の定義", "完了条件", "成功基準",
		"인수 기준", "수용 기준", "완료 조건", "완료 정의", "성공 기준", "criteri di accettazione"},
	tasks: {"tasks", "task list", "spec tasks", "implementation tasks", "任务", "任務", "タスク", "작업", "aufgaben", "tâches",
		"tareas",
		"tarefas", "задачи", "المهام", "مهام", "कार्य", "কাজ", "کام", "tugas", "attività"},
})

// sectionKind says what the boxes below a heading are: acceptance, tasks, or "".
// Numbers, emphasis and emoji around the words don't matter, and neither does
// what follows them; a heading of tasks may go on behind a slash, a colon or a
// parenthesis only.
func sectionKind(heading string) string {
	said := headingWords(heading)
	for n := min(4, len(said)); n > 0; n-- {
		if sectionNames[strings.Join(said[:n], " ")] == acceptance {
			return acceptance
		}
	}
	if cut := strings.IndexAny(heading, "/:(（："); cut > 0 {
		said = headingWords(heading[:cut])
	}
	if sectionNames[strings.Join(said, " ")] == tasks {
		return tasks
	}
	return ""
}

// headingWords are the words of a heading, without the number before them.
func headingWords(heading string) []string {
	words := wordsOf(firstRunes(heading, maxText))
	for len(words) > 0 && strings.Trim(words[0], "0123456789") == "" {
		words = words[1:]
	}
	return words
}

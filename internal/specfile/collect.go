package specfile

// From the files of an import to specs: one for a file, one for a folder that is a
// piece of work, one for each item of a tracker.

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
)

// The limits of an import. A tracker's items count as files, including those that
// aren't work, and get paths that are made here.
const (
	MaxFiles = 20_000
	MaxPath  = 1024 // bytes
)

// ErrTooManyFiles is returned for more than MaxFiles.
var ErrTooManyFiles = errors.New("too many files and items of trackers")

const (
	maxDocuments     = 200     // that one spec names
	maxAllReferences = 200_000 // of all specs that are read together
)

// Source is a file as it was sent.
type Source struct{ Path, Text string }

// Spec is a spec made of one or more files: the text that is stored, and what it says.
type Spec struct {
	File
	Text string
}

// Collection is what Collect makes of the files of an import.
type Collection struct {
	Specs    []Spec
	Skipped  []string  // the paths of files that aren't specs
	Warnings []Warning // about the content of files that aren't specs
}

// Collect makes specs of files, whose paths must be clean, unique and not to be
// skipped (see Skips). others are the paths of files beside them. The texts must be valid
// UTF-8. The error is ErrTooManyFiles or the context's.
func Collect(ctx context.Context, sources []Source, others []string) (Collection, error) {
	var c Collection
	var files []Source
	left := MaxFiles - len(others)
	for _, source := range sources {
		if left--; left < 0 {
			return Collection{}, ErrTooManyFiles
		}
		switch {
		case strings.TrimSpace(strings.TrimPrefix(source.Text, byteOrderMark)) == "":
			c.skip(source.Path, "empty_file", "The file is empty.")
		case IsTracker(source.Path):
			items, err := readTracker(ctx, source, left)
			if err != nil {
				return Collection{}, err
			}
			left -= items.count
			c.Warnings = append(c.Warnings, items.warnings...)
			c.Skipped = append(c.Skipped, items.skipped...)
			files = append(files, items.files...)
		default:
			files = append(files, source)
		}
	}
	folders := findFolders(files)
	documents := make(map[string][]string)
	texts := make(map[string]string) // of documents that can have a title
	for _, file := range files {
		if folder := folders.of(file.Path); folder != "" && file.Path != folders[folder] {
			documents[folder] = append(documents[folder], file.Path)
			c.Skipped = append(c.Skipped, file.Path)
			if path.Dir(file.Path) == folder {
				texts[strings.ToLower(file.Path)] = file.Text
			}
		}
	}
	for _, other := range others {
		if folder := folders.of(other); folder != "" {
			documents[folder] = append(documents[folder], other)
		}
	}
	references := 0
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return Collection{}, err
		}
		folder := folders.of(file.Path)
		var f File
		switch {
		case folder == "":
			f = Parse(file.Path, file.Text)
		case folders[folder] == file.Path:
			f = parseFolder(file, titleOf(folder, texts), documents[folder])
		default:
			continue
		}
		if references += len(f.Refs); references > maxAllReferences && len(f.Refs) > 0 {
			f.warn(f.RefLines[0], "too_many_references",
				"An import has at most %d dependencies: those of this file aren't read.", maxAllReferences)
			f.Refs, f.RefLines = nil, nil
		}
		c.Specs = append(c.Specs, Spec{f, file.Text})
	}
	return c, nil
}

func (c *Collection) skip(name, code, message string) {
	c.Skipped = append(c.Skipped, name)
	c.Warnings = append(c.Warnings, Warning{File: name, Code: code, Message: message})
}

// workFolders are folders that are a piece of work as a whole, each with the path
// of its list of tasks.
type workFolders map[string]string

// findFolders finds the folders that have tasks.md beside spec.md, proposal.md or
// requirements.md. The root counts if no other folder does.
func findFolders(files []Source) workFolders {
	lists, described := make(workFolders), make(map[string]bool)
	for _, file := range files {
		folder, base := path.Split(file.Path)
		switch folder = path.Clean(folder); strings.ToLower(base) {
		case "tasks.md":
			lists[folder] = file.Path
		case "spec.md", "proposal.md", "requirements.md":
			described[folder] = true
		}
	}
	for folder := range lists {
		if !described[folder] {
			delete(lists, folder)
		}
	}
	if len(lists) > 1 {
		delete(lists, ".")
	}
	return lists
}

// of returns the outermost of the folders that a file is in, or "".
func (w workFolders) of(name string) string {
	if w["."] != "" {
		return "."
	}
	for i := range len(name) {
		if name[i] == '/' && w[name[:i]] != "" {
			return name[:i]
		}
	}
	return ""
}

// parseFolder reads only the boxes of a list of tasks.
func parseFolder(list Source, title string, documents []string) File {
	f := File{Path: list.Path, Rules: RulesBoxes, Priority: DefaultPriority, Phase: folderPhase(list.Path)}
	f.takeName()
	f.takeNumberAndTitle(header{})
	if title != "" {
		f.Title = f.cut(0, "title", title)
	}
	found, odd := findCriteria(list.Text, f.Rules)
	f.takeCriteria(found, odd)
	f.takeStatus(header{}, found)
	f.Documents = slices.Sorted(slices.Values(documents))[:min(len(documents), maxDocuments)]
	return f
}

// documentNames are headings that only name the kind of document, and say nothing
// about the work.
var documentNames = []string{
	"specification", "spec", "feature specification", "feature spec", "feature", "technical specification",
	"requirements", "requirements document", "requirements specification", "spec requirements document",
	"product requirements", "product requirements document", "prd", "proposal", "change proposal", "change", "why",
	"design document", "implementation plan", "tasks",
}

// titleOf is what the heading of a folder's spec or proposal names, or "".
func titleOf(folder string, texts map[string]string) string {
	for _, name := range []string{"spec.md", "proposal.md", "requirements.md"} {
		h := readHeader(texts[strings.ToLower(path.Join(folder, name))])
		title := oneLine(h.title)
		if field := h.fields["title"]; field.value != "" {
			title = oneLine(field.value)
		}
		if label, rest, ok := cutColon(title); ok && isDocumentName(label) {
			title = strings.TrimSpace(rest)
		}
		if title != "" && !isDocumentName(title) {
			return title
		}
	}
	return ""
}

func isDocumentName(title string) bool {
	return slices.Contains(documentNames, strings.Join(headingWords(title), " "))
}

package main

// What an import will do, found out before anything is locked: which spec each
// file belongs to, and what all references of the mission mean then.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"tachikoma/internal/specfile"
)

// importWarning is a warning with how often it came, and the first places.
type importWarning struct {
	specfile.Warning
	Count  int      `json:"count"`
	Places []string `json:"places"`
}

const (
	maxImportWarnings = 1000 // that an answer has; more are counted
	maxWarningPlaces  = 3
)

// warningList gathers the warnings of an import: those that say the same are one.
type warningList struct {
	Warnings []importWarning `json:"warnings"`
	Total    int             `json:"warnings_total"`
	known    map[specfile.Warning]int
}

func (l *warningList) add(warnings ...specfile.Warning) {
	if l.known == nil {
		l.known = make(map[specfile.Warning]int)
	}
	for _, w := range warnings {
		l.Total++
		kind := specfile.Warning{Code: w.Code, Message: w.Message}
		at, known := l.known[kind]
		switch {
		case !known && len(l.Warnings) == maxImportWarnings:
			continue
		case !known:
			at = len(l.Warnings)
			l.known[kind] = at
			l.Warnings = append(l.Warnings, importWarning{Warning: w, Places: []string{}})
		}
		said := &l.Warnings[at]
		if said.Count++; w.File != "" && len(said.Places) < maxWarningPlaces {
			said.Places = append(said.Places, placeOf(w))
		}
	}
}

func placeOf(w specfile.Warning) string {
	if w.Line == 0 {
		return w.File
	}
	return w.File + ":" + strconv.Itoa(w.Line)
}

// importedSpec is what became of a file of an import, and the spec that it is.
type importedSpec struct {
	specfile.Spec
	hash    []byte
	old     *storedSpec // what is there, or nil
	id, key string      // of the spec
	renamed bool        // it was stored at another path
}

// takes reports whether the file replaces what is stored.
func (f importedSpec) takes() bool {
	return !f.old.kept() && (f.old.Path != f.Path || !bytes.Equal(f.old.hash, f.hash) ||
		!slices.Equal(f.old.documents, f.Documents))
}

// saysDone reports whether a changed file says that it is done, while its spec is
// open.
func (f importedSpec) saysDone() bool {
	return f.Status == "completed" && !f.renamed && !bytes.Equal(f.old.hash, f.hash) &&
		f.old.status != "completed" && f.old.status != "deferred"
}

// importPlan is what an import will do to a mission whose specs are stored as they
// were read.
type importPlan struct {
	stored    []storedSpec
	files     []importedSpec // by path
	specs     []storedSpec   // of the mission, as they will be
	documents []*storedSpec  // specs of files that are none any more
	resolved  specfile.Resolution
	report    importReport // but for what only a transaction knows
}

// planImport plans an import. It changes neither of its arguments.
func planImport(ctx context.Context, a *archive, stored []storedSpec) (*importPlan, error) {
	files, err := collect(ctx, a.files, a.skipped)
	if err != nil {
		return nil, err
	}
	p := &importPlan{stored: stored}
	p.report.Skipped = slices.Concat(a.skipped, files.Skipped)
	move, err := findMove(ctx, files.Specs, stored)
	if err != nil {
		return nil, err
	}
	if move != (folderMove{}) && move.fits(files.Specs) {
		if files, err = collect(ctx, move.sources(a.files), move.paths(a.skipped)); err != nil {
			return nil, err
		}
		p.report.add(specfile.Warning{File: files.Specs[0].Path, Code: "folder_moved", Message: move.message()})
	}
	slices.SortFunc(files.Specs, func(a, b specfile.Spec) int { return strings.Compare(a.Path, b.Path) })
	p.report.add(a.warnings...)
	p.report.add(files.Warnings...)
	p.match(files.Specs)
	p.findDocuments(slices.Concat(a.passedOver, files.Skipped))
	for _, f := range p.files {
		p.report.add(f.Warnings...)
		p.report.Total += f.MoreWarnings
	}
	p.resolved, err = specfile.Resolve(ctx, p.nodes())
	if err != nil {
		return nil, err
	}
	for _, f := range p.files {
		p.report.add(p.resolved.Warnings[f.key]...)
	}
	p.report.Total += p.resolved.MoreWarnings
	if len(p.files) == 0 {
		p.report.add(specfile.Warning{Code: "nothing_imported", Message: fmt.Sprintf(
			"No file became a spec: %d files were passed over for their names or for what they hold.", len(p.report.Skipped))})
	}
	p.warnOfWork()
	p.report.Warnings, p.report.Skipped = orEmpty(p.report.Warnings), orEmpty(p.report.Skipped)
	p.report.Renamed, p.report.Completed = orEmpty(p.report.Renamed), orEmpty(p.report.Completed)
	return p, nil
}

// collect is specfile.Collect with the error for a client.
func collect(ctx context.Context, sources []specfile.Source, others []string) (specfile.Collection, error) {
	c, err := specfile.Collect(ctx, sources, others)
	if errors.Is(err, specfile.ErrTooManyFiles) {
		err = errTooManyFiles()
	}
	return c, err
}

// match finds the spec of each file: at its path; without a path, by its key; at
// another path, where it was renamed. All others are new.
func (p *importPlan) match(specs []specfile.Spec) {
	byPath, pathless := make(map[string]*storedSpec), make(map[string]*storedSpec)
	byHash := make(map[string][]*storedSpec)
	keys := make([]string, 0, len(p.stored))
	for i := range p.stored {
		spec := &p.stored[i]
		keys = append(keys, spec.Key)
		if spec.Path == "" {
			pathless[spec.Key] = spec
			continue
		}
		byPath[spec.Path] = spec
		byHash[string(spec.hash)] = append(byHash[string(spec.hash)], spec)
	}
	imported := make(map[string]bool, len(specs))
	for _, spec := range specs {
		imported[spec.Path] = true
	}
	free := specfile.NewKeys(slices.Values(keys))
	folder := sharedFolder(specs)
	for _, spec := range specs {
		hash := sha256.Sum256([]byte(spec.Text))
		f := importedSpec{Spec: spec, hash: hash[:], old: byPath[spec.Path]}
		same := byHash[string(f.hash)]
		if f.old == nil && len(same) == 1 && !imported[same[0].Path] && inFolder(same[0].Path, folder) {
			f.old, f.renamed = same[0], true
			delete(byHash, string(f.hash))
			if !f.old.kept() {
				p.report.Renamed = append(p.report.Renamed, renamedFile{f.old.Path, spec.Path})
			}
		}
		if f.old == nil {
			f.old = pathless[spec.Key]
			delete(pathless, spec.Key)
		}
		if f.old != nil {
			f.id, f.key = f.old.id, f.old.Key
		} else {
			f.id, f.key = newID(), free.Take(spec.File)
		}
		p.files = append(p.files, f)
	}
}

// sharedFolder is the folder that all files have in common, "." for the root.
func sharedFolder(specs []specfile.Spec) string {
	if len(specs) == 0 {
		return "."
	}
	folder := path.Dir(specs[0].Path)
	for _, spec := range specs {
		for !inFolder(spec.Path, folder) {
			folder = path.Dir(folder)
		}
	}
	return folder
}

func inFolder(name, folder string) bool {
	return folder == "." || strings.HasPrefix(name, folder+"/")
}

// folderMove says how the paths of an import have to change to be those that are
// stored: one leading folder less, or one more.
type folderMove struct{ cut, add string }

func (m folderMove) path(name string) string {
	if m.cut != "" {
		return strings.TrimPrefix(name, m.cut+"/")
	}
	return m.add + "/" + name
}

func (m folderMove) paths(names []string) []string { return mapValues(names, m.path) }

func (m folderMove) sources(files []specfile.Source) []specfile.Source {
	return mapValues(files, func(f specfile.Source) specfile.Source {
		return specfile.Source{Path: m.path(f.Path), Text: f.Text}
	})
}

// fits reports whether no path gets too long.
func (m folderMove) fits(specs []specfile.Spec) bool {
	return !slices.ContainsFunc(specs, func(f specfile.Spec) bool { return len(m.path(f.Path)) > specfile.MaxPath })
}

func (m folderMove) message() string {
	if m.cut != "" {
		return fmt.Sprintf("These files were imported before without the folder %s; they are taken for the same ones.", m.cut)
	}
	return fmt.Sprintf("These files were imported before from the folder %s; they are taken for the same ones.", m.add)
}

// maxMoved is how many folders a move is looked for over, since each costs a look
// at every path.
const maxMoved = 16

// findMove looks whether an import, none of whose paths is stored, has files that
// are stored below a leading folder more or less: with the same content, or at least
// the same title. What most of them agree on counts; of two as good, none does. The
// error is the context's.
func findMove(ctx context.Context, specs []specfile.Spec, stored []storedSpec) (folderMove, error) {
	imported := make(map[string]specfile.Spec, len(specs))
	for _, spec := range specs {
		imported[spec.Path] = spec
	}
	votes := make(map[folderMove]int)
	hashes := make(map[string][sha256.Size]byte) // of specs by path, since many can ask for one
	vote := func(spec specfile.Spec, old storedSpec, move folderMove) {
		if spec.Title == old.Title && spec.Number == old.Number {
			votes[move]++
			return
		}
		hash, known := hashes[spec.Path]
		if !known {
			hash = sha256.Sum256([]byte(spec.Text))
			hashes[spec.Path] = hash
		}
		if bytes.Equal(hash[:], old.hash) {
			votes[move]++
		}
	}
	byPath := make(map[string]storedSpec, len(stored))
	for _, old := range stored {
		if old.Path == "" {
			continue
		}
		if _, same := imported[old.Path]; same {
			return folderMove{}, nil
		}
		if err := ctx.Err(); err != nil {
			return folderMove{}, err
		}
		byPath[old.Path] = old
		rest := old.Path
		for range maxMoved {
			var ok bool
			if _, rest, ok = strings.Cut(rest, "/"); !ok {
				break
			}
			if spec, ok := imported[rest]; ok {
				vote(spec, old, folderMove{add: strings.TrimSuffix(old.Path, "/"+rest)})
			}
		}
	}
	folders := strings.Split(sharedFolder(specs), "/")
	for n := min(len(folders), maxMoved); n > 0 && folders[0] != "."; n-- {
		folder := strings.Join(folders[:n], "/")
		for _, spec := range specs {
			if err := ctx.Err(); err != nil {
				return folderMove{}, err
			}
			if old, ok := byPath[strings.TrimPrefix(spec.Path, folder+"/")]; ok {
				vote(spec, old, folderMove{cut: folder})
			}
		}
	}
	best, most, tied := folderMove{}, 0, false
	for move, n := range votes {
		if n > most {
			best, most, tied = move, n, false
		} else if n == most {
			tied = true
		}
	}
	if tied {
		return folderMove{}, nil
	}
	return best, nil
}

// findDocuments finds the specs whose files are no work any more.
func (p *importPlan) findDocuments(skipped []string) {
	documents := make(map[string]bool, len(skipped))
	for _, name := range skipped {
		documents[name] = true
	}
	for i := range p.stored {
		if spec := &p.stored[i]; documents[spec.Path] {
			p.documents = append(p.documents, spec)
		}
	}
}

// nodes are the mission's specs as they will be, of which it keeps them.
func (p *importPlan) nodes() []specfile.Node {
	replaced := make(map[string]bool, len(p.files))
	p.specs = make([]storedSpec, 0, len(p.stored)+len(p.files))
	for _, f := range p.files {
		if f.old != nil && !f.takes() {
			continue
		}
		node := specfile.Node{Key: f.key, ID: f.ID, Number: f.Number, Title: f.Title, Phase: f.Phase, Style: f.Style,
			Path: f.Path, Rules: f.Rules, Refs: orEmpty(f.Refs), RefLines: f.RefLines}
		spec := storedSpec{Node: node, id: f.id}
		if f.old != nil {
			spec.refWarnings = f.old.refWarnings
		}
		p.specs = append(p.specs, spec)
		replaced[f.id] = true
	}
	for _, old := range p.stored {
		if !replaced[old.id] {
			p.specs = append(p.specs, old)
		}
	}
	slices.SortFunc(p.specs, func(a, b storedSpec) int { return strings.Compare(a.Key, b.Key) })
	return mapValues(p.specs, func(s storedSpec) specfile.Node { return s.Node })
}

func (p *importPlan) ids() []string {
	return mapValues(p.specs, func(s storedSpec) string { return s.id })
}

// warnOfWork tells where files and the work on their specs differ.
func (p *importPlan) warnOfWork() {
	for _, f := range p.files {
		if f.old == nil {
			continue
		}
		if f.old.leased && !bytes.Equal(f.old.hash, f.hash) {
			p.report.add(specfile.Warning{File: f.Path, Code: "leased", Message: "An agent works on this spec, " +
				"so it was left as it is. Import the file again when the lease has ended."})
		}
		if f.old.waits && !bytes.Equal(f.old.hash, f.hash) {
			p.report.add(specfile.Warning{File: f.Path, Code: "waits_for_person", Message: "The spec is proposed or in " +
				"review, so it was left as it is. Import the file again when a person has decided."})
		} else if f.saysDone() {
			p.report.add(specfile.Warning{File: f.Path, Code: "done_in_file", Message: "The file says that it is done, " +
				"and its spec was open. It is completed now if nobody held it, all its criteria are checked, and no review is " +
				"missing."})
		}
	}
	for _, spec := range p.documents {
		if spec.status != "deferred" {
			p.report.add(specfile.Warning{File: spec.Path, Code: "no_work", Message: "This file was a spec and isn't " +
				"one any more: the spec is deferred if nobody has worked on it. Delete it, if it isn't needed."})
		}
	}
}

// on is the plan for specs that are as it expects, but may have gone on.
func (p *importPlan) on(stored []storedSpec) *importPlan {
	now := make(map[string]*storedSpec, len(stored))
	for i := range stored {
		now[stored[i].id] = &stored[i]
	}
	q := *p
	q.files, q.documents = slices.Clone(p.files), slices.Clone(p.documents)
	for i, f := range q.files {
		if f.old != nil {
			q.files[i].old = now[f.old.id]
		}
	}
	for i, spec := range q.documents {
		q.documents[i] = now[spec.id]
	}
	return &q
}

// mapValues is what f makes of each of some values.
func mapValues[T, U any](values []T, f func(T) U) []U {
	made := make([]U, len(values))
	for i, value := range values {
		made[i] = f(value)
	}
	return made
}

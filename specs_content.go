package main

// What a spec says: its Markdown and criteria, which change with its version
// alone. Most reads find that kept, as rendered and encoded for the one before.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"tachikoma/internal/specfile"
)

// specContent is what a version of a spec says. It is never changed.
type specContent struct {
	version  int64
	markdown string
	criteria []specfile.Criterion
	encoded  struct{ markdown, criteria []byte } // as JSON
}

func newSpecContent(v specView) (*specContent, error) {
	c := &specContent{version: v.Version, markdown: v.Body, criteria: v.Criteria}
	var err error
	if c.encoded.markdown, err = encode(c.markdown); err != nil {
		return nil, fmt.Errorf("encoding a spec's body: %w", err)
	}
	if c.encoded.criteria, err = encode(c.criteria); err != nil {
		return nil, fmt.Errorf("encoding a spec's criteria: %w", err)
	}
	return c, nil
}

// size is roughly how many bytes the content takes.
func (c *specContent) size() int {
	return len(c.markdown) + len(c.encoded.markdown) + 2*len(c.encoded.criteria) + 512
}

// contentBytes bounds what is kept of the contents.
const contentBytes = 8 << 20

// specContents keeps the contents of specs that were read lately, by id. The
// older half goes when a new one has filled up. What it is asked to keep must
// have been committed: a transaction that rolls back gives its version to
// another. Safe for concurrent use.
// See docs/design.md, The text of specs in memory.
type specContents struct {
	mu         sync.Mutex // guards the following
	young, old map[string]*specContent
	bytes      int // of young
}

func newSpecContents() *specContents {
	return &specContents{young: make(map[string]*specContent)}
}

// of returns what is kept of a spec, or nil.
func (k *specContents) of(id string) *specContent {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.young[id]
	if !ok {
		if c, ok = k.old[id]; ok {
			k.add(id, c)
		}
	}
	return c
}

// keep keeps what a spec says, unless a newer version is kept already.
func (k *specContents) keep(id string, c *specContent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kept := k.young[id]; kept == nil || kept.version < c.version {
		k.add(id, c)
	}
}

// add puts a content among the young ones. The caller holds mu.
func (k *specContents) add(id string, c *specContent) {
	if k.bytes+c.size() > contentBytes/2 {
		k.old, k.young, k.bytes = k.young, make(map[string]*specContent), 0
	}
	if before := k.young[id]; before != nil {
		k.bytes -= before.size()
	}
	k.young[id] = c
	k.bytes += c.size()
}

// clear forgets all, for a database that may have lost commits.
func (k *specContents) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.young, k.old, k.bytes = make(map[string]*specContent), nil, 0
}

// specRead is a spec as it is read alone: its state, and what it says.
type specRead struct {
	specSummary
	dependents json.RawMessage
	*specContent
}

// readSpec reads one spec for an account, in one query with others that are
// read right now, and without its text where that is kept.
func (s *Server) readSpec(ctx context.Context, a account, id string) (specRead, error) {
	kept := s.contents.of(id)
	key := lookup{userID: a.userID, admin: a.admin(), id: id}
	if kept != nil {
		key.known = kept.version
	}
	row, err := s.specs.get(ctx, key)
	if err != nil {
		return specRead{}, notFoundOr(err, "reading a spec")
	}
	v := row.view()
	if row.body == nil {
		return specRead{v.specSummary, v.Dependents, kept}, nil
	}
	content, err := newSpecContent(v)
	if err != nil {
		return specRead{}, err
	}
	s.contents.keep(id, content)
	return specRead{v.specSummary, v.Dependents, content}, nil
}

// encode is the spec as a specView is encoded.
func (v specRead) encode() ([]byte, error) {
	summary, err := encode(v.specSummary)
	if err != nil {
		return nil, fmt.Errorf("encoding a spec: %w", err)
	}
	b := bytes.NewBuffer(make([]byte, 0, len(summary)+len(v.encoded.markdown)+len(v.encoded.criteria)+len(v.dependents)+64))
	b.Write(bytes.TrimSuffix(summary, []byte("}")))
	b.WriteString(`,"body":`)
	b.Write(v.encoded.markdown)
	b.WriteString(`,"criteria":`)
	b.Write(v.encoded.criteria)
	b.WriteString(`,"dependents":`)
	if err := json.Compact(b, v.dependents); err != nil {
		return nil, fmt.Errorf("encoding dependents: %w", err)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

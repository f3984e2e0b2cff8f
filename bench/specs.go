package main

// The specs that both databases are filled with: the same on every run.

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// size is how much a run stores and how long it measures.
type size struct {
	missions int // without specs
	groups   [3]group
	rounds   int
	length   time.Duration // of one side's round
	pairs    int           // claims and completes of each of many agents in a round
	alone    int           // of one agent alone
	sockets  int           // WebSockets that follow
	singles  int           // events sent one by one in a round
	bursts   int           // bursts in a round
	idle     int           // idle WebSockets, for their memory
}

// group is some missions that all have as many specs.
type group struct {
	prefix   string // of its ids in the reference database
	missions int
	specs    int // of each mission
	bytes    int // of each spec's Markdown, about
	waiting  bool
}

// The groups by their place in size.groups.
const (
	worked  = iota // agents claim and complete these
	reading        // of 15 KB; every second one waits for others
	beside         // only there: lists and claims have to find theirs among them
)

const (
	plainPrefix = "b0" // of missions without specs
	logMissions = 64   // that log entries go to
	workers     = 64   // connections of a load
	poolSize    = 16   // connections to Postgres of each program: the server's default
	burst       = 500  // events
)

var (
	fullSize = size{
		missions: 100_000, groups: [...]group{
			worked:  {"c0", 100, 0, 2000, false}, // see enoughToClaim
			reading: {"d0", 1, 200, 15000, true},
			beside:  {"e0", 34, 5000, 700, false},
		},
		rounds: 5, length: 2 * time.Second, pairs: 50, alone: 200, sockets: 1000, singles: 100, bursts: 4, idle: 2000,
	}
	shortSize = size{
		missions: 3000, groups: [...]group{
			worked:  {"c0", 100, 0, 2000, false},
			reading: {"d0", 1, 100, 15000, true},
			beside:  {"e0", 1, 500, 700, false},
		},
		rounds: 3, length: time.Second, pairs: 10, alone: 100, sockets: 200, singles: 100, bursts: 4, idle: 1000,
	}
)

// enoughToClaim gives the missions that agents work on twice as many specs as they
// complete in all rounds, since agents choose missions at random.
func (z *size) enoughToClaim(rounds int) {
	work := &z.groups[worked]
	work.specs = 30 + 2*(rounds+1)*(workers*z.pairs+z.alone)/work.missions
}

// spec is a spec file, and what is known about it without parsing it.
type spec struct {
	number   int // from 1
	key      string
	title    string
	phase    string
	text     string
	criteria int
	needs    []int // the numbers of those it depends on
}

// all makes the specs of a mission; those of a group's other missions are the same.
func (g group) all() (specs []spec) {
	for i := range g.specs {
		specs = append(specs, g.spec(i+1))
	}
	return specs
}

func (g group) key(i int) string { return fmt.Sprintf("%05d-spec", i) }

// spec makes the i-th spec of a mission: a header, criteria, and sections of
// prose, lists and code until it has about its size.
func (g group) spec(i int) spec {
	random := rand.New(rand.NewPCG(uint64(g.bytes), uint64(i)))
	s := spec{number: i, key: g.key(i), phase: fmt.Sprintf("phase-%02d-part", i%10), criteria: 4 + random.IntN(5)}
	s.title = sentence(random, 4)
	var needs []string
	if g.waiting && i%2 == 0 {
		for _, n := range []int{i - 1, i - 3, i - 5} {
			if n > 0 {
				s.needs, needs = append(s.needs, n), append(needs, g.key(n))
			}
		}
	}
	if needs == nil {
		needs = []string{"None"}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Spec %05d: %s\n\n- **Status**: Planned\n- **Dependencies**: %s\n\n",
		i, s.title, strings.Join(needs, ", "))
	b.WriteString("## Acceptance Criteria\n\n")
	for range s.criteria {
		fmt.Fprintf(&b, "- [ ] %s\n", sentence(random, 8))
	}
	for b.Len() < g.bytes {
		fmt.Fprintf(&b, "\n## %s\n\n", sentence(random, 3))
		for range 4 {
			b.WriteString(sentence(random, 12) + ". ")
		}
		fmt.Fprintf(&b, "\n\n- %s\n- %s\n\n```go\nfunc %s() error { return nil }\n```\n",
			sentence(random, 7), sentence(random, 7), word(random))
	}
	s.text = b.String()
	return s
}

// vocabulary is what prose is made of; an eighth of the words get a number, so that
// a full-text index has many different words, as with real specs.
var vocabulary = strings.Fields(`the a of to and in is that for on with as by at from or an each when not this
	agent mission spec claim lease event server client request answer table index column query commit lock queue
	session token key account password header cookie page form list filter cursor order version state error retry
	timeout limit budget cache buffer stream socket frame message payload schema field type value number string
	file path folder parser render template style button dialog menu search result import export archive backup
	metric log trace test case fixture review branch release deploy config setting default option flag signal
	reads writes stores returns checks refuses keeps drops sends waits starts stops fails holds counts sorts`)

func word(random *rand.Rand) string {
	w := vocabulary[random.IntN(len(vocabulary))]
	if random.IntN(8) == 0 {
		w = fmt.Sprintf("%s%d", w, random.IntN(5000))
	}
	return w
}

// sentence returns n words, the first with a capital letter.
func sentence(random *rand.Rand, n int) string {
	var words []string
	for range n {
		words = append(words, word(random))
	}
	text := strings.Join(words, " ")
	return strings.ToUpper(text[:1]) + text[1:]
}

package specgraph_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tachikoma/internal/specgraph"
)

func Example() {
	nodes := []specgraph.Node{
		{Key: "parser", Title: "Parser", Href: "/specs/parser", State: "completed", Mark: "✓", Says: "completed"},
		{Key: "index", Title: "Index", Href: "/specs/index", State: "ready", Mark: "○", Says: "ready"},
	}
	picture := string(specgraph.SVG(nodes, []specgraph.Edge{{From: "index", To: "parser"}}, "What depends on what"))
	fmt.Println(strings.Count(picture, `class="edge"`), "edge")
	fmt.Println(regexp.MustCompile(`aria-label="[^"]*"`).FindAllString(picture, -1))
	// Output:
	// 1 edge
	// [aria-label="What depends on what" aria-label="parser Parser, completed" aria-label="index Index, ready"]
}

// drawing is a picture as read back.
type drawing struct {
	nodes         map[string][2]int // key → place
	edges, cycles int
	width, height int
}

// read parses a picture as XML, which it has to be well-formed for.
func read(t *testing.T, picture string) drawing {
	t.Helper()
	d := drawing{nodes: make(map[string][2]int)}
	decoder := xml.NewDecoder(strings.NewReader(picture))
	allowed := []string{"svg", "defs", "marker", "path", "a", "title", "rect", "text"}
	key := ""
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return d
		}
		if err != nil {
			t.Fatalf("%v in %s", err, picture)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		attrs := make(map[string]string)
		for _, a := range start.Attr {
			attrs[a.Name.Local] = a.Value
			if a.Name.Local == "style" || strings.HasPrefix(a.Name.Local, "on") {
				t.Fatalf("it has the attribute %s", a.Name.Local)
			}
		}
		number := func(name string) int {
			n, err := strconv.Atoi(attrs[name])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		switch class := attrs["class"]; {
		case !slices.Contains(allowed, start.Name.Local):
			t.Fatalf("it has the element %s", start.Name.Local)
		case class == "graph":
			d.width, d.height = number("width"), number("height")
		case start.Name.Local == "svg" && attrs["x"] != "":
			d.nodes[key] = [2]int{number("x"), number("y")}
		case start.Name.Local == "a":
			key, _, _ = strings.Cut(attrs["aria-label"], " ")
		case class == "edge":
			d.edges++
		case class == "edge cycle":
			d.cycles++
		}
	}
}

// graphOf makes nodes and edges of "b:a c:a,b", which names what each depends on.
func graphOf(text string) (nodes []specgraph.Node, edges []specgraph.Edge) {
	for spec := range strings.FieldsSeq(text) {
		key, deps, _ := strings.Cut(spec, ":")
		nodes = append(nodes, specgraph.Node{Key: key, Title: "t", Href: "/" + key, State: "ready", Mark: "○"})
		for dep := range strings.SplitSeq(deps, ",") {
			edges = append(edges, specgraph.Edge{From: key, To: dep})
		}
	}
	return nodes, edges
}

func TestEachNodeIsBelowWhatItDependsOn(t *testing.T) {
	t.Parallel()
	for range 200 {
		n := 1 + rand.IntN(40)
		nodes, edges := graphOf("")
		for i := range n {
			nodes = append(nodes, specgraph.Node{Key: "n" + strconv.Itoa(i), Href: "/", State: "planned"})
			for j := range i {
				if rand.IntN(8) == 0 {
					edges = append(edges, specgraph.Edge{From: "n" + strconv.Itoa(i), To: "n" + strconv.Itoa(j)})
				}
			}
		}
		rand.Shuffle(n, func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		d := read(t, string(specgraph.SVG(nodes, edges, "")))
		if len(d.nodes) != n || d.cycles != 0 {
			t.Fatalf("%d nodes of %d, %d cycles", len(d.nodes), n, d.cycles)
		}
		for _, e := range edges {
			if d.nodes[e.From][1] <= d.nodes[e.To][1] {
				t.Errorf("%s at %v depends on %s at %v", e.From, d.nodes[e.From], e.To, d.nodes[e.To])
			}
		}
		checkPlaces(t, d)
	}
}

// checkPlaces fails the test if nodes overlap or lie outside.
func checkPlaces(t *testing.T, d drawing) {
	t.Helper()
	for a, at := range d.nodes {
		if at[0] < 0 || at[1] < 0 || at[0]+176 > d.width || at[1]+48 > d.height {
			t.Errorf("%s at %v is outside %d×%d", a, at, d.width, d.height)
		}
		for b, other := range d.nodes {
			dx, dy := at[0]-other[0], at[1]-other[1]
			if a != b && max(dx, -dx) < 176 && max(dy, -dy) < 48 {
				t.Errorf("%s at %v and %s at %v overlap", a, at, b, other)
			}
		}
	}
}

func TestEdges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		graph         string
		edges, cycles int
	}{
		{"a", 0, 0},
		{"a b:a c:a,b d:a,b,c", 3, 0}, // those to a and b follow
		{"a b:a,a,a", 1, 0},
		{"a b:gone", 0, 0},
		{"a:a", 0, 1},
		{"a:b b:a", 1, 1},
		{"a:c b:a c:b d:c", 3, 1},
		{"a:b,c b:a,c c:a,b", 2, 3},
	} {
		nodes, edges := graphOf(c.graph)
		d := read(t, string(specgraph.SVG(nodes, edges, "")))
		if d.edges != c.edges || d.cycles != c.cycles {
			t.Errorf("%s: %d edges and %d that close cycles, want %d and %d", c.graph, d.edges, d.cycles, c.edges, c.cycles)
		}
		checkPlaces(t, d)
	}
}

func TestEdgesInAnyOrderMakeTheSamePicture(t *testing.T) {
	t.Parallel()
	nodes, edges := graphOf("a:e b:a c:a,b d:c,a e:b f g:f,d h:g,a")
	want := specgraph.SVG(nodes, edges, "")
	for range 20 {
		rand.Shuffle(len(edges), func(i, j int) { edges[i], edges[j] = edges[j], edges[i] })
		if specgraph.SVG(nodes, edges, "") != want {
			t.Fatal("the picture differs")
		}
	}
}

func TestHostileTextStaysText(t *testing.T) {
	t.Parallel()
	const evil = `"><script>alert(1)</script>' onload='x`
	nodes := []specgraph.Node{{Key: evil, Title: evil, Href: "/" + evil, State: evil, Mark: evil, Says: evil, Here: true}}
	picture := string(specgraph.SVG(nodes, nil, evil))
	read(t, picture)
	if strings.Contains(picture, "<script") {
		t.Error(picture)
	}
}

func TestNoNodes(t *testing.T) {
	t.Parallel()
	read(t, string(specgraph.SVG(nil, nil, "nothing")))
}

// The worst that a page asks for: 150 nodes, each depending on all before it, and a
// cycle around all of them.
func BenchmarkSVG(b *testing.B) {
	var nodes []specgraph.Node
	edges := []specgraph.Edge{{From: "n0", To: "n149"}}
	for i := range 150 {
		nodes = append(nodes, specgraph.Node{Key: "n" + strconv.Itoa(i), Title: "Title", Href: "/", State: "planned"})
		for j := range i {
			edges = append(edges, specgraph.Edge{From: "n" + strconv.Itoa(i), To: "n" + strconv.Itoa(j)})
		}
	}
	for b.Loop() {
		specgraph.SVG(nodes, edges, "")
	}
}

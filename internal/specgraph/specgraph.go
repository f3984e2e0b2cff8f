// Package specgraph draws specs and what they depend on as an SVG for a page.
//
// [SVG] puts each node below all that it depends on: its layer is the length of the
// longest path down to it. Edges that close a cycle don't count for that, and are
// drawn as such. Edges that follow from others aren't drawn. The same nodes and edges
// always make the same picture.
//
// All looks are left to the page's style sheet, so that a policy without inline styles
// holds: the picture has the class "graph", a node the class "node" and its state's, an
// edge the class "edge" and, in a cycle, "cycle".
//
// SVG takes time in proportion to nodes times edges, and is meant for a few hundred
// nodes. It is a pure function and safe for concurrent use.
package specgraph

import (
	"cmp"
	"fmt"
	"html/template"
	"math/big"
	"slices"
	"strings"
)

// Node is a spec in the picture.
type Node struct {
	Key   string // unique
	Title string
	Href  string // of the link that the node is; a path of the page's server
	State string // a class of the style sheet, such as in_progress
	Mark  string // a character for the state, for those who can't tell its colour
	Says  string // what the state means, in words
	Here  bool   // it is the one that the picture is about
}

// Edge says that one spec depends on another; both by key. One of which the picture
// has no node isn't drawn.
type Edge struct{ From, To string }

// Sizes in the units of the picture, which are pixels where it isn't scaled.
const (
	nodeWidth  = 176
	nodeHeight = 48 // fingers need 44
	nodeGap    = 16 // between nodes of a layer
	layerGap   = 56 // between layers
	maxColumns = 5  // of a layer, which has as many rows as it needs
)

// graph is a graph by the places of its nodes in the list given.
type graph struct {
	nodes []Node
	deps  [][]int // that each depends on; of those in cycles some are in back
	back  []backEdge
	users [][]int // that depend on each, without back
	order []int   // all nodes, each behind what it depends on
	layer []int
	x, y  []int // of a node's upper left corner
}

type backEdge struct{ from, to int }

// SVG draws a graph. label says what it shows, to those who can't see it.
func SVG(nodes []Node, edges []Edge, label string) template.HTML {
	g := newGraph(nodes, edges)
	g.breakCycles()
	g.setLayers()
	g.reduce()
	width, height := g.place()
	return g.draw(width, height, label)
}

func newGraph(nodes []Node, edges []Edge) *graph {
	n := len(nodes)
	g := &graph{nodes: nodes, deps: make([][]int, n), users: make([][]int, n), layer: make([]int, n),
		x: make([]int, n), y: make([]int, n)}
	at := make(map[string]int, n)
	for i, node := range nodes {
		at[node.Key] = i
	}
	for _, e := range edges {
		from, drawsFrom := at[e.From]
		to, drawsTo := at[e.To]
		if drawsFrom && drawsTo {
			g.deps[from] = append(g.deps[from], to)
		}
	}
	for i := range g.deps {
		slices.Sort(g.deps[i])
		g.deps[i] = slices.Compact(g.deps[i])
	}
	return g
}

// breakCycles walks the graph depth first, without recursion, and moves the edges that
// lead back to a node on the way to it from deps to back.
func (g *graph) breakCycles() {
	const unseen, onPath, left = 0, 1, 2
	state, used := make([]int, len(g.nodes)), make([]int, len(g.nodes))
	for root := range g.nodes {
		if state[root] != unseen {
			continue
		}
		state[root] = onPath
		for path := []int{root}; len(path) > 0; {
			at := path[len(path)-1]
			if used[at] == len(g.deps[at]) {
				state[at] = left
				g.order = append(g.order, at)
				path = path[:len(path)-1]
				continue
			}
			next := g.deps[at][used[at]]
			switch state[next] {
			case onPath:
				g.deps[at] = slices.Delete(g.deps[at], used[at], used[at]+1)
				g.back = append(g.back, backEdge{at, next})
				continue
			case unseen:
				state[next] = onPath
				path = append(path, next)
			}
			used[at]++
		}
	}
}

// setLayers counts the layers from 0, for what depends on nothing.
func (g *graph) setLayers() {
	for _, i := range g.order {
		for _, d := range g.deps[i] {
			g.layer[i] = max(g.layer[i], g.layer[d]+1)
		}
	}
}

// reduce drops the edges that follow from others.
func (g *graph) reduce() {
	below := make([]big.Int, len(g.nodes)) // the nodes that each depends on, directly or not
	for _, i := range g.order {
		// What one dependency implies is in a lower layer than that.
		slices.SortStableFunc(g.deps[i], func(a, b int) int { return cmp.Compare(g.layer[b], g.layer[a]) })
		all := &below[i]
		g.deps[i] = slices.DeleteFunc(g.deps[i], func(d int) bool {
			if all.Bit(d) == 1 {
				return true
			}
			all.Or(all, &below[d]).SetBit(all, d, 1)
			return false
		})
		for _, d := range g.deps[i] {
			g.users[d] = append(g.users[d], i)
		}
	}
}

// place gives each node its place and returns the size of the picture. Nodes are moved
// towards the middle of what they are tied to, layer by layer, down and up again.
func (g *graph) place() (width, height int) {
	var layers [][]int
	for i, layer := range g.layer {
		for len(layers) <= layer {
			layers = append(layers, nil)
		}
		layers[layer] = append(layers[layer], i)
	}
	columns := 0
	for _, nodes := range layers {
		columns = max(columns, columnsOf(nodes))
	}
	width = max(1, columns)*(nodeWidth+nodeGap) + nodeGap
	for _, nodes := range layers {
		g.spread(nodes, width)
	}
	for range 4 {
		for _, nodes := range layers {
			g.align(nodes, g.deps, width)
		}
		for _, nodes := range slices.Backward(layers) {
			g.align(nodes, g.users, width)
		}
	}
	height = nodeGap
	for _, nodes := range layers {
		rows := rowsOf(nodes)
		for i, node := range nodes {
			g.y[node] = height + i%rows*(nodeHeight+nodeGap)
		}
		height += rows*(nodeHeight+nodeGap) - nodeGap + layerGap
	}
	return width, height - layerGap + nodeGap
}

func rowsOf(nodes []int) int    { return (len(nodes) + maxColumns - 1) / maxColumns }
func columnsOf(nodes []int) int { return (len(nodes) + rowsOf(nodes) - 1) / rowsOf(nodes) }

// spread sets a layer's nodes from left to right, in the middle, one below the other
// where it has several rows.
func (g *graph) spread(nodes []int, width int) {
	left := (width - columnsOf(nodes)*(nodeWidth+nodeGap) + nodeGap) / 2
	for i, node := range nodes {
		g.x[node] = left + i/rowsOf(nodes)*(nodeWidth+nodeGap)
	}
}

// align sorts a layer's nodes by where the nodes are that they are tied to.
func (g *graph) align(nodes []int, ties [][]int, width int) {
	middle := make(map[int]int, len(nodes))
	for _, node := range nodes {
		sum, n := g.x[node], 1
		if len(ties[node]) > 0 {
			sum, n = 0, len(ties[node])
		}
		for _, other := range ties[node] {
			sum += g.x[other]
		}
		middle[node] = sum / n
	}
	slices.SortStableFunc(nodes, func(a, b int) int { return cmp.Compare(middle[a], middle[b]) })
	g.spread(nodes, width)
}

// draw writes the picture: edges first, since nodes cover what passes behind them.
func (g *graph) draw(width, height int, label string) template.HTML {
	var b strings.Builder
	escape := template.HTMLEscapeString
	fmt.Fprintf(&b, `<svg class="graph" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="group" aria-label="%[3]s">`+
		"\n"+`<defs><marker id="graph-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" `+
		`orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>`+"\n", width, height, escape(label))
	for i := range g.nodes {
		for _, d := range g.deps[i] {
			g.drawEdge(&b, i, d, "edge")
		}
	}
	for _, e := range g.back {
		g.drawEdge(&b, e.from, e.to, "edge cycle")
	}
	for i, n := range g.nodes {
		class, current := "node "+n.State, ""
		if n.Here {
			class, current = class+" here", ` aria-current="true"`
		}
		fmt.Fprintf(&b, `<a class="%s" href="%s" aria-label="%s %s, %s"%s><title>%[3]s %[4]s, %[5]s</title>`+
			`<svg x="%[7]d" y="%d" width="%d" height="%d"><rect x="1" y="1" width="%d" height="%d" rx="6"/>`+
			`<svg width="%d"><text class="mark" x="10" y="20" aria-hidden="true">%s</text> `+
			`<text class="key" x="28" y="20">%s</text> <text class="title" x="10" y="38">%[4]s</text></svg></svg></a>`+"\n",
			escape(class), escape(n.Href), escape(n.Key), escape(n.Title), escape(n.Says), current,
			g.x[i], g.y[i], nodeWidth, nodeHeight, nodeWidth-2, nodeHeight-2, nodeWidth-8, escape(n.Mark), escape(n.Key))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

// drawEdge draws an arrow from what must be done first to what depends on it. One that
// closes a cycle leads upwards, or round to the node itself.
func (g *graph) drawEdge(b *strings.Builder, from, to int, class string) {
	x1, y1 := g.x[to]+nodeWidth/2, g.y[to]+nodeHeight
	x2, y2 := g.x[from]+nodeWidth/2, g.y[from]
	bend := max((y2-y1)/2, layerGap/2)
	fmt.Fprintf(b, `<path class="%s" d="M%d %dC%d %d %d %d %d %d" marker-end="url(#graph-arrow)"/>`+"\n",
		class, x1, y1, x1, y1+bend, x2, y2-bend, x2, y2)
}

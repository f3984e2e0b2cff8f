package markdown_test

import (
	"fmt"

	"tachikoma/internal/markdown"
)

func Example() {
	const note = `# Parser <b>done</b>

- [x] reads *all* of [RFC 8259](https://www.rfc-editor.org/rfc/rfc8259)
- [ ] [click me](javascript:alert(1))
`
	fmt.Print(markdown.HTML(note, 3))
	// Output:
	// <h3>Parser &lt;b&gt;done&lt;/b&gt;</h3>
	// <ul>
	// <li class="task"><label><input type="checkbox" disabled checked> reads <em>all</em> of <a href="https://www.rfc-editor.org/rfc/rfc8259" rel="noopener nofollow">RFC 8259</a></label></li>
	// <li class="task"><label><input type="checkbox" disabled> [click me](javascript:alert(1))</label></li>
	// </ul>
}

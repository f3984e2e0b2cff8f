package e2e

// The pages in a browser, by clicks.

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"testing"
)

// click runs a part of testdata/clients/pages.mjs against a server. What that asks for
// in between is done by the functions given, by name.
func click(t *testing.T, part, base string, does map[string]func(), env ...string) {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium isn't installed")
	}
	cmd := newNodeProgram(t, []string{"playwright-core", "axe-core"}, "pages.mjs", part)
	// With PICTURES, the path of a folder, what the pages look like is kept there.
	cmd.Env = append(cmd.Env, "BASE="+base, "CHROMIUM="+browser, "PICTURES="+os.Getenv("PICTURES"))
	cmd.Env = append(cmd.Env, env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); does[last] != nil {
			does[last]()
			if _, err := io.WriteString(in, "done\n"); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || last != "done" {
		t.Fatalf("%v after %q:\n%s", err, last, said.Bytes())
	}
	t.Logf("%s", said.Bytes())
}

func TestFirstRunByClicks(t *testing.T) {
	t.Parallel()
	server, c := serve(t, "DATABASE_URL="+newDatabase(t), "LOG_LEVEL=warn")
	t.Cleanup(server.stop)
	click(t, "first", c.base, nil)
}

func TestFolderIsDropped(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "drop", root.base, nil)
}

func TestPagesWorkWithoutScripts(t *testing.T) {
	t.Parallel()
	server, c := serve(t, "DATABASE_URL="+newDatabase(t), "LOG_LEVEL=warn")
	t.Cleanup(server.stop)
	click(t, "plain", c.base, nil)
}

func TestPagesFitPeople(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "look", root.base, nil)
}

// With PICTURES it makes board.png, which is docs/board.png.
func TestBoardHasSomethingInEachColumn(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "board", root.base, nil)
}

func TestHostileTextStaysText(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "hostile", root.base, nil)
}

func TestTwoPeopleOnOneBoard(t *testing.T) {
	t.Parallel()
	env := withAdmin(newDatabase(t))
	_, root := serveWell(t, env...)
	_, other := serveWell(t, env...)
	click(t, "two", root.base, nil, "OTHER="+other.base)
}

func TestPeopleDecideByClicks(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "decide", root.base, nil)
}

func TestBoardByKeys(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	click(t, "keys", root.base, nil)
}

func TestPagesStayRightWhateverBreaks(t *testing.T) {
	t.Parallel()
	env := withAdmin(newDatabase(t))
	server, root := serve(t, env...)
	u, err := url.Parse(root.base)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	click(t, "live", root.base, map[string]func(){"restart": func() {
		server.stop()
		server, _ = serve(t, append(env, "PORT="+port)...)
	}})
	server.stop()
}

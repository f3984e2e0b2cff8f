//go:build !nows

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// The clients that most others are built on: the npm package ws, and a browser.

func TestNodeClientConnectsResumesAndIsCutOff(t *testing.T) {
	t.Parallel()
	cmd := newNodeProgram(t, []string{"ws"}, "ws.mjs")
	server, root := newServer(t)
	ada := root.signUp("ada")
	mission := idOf(ada.newMission("Node"))
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Env = append(cmd.Env, "BASE="+ada.base, "TOKEN="+ada.token, "KEY="+ada.withKey("read").token, "MISSION="+mission)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); last == "stop the server" {
			server.stop()
		}
	}
	if err := cmd.Wait(); err != nil || last != "done" {
		t.Errorf("%v after %q:\n%s", err, last, said.Bytes())
	}
}

// pageResult is what testdata/clients/page.html has seen.
type pageResult struct {
	Opened   bool
	Protocol string
	Live     []int
	Resumed  []int
	Streamed []int
	Closed   any
	Error    string
}

// browse opens the page in a browser and returns its result.
func browse(t *testing.T, browser, page string, results <-chan pageResult) pageResult {
	t.Helper()
	var said bytes.Buffer
	profile := t.TempDir()
	cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--remote-debugging-port=0", // the last keeps it open
		"--user-data-dir="+filepath.Join(profile, "profile"), page)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + profile, "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	}()
	select {
	case result := <-results:
		return result
	case <-time.After(patience):
		t.Fatalf("the page never answered:\n%s", said.Bytes())
	}
	panic("unreachable")
}

func TestBrowserConnectsResumesAndIsCutOff(t *testing.T) {
	t.Parallel()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium isn't installed")
	}
	var config map[string]string
	results := make(chan pageResult, 1)
	pages := http.NewServeMux()
	pages.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "testdata/clients/page.html")
	})
	pages.HandleFunc("GET /config.json", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(config)
	})
	pages.HandleFunc("POST /result", func(w http.ResponseWriter, r *http.Request) {
		var result pageResult
		if err := json.NewDecoder(r.Body).Decode(&result); err != nil {
			result.Error = err.Error()
		}
		results <- result
	})
	friend, foreign := httptest.NewUnstartedServer(pages), httptest.NewUnstartedServer(pages)
	defer friend.Close()
	defer foreign.Close()
	_, root := newServer(t, "CORS_ALLOWED_ORIGINS=http://"+friend.Listener.Addr().String())
	ada := root.signUp("ada")
	config = map[string]string{"api": ada.base, "token": ada.token, "mission": idOf(ada.newMission("Page"))}
	friend.Start()
	foreign.Start()

	if got := browse(t, browser, foreign.URL, results); got.Opened || got.Closed != "TypeError" || got.Error != "" {
		t.Errorf("a foreign page got %+v", got)
	}
	got := browse(t, browser, friend.URL, results)
	if !got.Opened || got.Protocol != "tachikoma.v1" || got.Closed != 4401.0 || got.Error != "" {
		t.Errorf("got %+v", got)
	}
	if !slices.Equal(got.Live, []int{1, 2}) || !slices.Equal(got.Resumed, []int{3}) ||
		!slices.Equal(got.Streamed, []int{1, 2, 3}) {
		t.Errorf("got events %v, after resuming %v, by fetch %v", got.Live, got.Resumed, got.Streamed)
	}
}

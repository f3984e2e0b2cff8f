package e2e

// nginx and Caddy in front of a server, with the files of deploy/: only names,
// ports and certificates are replaced.

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"tachikoma/internal/certfile/certtest"
	"tachikoma/internal/witness"
)

// replaced replaces each old text by the new one after it in pairs; the old one must be there.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q in\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// proxies are the programs, each with what starts it in a folder: plain on one
// port, with TLS on another, in front of a server.
var proxies = map[string]func(t *testing.T, dir, plain, tls, server string) (args []string){
	"nginx": func(t *testing.T, dir, plain, tls, server string) []string {
		certFile, keyFile := certtest.WritePair(t, dir, "localhost")
		site := replaced(t, projectFile(t, "deploy/nginx.conf"),
			"listen 80;", "listen 127.0.0.1:"+freePort(t)+";",
			"listen 443 ssl http2;", "listen 127.0.0.1:"+plain+"; listen 127.0.0.1:"+tls+" ssl http2;",
			"listen [::]:80;", "", "listen [::]:443 ssl http2;", "",
			"/etc/letsencrypt/live/tachikoma.example.com/fullchain.pem", certFile,
			"/etc/letsencrypt/live/tachikoma.example.com/privkey.pem", keyFile,
			"tachikoma.example.com", "localhost", "127.0.0.1:8080", server)
		writeFile(t, filepath.Join(dir, "tachikoma.conf"), site)
		writeFile(t, filepath.Join(dir, "nginx.conf"), `
			daemon off; master_process off; pid nginx.pid; error_log stderr;
			events {}
			http {
				access_log off;
				client_body_temp_path body; proxy_temp_path proxy;
				fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
				include tachikoma.conf;
			}`)
		return []string{"-p", dir, "-c", "nginx.conf", "-e", "stderr"}
	},
	"caddy": func(t *testing.T, dir, plain, tls, server string) []string {
		certFile, keyFile := certtest.WritePair(t, dir, "localhost")
		site := replaced(t, projectFile(t, "deploy/Caddyfile"),
			"\ntachikoma.example.com {", "\n(site) {", "127.0.0.1:8080", server)
		writeFile(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"+site+fmt.Sprintf(
			"http://127.0.0.1:%s {\n\timport site\n}\nhttps://127.0.0.1:%s {\n\ttls %s %s\n\timport site\n}\n",
			plain, tls, certFile, keyFile))
		return []string{"run", "--config", filepath.Join(dir, "Caddyfile"), "--adapter", "caddyfile"}
	},
}

// throughProxy starts a proxy in front of the server at an address, until the
// test ends, and returns where it is. Where it isn't installed the test is skipped.
func throughProxy(t *testing.T, name, server string) (base string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Skip(name + " isn't installed")
		}
	}
	dir, plain, secure := t.TempDir(), freePort(t), freePort(t)
	cmd := exec.Command(path, proxies[name](t, dir, plain, secure, server)...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.Env = append(cmd.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.Bytes())
		}
	})
	// The certificate has a name, and is asked for by an address.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	for _, base := range []string{"https://127.0.0.1:" + secure, "http://127.0.0.1:" + plain} {
		eventually(t, name+" serves at "+base, func() bool {
			response, err := (&http.Client{Transport: transport}).Get(base + "/internal/health/ready")
			if err != nil {
				return false
			}
			response.Body.Close()
			return response.StatusCode == http.StatusOK
		})
	}
	return "http://127.0.0.1:" + plain
}

func TestProxiesPassOnWhatTheyShould(t *testing.T) {
	t.Parallel()
	for name := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, ada := newServer(t, "TRUSTED_PROXIES=127.0.0.1/32", "AUTH_RATE_LIMIT=1")
			ada.base = throughProxy(t, name, strings.TrimPrefix(ada.base, "http://"))

			// Events come at once, and WebSockets work.
			mission := ada.newMission("Behind")
			stream := ada.stream(mission)
			stream.want("mission.created", 0)
			ada.post(mission+"/start", nil).want(http.StatusOK)
			stream.want("mission.started", 1)
			if witness.BySocket != nil {
				socket := &witness.Witness{T: t, Name: name, Mission: mission, Follow: witness.BySocket}
				socket.Server = func() (base, token string) { return ada.base, ada.token }
				socket.Start(t.Context())
				eventually(t, "the socket has both events", func() bool { return socket.Seen() == 2 })
				socket.Stop()
			}

			// Imports may be large.
			large := strings.Repeat("words and more ", 16_000)
			var files []string
			for i := range 12 {
				files = append(files, fmt.Sprintf("phase-01-x/%03d-large.md", i+1),
					fmt.Sprintf("# Spec %03d: Large\n\n- **Status**: Planned\n\n%s\n", i+1, large))
			}
			ada.importFiles(mission, files...)

			// Routes for operators can't be reached, however the path is written.
			ada.get("/internal/health/ready").want(http.StatusOK)
			for _, path := range []string{"/internal/health", "/internal/connections", "/internal/%6detrics",
				"/internal/health/ready/../../debug/pprof/"} {
				if a := ada.get(path).want(http.StatusNotFound); a.header.Get("X-Request-Id") != "" {
					t.Errorf("%s came to the server", path)
				}
			}

			// Clients are told apart by their addresses, not by what they claim.
			if runtime.GOOS == "linux" { // which has all of 127.0.0.0/8
				for _, from := range []struct {
					addr, forwarded string
					status          int
				}{
					{"127.0.0.2", "", http.StatusUnauthorized},
					{"127.0.0.2", "", http.StatusTooManyRequests},
					{"127.0.0.2", "203.0.113.9", http.StatusTooManyRequests},
					{"127.0.0.3", "127.0.0.2", http.StatusUnauthorized},
				} {
					if status := logInFrom(t, ada.base, from.addr, from.forwarded); status != from.status {
						t.Errorf("%+v: status %d", from, status)
					}
				}
			}

			server.stop()
			ada.get(mission).want(http.StatusBadGateway)
		})
	}
}

// logInFrom logs in with a wrong password, from an address of this machine.
func logInFrom(t *testing.T, base, addr, forwarded string) (status int) {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}).DialContext}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), "POST", base+"/api/v1/auth/login",
		strings.NewReader(`{"email": "`+addr+`@example.com", "password": "a wrong pass phrase"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

package certfile

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"tachikoma/internal/certfile/certtest"
	"testing"
	"time"
)

// replace puts the file from over to, as a renewal does.
func replace(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func nameOf(pair *tls.Certificate) string { return pair.Leaf.DNSNames[0] }

// testCertificate is one for old.example in dir, which logs to the buffer.
func testCertificate(t *testing.T, dir string) (*Certificate, *bytes.Buffer) {
	t.Helper()
	certFile, keyFile := certtest.WritePair(t, dir, "old.example")
	var log bytes.Buffer
	c, err := New(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c, &log
}

func TestRenewedCertificateIsTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, log := testCertificate(t, dir)
	newCert, newKey := certtest.WritePair(t, t.TempDir(), "new.example")
	replace(t, newCert, c.certFile)
	replace(t, newKey, c.keyFile)

	if got := nameOf(c.current(c.start.Add(checkEvery / 2))); got != "old.example" {
		t.Errorf("within a second of the last look: %s", got)
	}
	for i := range 3 {
		if got := nameOf(c.current(c.start.Add(time.Duration(i+1) * checkEvery))); got != "new.example" {
			t.Errorf("look %d: %s", i, got)
		}
	}
	if strings.Count(log.String(), "level=INFO") != 1 || strings.Contains(log.String(), "level=WARN") {
		t.Errorf("log:\n%s", log)
	}
}

func TestBrokenCertificateKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, log := testCertificate(t, dir)
	newCert, newKey := certtest.WritePair(t, t.TempDir(), "new.example")
	now := c.start
	look := func(step, want string, warnings int) {
		t.Helper()
		for range 3 { // each state is complained about once
			now = now.Add(checkEvery)
			if got := nameOf(c.current(now)); got != want {
				t.Errorf("%s: the certificate is for %s, want %s", step, got, want)
			}
		}
		if got := strings.Count(log.String(), "level=WARN"); got != warnings {
			t.Errorf("%s: %d warnings, want %d:\n%s", step, got, warnings, log)
		}
	}

	look("unchanged", "old.example", 0)
	replace(t, newCert, c.certFile)
	look("certificate without its key", "old.example", 1)
	mustWrite(t, c.keyFile, "nonsense")
	look("broken key", "old.example", 2)
	if err := os.Remove(c.keyFile); err != nil {
		t.Fatal(err)
	}
	look("no key", "old.example", 3)
	replace(t, newKey, c.keyFile)
	look("complete", "new.example", 3)
}

// A key that is written first and made readable afterwards keeps its time and
// size, so a failed reading must be repeated.
func TestCertificateIsTriedAgainWithoutAChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, _ := testCertificate(t, dir)
	newCert, newKey := certtest.WritePair(t, t.TempDir(), "new.example")
	good, err := os.ReadFile(newKey)
	if err != nil {
		t.Fatal(err)
	}
	stamp := time.Now().Add(-time.Hour)
	write := func(content string) {
		t.Helper()
		mustWrite(t, c.keyFile, content)
		if err := os.Chtimes(c.keyFile, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	replace(t, newCert, c.certFile)
	write(strings.Repeat("x", len(good)))
	if got := nameOf(c.current(c.start.Add(checkEvery))); got != "old.example" {
		t.Errorf("with a broken key: %s", got)
	}
	write(string(good))
	if got := nameOf(c.current(c.start.Add(2 * checkEvery))); got != "new.example" {
		t.Errorf("with the key readable: %s", got)
	}
}

func TestCertificateThatCannotBeLoadedIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := certtest.WritePair(t, dir, "example.com")
	_, otherKey := certtest.WritePair(t, t.TempDir(), "example.com")
	for _, tt := range []struct{ cert, key, want string }{
		{dir + "/no", keyFile, dir + "/no"},
		{certFile, dir + "/no", dir + "/no"},
		{keyFile, certFile, "aren't a certificate chain and its key"},
		{certFile, otherKey, "aren't a certificate chain and its key"},
	} {
		if _, err := New(tt.cert, tt.key, slog.New(slog.DiscardHandler)); err == nil ||
			!strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %s: %v", tt.cert, tt.key, err)
		}
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	c, _ := testCertificate(t, t.TempDir())
	for _, tt := range []struct {
		version  uint16
		offers   []string
		protocol string
		ok       bool
	}{
		{tls.VersionTLS13, []string{"h2", "http/1.1"}, "h2", true},
		{tls.VersionTLS12, []string{"http/1.1"}, "http/1.1", true},
		{tls.VersionTLS11, []string{"http/1.1"}, "", false},
	} {
		t.Run(fmt.Sprintf("%#x", tt.version), func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			defer near.Close()
			server := tls.Server(far, c.Config())
			go func() {
				server.Handshake()
				far.Close()
			}()
			client := tls.Client(near, &tls.Config{
				InsecureSkipVerify: true, MinVersion: tt.version, MaxVersion: tt.version, NextProtos: tt.offers,
			})
			err := client.Handshake()
			if (err == nil) != tt.ok || client.ConnectionState().NegotiatedProtocol != tt.protocol {
				t.Errorf("%v, protocol %q", err, client.ConnectionState().NegotiatedProtocol)
			}
		})
	}
}

func TestHandshakesAndRenewalsDoNotRace(t *testing.T) {
	t.Parallel()
	c, _ := testCertificate(t, t.TempDir())
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 200 {
				if c.current(c.start.Add(time.Duration(i+j)*checkEvery)) == nil {
					t.Error("no certificate")
				}
			}
		})
	}
	for i := range 20 {
		newCert, newKey := certtest.WritePair(t, t.TempDir(), fmt.Sprintf("%d.example", i))
		replace(t, newCert, c.certFile)
		replace(t, newKey, c.keyFile)
	}
	group.Wait()
	if got := nameOf(c.current(c.start.Add(time.Hour))); got != "19.example" {
		t.Errorf("at the end: %s", got)
	}
}

// Package certfile serves a TLS certificate from two files, which are renewed
// without a restart.
package certfile

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is how often, at most, handshakes look whether the files
// have changed.
const checkEvery = time.Second

// Certificate is the server's key pair. The next handshake that comes a second or
// more after the last check of the files loads a renewed pair, so there is no
// goroutine to end. If a new pair can't be used, the old one stays, and each check
// tries again, since the other file, or the permission to read it, may be about to
// follow. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	pair     atomic.Pointer[tls.Certificate]
	nextLook atomic.Int64 // nanoseconds since start
	start    time.Time

	looking   sync.Mutex // held by the handshake that checks; the others don't wait for it
	loaded    [2]fs.FileInfo
	complaint string // the last thing logged about a pair that can't be used
}

// New loads the pair; the error says which file is the cause.
func New(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, start: time.Now()}
	files, err := c.stat()
	if err != nil {
		return nil, err
	}
	pair, err := LoadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c.pair.Store(pair)
	c.loaded = files
	c.nextLook.Store(int64(checkEvery))
	return c, nil
}

// Config returns the listener's configuration: TLS 1.2 or later, HTTP/2 and HTTP/1.1.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current(time.Now()), nil
		},
	}
}

// current returns the pair to use now.
func (c *Certificate) current(now time.Time) *tls.Certificate {
	elapsed := int64(now.Sub(c.start))
	if elapsed >= c.nextLook.Load() && c.looking.TryLock() {
		c.nextLook.Store(elapsed + int64(checkEvery))
		c.look()
		c.looking.Unlock()
	}
	return c.pair.Load()
}

// look loads the pair if it has changed. The caller holds looking.
func (c *Certificate) look() {
	files, err := c.stat() // before reading: a change in between is found by the next look
	if err == nil && sameFile(files[0], c.loaded[0]) && sameFile(files[1], c.loaded[1]) {
		c.complaint = ""
		return
	}
	var pair *tls.Certificate
	if err == nil {
		pair, err = LoadPair(c.certFile, c.keyFile)
	}
	if err != nil {
		if complaint := err.Error(); complaint != c.complaint {
			c.log.Warn("the new TLS certificate can't be used; the old one stays", "error", err)
			c.complaint = complaint
		}
		return
	}
	c.pair.Store(pair)
	c.loaded, c.complaint = files, ""
	c.log.Info("the new TLS certificate is in use", "names", pair.Leaf.DNSNames, "not_after", pair.Leaf.NotAfter)
}

func (c *Certificate) stat() (files [2]fs.FileInfo, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if files[i], err = os.Stat(name); err != nil {
			return [2]fs.FileInfo{}, err
		}
	}
	return files, nil
}

// sameFile reports whether a and b are the same file, unchanged. Since stat follows
// links, it also notices a link that points elsewhere.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// LoadPair reads a certificate chain and its key, both PEM.
func LoadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s aren't a certificate chain and its key: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

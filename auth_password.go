package main

// Password rules, argon2id hashes, and the gate that keeps a flood of log-ins
// from eating the memory.

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

const (
	minPasswordLength = 15   // characters: NIST SP 800-63B-4, 3.1.1.2, for a password alone
	maxPasswordBytes  = 1024 // a hash costs the same at this length as at 15

	passwordSaltBytes = 16
	passwordKeyBytes  = 32
	waitingPerCore    = 8 // a fraction of a second of hashing
)

// argon2Params is what one hash costs.
type argon2Params struct {
	memory  uint32 // KiB
	time    uint32 // passes over the memory
	threads uint8
}

// todaysArgon2 is what new hashes cost: one of the choices, all equally strong,
// that OWASP's password storage cheat sheet gives for argon2id.
var todaysArgon2 = argon2Params{memory: 19456, time: 2, threads: 1}

// passwordHasher makes and verifies hashes, at most one a core at a time. It is
// safe for concurrent use.
type passwordHasher struct {
	params argon2Params

	// A running computation has an element in permits, and a caller that waits
	// for one in waiting. A permit belongs to the computation, not to the
	// request: argon2 can't be interrupted, and its memory is in use to the end.
	permits, waiting chan struct{}
}

// newPasswordHasher returns a hasher whose new hashes cost params.
func newPasswordHasher(params argon2Params) *passwordHasher {
	cores := runtime.GOMAXPROCS(0)
	return &passwordHasher{
		params:  params,
		permits: make(chan struct{}, cores),
		waiting: make(chan struct{}, cores*waitingPerCore),
	}
}

// checkPassword returns nil, or a 422 on the field password.
func checkPassword(email, password string) error {
	var v violations
	v.password("password", email, password)
	return v.err()
}

// password adds what NIST SP 800-63B-4 has against password as the new one of
// the account with that e-mail: too_short, too_long, or same_as_email, which
// also stands for the part before the @ and doesn't look at case. There are no
// rules of composition.
func (v *violations) password(field, email, password string) {
	local, _, _ := strings.Cut(email, "@")
	switch {
	case utf8.RuneCountInString(password) < minPasswordLength:
		v.add(field, "too_short", "must have at least %d characters", minPasswordLength)
	case len(password) > maxPasswordBytes:
		v.add(field, "too_long", "may have at most %d bytes", maxPasswordBytes)
	case strings.EqualFold(password, email), strings.EqualFold(password, local):
		v.add(field, "same_as_email", "must not be the e-mail address")
	}
}

// hash returns a new hash of password as a PHC string. It waits for a core: a
// full queue, or the end of ctx, is a 503 busy.
func (h *passwordHasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, passwordSaltBytes)
	rand.Read(salt) // never fails
	key, err := h.run(ctx, func() []byte { return h.params.key(password, salt, passwordKeyBytes) })
	if err != nil {
		return "", err
	}
	return phcHash{h.params, salt, key}.String(), nil
}

// verify reports whether password is the one that phc was made from, and
// whether it should be hashed anew because phc doesn't have today's cost. An
// empty phc, for an account that isn't there, takes the time of one hash and is
// never right. Besides what hash returns, its error is that phc can't be read.
func (h *passwordHasher) verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error) {
	unknown := phc == ""
	stored := phcHash{h.params, make([]byte, passwordSaltBytes), make([]byte, passwordKeyBytes)}
	if !unknown {
		if stored, err = parsePHC(phc); err != nil {
			return false, false, err
		}
	}
	key, err := h.run(ctx, func() []byte { return stored.params.key(password, stored.salt, len(stored.key)) })
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(key, stored.key) == 1 && !unknown
	needsRehash = ok && (stored.params != h.params ||
		len(stored.salt) != passwordSaltBytes || len(stored.key) != passwordKeyBytes)
	return ok, needsRehash, nil
}

// inUse returns how many computations run and how many callers wait for one.
func (h *passwordHasher) inUse() (running, queued int) {
	return len(h.permits), len(h.waiting)
}

// run computes behind the gate. When ctx ends first, the caller leaves at once
// and the computation keeps its permit until it has ended by itself.
func (h *passwordHasher) run(ctx context.Context, compute func() []byte) ([]byte, error) {
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	result := make(chan []byte, 1)
	go func() {
		key := compute()
		<-h.permits
		result <- key
	}()
	select {
	case key := <-result:
		return key, nil
	case <-ctx.Done():
		return nil, errHashingBusy(ctx.Err())
	}
}

// acquire takes a permit, first come, first served: a channel hands over a
// freed place to the sender that has waited longest.
func (h *passwordHasher) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errHashingBusy(err)
	}
	select {
	case h.permits <- struct{}{}:
		return nil
	default:
	}
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		return errHashingBusy(errors.New("the queue for password hashing is full"))
	}
	select {
	case h.permits <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errHashingBusy(ctx.Err())
	}
}

func errHashingBusy(cause error) error {
	return problem(http.StatusServiceUnavailable, "busy",
		"Too many people are signing in right now. Try again in a moment.").
		withHeader("Retry-After", "1").because(cause)
}

func (p argon2Params) key(password string, salt []byte, length int) []byte {
	return argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, uint32(length))
}

// phcHash is a hash in the PHC string format,
// $argon2id$v=19$m=19456,t=2,p=1$salt$key:
// https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
type phcHash struct {
	params argon2Params
	salt   []byte
	key    []byte
}

func (h phcHash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.params.memory, h.params.time, h.params.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

// parsePHC reads a stored hash, in its one canonical spelling. What it costs is
// bounded, since whoever can write the table shouldn't be able to stop the
// server with a row: 256 MiB, 16 passes, 16 threads. The error doesn't have
// the hash in it.
func parsePHC(phc string) (phcHash, error) {
	var h phcHash
	parts := strings.Split(phc, "$")
	if len(parts) != 6 {
		return phcHash{}, errors.New("a stored password hash isn't a PHC string")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.params.memory, &h.params.time, &h.params.threads); err != nil {
		return phcHash{}, errors.New("a stored password hash has no argon2 parameters")
	}
	p := h.params
	if p.memory < 8*uint32(p.threads) || p.memory > 256<<10 || p.time < 1 || p.time > 16 || p.threads < 1 || p.threads > 16 {
		return phcHash{}, fmt.Errorf("a stored password hash has parameters out of bounds: %+v", p)
	}
	var saltErr, keyErr error
	h.salt, saltErr = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, keyErr = base64.RawStdEncoding.DecodeString(parts[5])
	if errors.Join(saltErr, keyErr) != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.key) < 16 || len(h.key) > 64 {
		return phcHash{}, errors.New("a stored password hash has a salt or a key of odd length")
	}
	if h.String() != phc {
		return phcHash{}, errors.New("a stored password hash isn't an argon2id PHC string as this server writes it")
	}
	return h, nil
}

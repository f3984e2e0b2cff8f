// Package argon2id makes and verifies password hashes, behind a gate that keeps
// a flood of logins from using up the memory.
package argon2id

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
)

const (
	saltBytes      = 16
	keyBytes       = 32
	waitingPerCore = 8 // a fraction of a second of hashing
)

// Params is what one hash costs.
type Params struct {
	Memory  uint32 // KiB
	Time    uint32 // passes over the memory
	Threads uint8
}

// Recommended is what new hashes cost: one of several equally strong choices in
// OWASP's password storage cheat sheet.
var Recommended = Params{Memory: 19456, Time: 2, Threads: 1}

// ErrBusy means that the queue for a core is full, or that the context ended
// before one was free.
var ErrBusy = errors.New("no core is free for password hashing")

// Hasher makes and verifies hashes. At most one per core runs at a time, and one
// core is left for other requests if there is more than one. It is safe for
// concurrent use.
type Hasher struct {
	params Params

	// A running computation has an element in permits, and a caller that waits
	// for one in waiting. A permit belongs to the computation, not to the
	// request: argon2 can't be interrupted, and its memory is in use to the end.
	permits, waiting chan struct{}
}

// New returns a Hasher whose new hashes cost params.
func New(params Params) *Hasher {
	cores := max(1, runtime.GOMAXPROCS(0)-1)
	return &Hasher{
		params:  params,
		permits: make(chan struct{}, cores),
		waiting: make(chan struct{}, cores*waitingPerCore),
	}
}

// Hash returns a new hash of password as a PHC string. It waits for a core: a
// full queue, or the end of ctx, is ErrBusy.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails
	key, err := h.run(ctx, func() []byte { return h.params.key(password, salt, keyBytes) })
	if err != nil {
		return "", err
	}
	return phcHash{h.params, salt, key}.String(), nil
}

// Verify reports whether password is the one that phc was made from, and
// whether it should be hashed again because phc doesn't have the current cost. An
// empty phc, for an account that doesn't exist, takes the time of one hash and
// never matches. The errors are those of Hash, and one for a phc that can't be
// parsed.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (ok, needsRehash bool, err error) {
	unknown := phc == ""
	stored := phcHash{h.params, make([]byte, saltBytes), make([]byte, keyBytes)}
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
		len(stored.salt) != saltBytes || len(stored.key) != keyBytes)
	return ok, needsRehash, nil
}

// InUse returns how many computations run and how many callers wait for one.
func (h *Hasher) InUse() (running, queued int) {
	return len(h.permits), len(h.waiting)
}

// run computes behind the gate. When ctx ends first, the caller leaves at once
// and the computation keeps its permit until it has ended by itself.
func (h *Hasher) run(ctx context.Context, compute func() []byte) ([]byte, error) {
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
		return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}

// acquire takes a permit, first come, first served: a channel hands over a
// freed place to the sender that has waited longest.
func (h *Hasher) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
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
		return ErrBusy
	}
	select {
	case h.permits <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}

func (p Params) key(password string, salt []byte, length int) []byte {
	return argon2.IDKey([]byte(password), salt, p.Time, p.Memory, p.Threads, uint32(length))
}

// phcHash is a hash in the PHC string format,
// $argon2id$v=19$m=19456,t=2,p=1$salt$key:
// https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
type phcHash struct {
	params Params
	salt   []byte
	key    []byte
}

func (h phcHash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.params.Memory, h.params.Time, h.params.Threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

// parsePHC reads a stored hash, in its one canonical spelling. Its cost is bounded
// to 256 MiB, 16 passes and 16 threads, since someone who can write to the table
// shouldn't be able to stop the server with a row. The error doesn't contain the
// hash.
func parsePHC(phc string) (phcHash, error) {
	var h phcHash
	parts := strings.Split(phc, "$")
	if len(parts) != 6 {
		return phcHash{}, errors.New("a stored password hash isn't a PHC string")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.params.Memory, &h.params.Time, &h.params.Threads); err != nil {
		return phcHash{}, errors.New("a stored password hash has no argon2 parameters")
	}
	p := h.params
	if p.Memory < 8*uint32(p.Threads) || p.Memory > 256<<10 || p.Time < 1 || p.Time > 16 ||
		p.Threads < 1 || p.Threads > 16 {
		return phcHash{}, fmt.Errorf("a stored password hash has parameters out of bounds: %+v", p)
	}
	var saltErr, keyErr error
	h.salt, saltErr = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, keyErr = base64.RawStdEncoding.DecodeString(parts[5])
	if errors.Join(saltErr, keyErr) != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.key) < 16 || len(h.key) > 64 {
		return phcHash{}, errors.New("a stored password hash has a salt or a key of the wrong length")
	}
	if h.String() != phc {
		return phcHash{}, errors.New("a stored password hash isn't an argon2id PHC string as this server writes it")
	}
	return h, nil
}

package main

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	credentialTTL   = time.Minute // after which a credential is looked up anew in any case
	credentialLimit = 20_000      // remembered at most
)

// credentials remembers whom access tokens and API keys belong to, by their
// hash, so that a request needs no query and no check of a signature for it.
// The feed forgets an account when it changes, on every instance; while the
// feed is stale nothing is remembered. Safe for concurrent use.
// See docs/design.md, The credential cache.
type credentials struct {
	fresh func() bool // whether the feed would have told of a change

	mu       sync.Mutex // guards the following
	entries  map[[sha256.Size]byte]remembered
	watchers map[string]map[chan struct{}]struct{} // by account: who wants to know when it changes
	changes  uint64                                // counts calls of forget, so that a look-up which one overtakes isn't kept
}

type remembered struct {
	account account
	until   time.Time
}

func newCredentials(fresh func() bool) *credentials {
	return &credentials{fresh: fresh, entries: make(map[[sha256.Size]byte]remembered), watchers: make(map[string]map[chan struct{}]struct{})}
}

// watch tells of changes to an account, for connections that outlast a
// request. The caller calls stop when done.
func (c *credentials) watch(userID string) (changed <-chan struct{}, stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers[userID] == nil {
		c.watchers[userID] = make(map[chan struct{}]struct{})
	}
	w := make(chan struct{}, 1)
	c.watchers[userID][w] = struct{}{}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.watchers[userID], w); len(c.watchers[userID]) == 0 {
			delete(c.watchers, userID)
		}
	}
}

// account returns the account behind a credential: remembered, or else as
// lookUp says, with how long it lasts.
func (c *credentials) account(credential [sha256.Size]byte, lookUp func() (account, time.Duration, error)) (account, error) {
	c.mu.Lock()
	found, ok := c.entries[credential]
	changes := c.changes
	c.mu.Unlock()
	if ok && time.Now().Before(found.until) && c.fresh() {
		return found.account, nil
	}
	a, lasts, err := lookUp()
	if err != nil {
		return account{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		if len(c.entries) >= credentialLimit {
			clear(c.entries) // looking them up again is cheap, and this is rare
		}
		c.entries[credential] = remembered{a, time.Now().Add(min(lasts, credentialTTL))}
	}
	return a, nil
}

// forget drops what is remembered of an account, or of all for "".
func (c *credentials) forget(userID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for credential, e := range c.entries {
		if userID == "" || e.account.userID == userID {
			delete(c.entries, credential)
		}
	}
	for id, watchers := range c.watchers {
		if userID != "" && id != userID {
			continue
		}
		for w := range watchers {
			trySend(w)
		}
	}
}

package main

// Log entries: what agents add to the stream of a mission while they work.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// logLevels are the levels a log entry may have.
var logLevels = []string{"debug", "info", "warn", "error"}

// logEntry is one line that an agent adds to its mission's stream.
type logEntry struct {
	Level   string          `json:"level"`
	Message string          `json:"message"`
	Fields  json.RawMessage `json:"fields"`
	SpecID  string          `json:"spec_id"`
}

// logsRequest is a request to add log entries.
type logsRequest struct {
	Entries []logEntry `json:"entries"`

	specs []string // that the entries name
}

// logsAdded says where in the stream the last entry is.
type logsAdded struct {
	LastSeq int64 `json:"last_seq"`
}

// appendLogs is POST /api/v1/missions/{id}/logs. Without an Idempotency-Key it
// writes in one transaction with other requests that wait right now.
func (s *Server) appendLogs(ctx context.Context, c *call, in *logsRequest) (*logsAdded, error) {
	if c.key == "" {
		if err := s.readmit(ctx, c); err != nil {
			return nil, err
		}
		last, err := s.logs.write(ctx, &logCall{account: c.account, mission: c.target.mission, entries: in.Entries,
			specs: in.specs})
		return &logsAdded{last}, err
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*logsAdded, error) {
		m, err := t.mission(ctx, c.target, lockKeyShare, accessEditor)
		if err != nil {
			return nil, err
		}
		if err := t.specsOfMission(ctx, m.ID, in.specs); err != nil {
			return nil, err
		}
		for _, e := range in.Entries {
			t.log(m.ID, "", e)
		}
		added := new(logsAdded)
		t.then(func() error {
			added.LastSeq = t.heads[m.ID]
			return nil
		})
		return added, nil
	})
}

// logCall is a request to add log entries that waits for its round.
type logCall struct {
	account account
	mission string
	entries []logEntry
	specs   []string // that the entries name

	last int64         // number of its last event
	err  error         // why nothing was written
	done chan struct{} // closed when the above can be read
}

// logWriter writes log entries in few transactions: the calls that are waiting
// share one, whatever their missions. As with a gather.Gatherer there is no timer
// and no delay. Safe for concurrent use.
type logWriter struct {
	*Server

	mu      sync.Mutex // guards the following
	waiting []*logCall // bounded by the requests in flight
	running int        // rounds in progress
}

// maxLogRounds is how many rounds are in progress at most: twice as many as a
// gather.Gatherer has, since they wait for the disk half of the time. But they
// take no more of the pool than the writes of one account.
var maxLogRounds = 2 * max(2, runtime.GOMAXPROCS(0))

// logRoundEntries is how many entries a round takes, unless one call has more.
const logRoundEntries = 1000

// write has a call written and returns the number of its last event. Once the
// call is part of a round, write waits for that to end even if ctx ends first.
func (l *logWriter) write(ctx context.Context, one *logCall) (last int64, err error) {
	one.done = make(chan struct{})
	l.mu.Lock()
	l.waiting = append(l.waiting, one)
	if l.running < min(maxLogRounds, l.writes.ofAccount) {
		l.running++
		go l.run()
	}
	l.mu.Unlock()
	select {
	case <-one.done:
	case <-ctx.Done():
		if l.withdraw(one) {
			return 0, context.Cause(ctx)
		}
		<-one.done
	}
	return one.last, one.err
}

// withdraw takes back a call that isn't in a round yet, and reports whether it could.
func (l *logWriter) withdraw(one *logCall) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.waiting, one)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	return i >= 0
}

// run writes rounds until nothing waits.
func (l *logWriter) run() {
	for {
		l.mu.Lock()
		n, entries := 0, 0
		for n < len(l.waiting) && (n == 0 || entries+len(l.waiting[n].entries) <= logRoundEntries) {
			entries += len(l.waiting[n].entries)
			n++
		}
		round := slices.Clone(l.waiting[:n])
		if l.waiting = slices.Delete(l.waiting, 0, n); n == 0 {
			l.running--
		}
		l.mu.Unlock()
		if n == 0 {
			return
		}
		for _, rest := range l.round(round) { // each by itself, since it may wait, or fail the others
			go l.alone(rest) // at most one for each waiting request
		}
	}
}

// alone writes a call in a round of its own, once its mission's turn comes.
func (l *logWriter) alone(one *logCall) {
	leave, err := l.takeTurn(context.Background(), one.account, target{mission: one.mission}, mayWork.shared)
	if err != nil {
		one.err = err
		close(one.done)
		return
	}
	defer leave()
	l.round([]*logCall{one})
}

// round writes calls in one transaction, and returns those that have to be
// written alone: all of them if the database refuses a statement, since any could
// be the cause, and otherwise those whose mission is locked.
func (l *logWriter) round(calls []*logCall) (rest []*logCall) {
	ctx, cancel := context.WithTimeout(context.Background(), l.config.RequestTimeout)
	defer cancel()
	var heads map[string]int64
	err := l.inTx(ctx, account{}, func(ctx context.Context, t *tx) (err error) {
		heads = t.heads
		rest, err = t.logAll(ctx, calls)
		return err
	})
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && severity(refused) == "ERROR" && len(calls) > 1 {
		return calls
	}
	for _, one := range slices.Backward(calls) {
		if slices.Contains(rest, one) {
			continue
		}
		if err != nil {
			one.err = cmp.Or(one.err, err)
		} else if one.err == nil {
			one.last = heads[one.mission]
			heads[one.mission] -= int64(len(one.entries))
		}
		close(one.done)
	}
	return rest
}

// logAll adds the entries of the calls whose accounts may add them. It returns the
// calls whose mission is being deleted: they need a round of their own, which
// waits.
func (t *tx) logAll(ctx context.Context, calls []*logCall) (rest []*logCall, err error) {
	have, err := t.logAccess(ctx, calls)
	if err != nil {
		return nil, err
	}
	for i, one := range calls {
		switch one.err = nil; {
		case have[i] < 0 && len(calls) > 1:
			rest = append(rest, one)
			continue
		case have[i] < accessReader:
			one.err = errNotFound()
		case have[i] < accessEditor:
			one.err = errReadOnly()
		default:
			err := t.specsOfMission(ctx, one.mission, one.specs)
			if _, ok := errors.AsType[*apiError](err); err != nil && !ok {
				return nil, err
			}
			one.err = err
		}
		if one.err != nil {
			continue
		}
		t.account = one.account
		for _, e := range one.entries {
			t.log(one.mission, "", e)
		}
	}
	return rest, nil
}

// logAccess locks the missions of calls against deletion, and returns each call's
// access, -1 where the mission doesn't exist or is locked by another transaction.
func (t *tx) logAccess(ctx context.Context, calls []*logCall) ([]access, error) {
	users, admins, missions := make([]string, len(calls)), make([]bool, len(calls)), make([]string, len(calls))
	have := make([]access, len(calls))
	for i, one := range calls {
		users[i], admins[i], missions[i], have[i] = one.account.userID, one.account.admin(), one.mission, -1
	}
	wait := "SKIP LOCKED"
	if len(calls) == 1 {
		wait = ""
	}
	t.queue(`
		SELECT want.place, `+logAccessSQL+`
		FROM unnest($1::uuid[], $2::boolean[], $3::uuid[]) WITH ORDINALITY AS want (user_id, admin, mission_id, place)
		JOIN missions m ON m.id = want.mission_id ORDER BY m.id FOR KEY SHARE OF m `+wait, users, admins, missions).
		Query(func(rows pgx.Rows) error {
			var place int
			var a access
			_, err := pgx.ForEachRow(rows, []any{&place, &a}, func() error {
				have[place-1] = a
				return nil
			})
			return err
		})
	if err := t.send(ctx); err != nil {
		return nil, fmt.Errorf("locking missions: %w", err)
	}
	return have, nil
}

// logAccessSQL is accessSQL for the account and mission of a row of want.
var logAccessSQL = strings.NewReplacer("$1", "want.user_id", "$2", "want.admin").Replace(accessSQL)

// log adds a log entry to a mission's stream. agent may be "".
func (t *tx) log(missionID, agent string, e logEntry) {
	t.emit("log", missionID, e.SpecID, agent, logData{e.Fields, e.Level, e.Message})
}

// logData is the data of a log entry's event.
type logData struct {
	Fields  json.RawMessage `json:"fields,omitempty"`
	Level   string          `json:"level"`
	Message string          `json:"message"`
}

func (in *logsRequest) validate(v *violations, _ *Config) {
	if len(in.Entries) == 0 || len(in.Entries) > 1000 {
		v.add("entries", "wrong_length", "must have 1 to 1,000 entries")
		return
	}
	for i := range in.Entries {
		e, field := &in.Entries[i], fmt.Sprintf("entries[%d].", i)
		e.SpecID = strings.ToLower(e.SpecID)
		v.logEntry(field, *e)
		if e.SpecID != "" && !validID(e.SpecID) {
			v.add(field+"spec_id", "not_an_id", "must be the id of a spec in this mission")
		} else if e.SpecID != "" && !slices.Contains(in.specs, e.SpecID) {
			in.specs = append(in.specs, e.SpecID)
		}
	}
}

// logEntry checks an entry. field is the prefix of its fields' names.
func (v *violations) logEntry(field string, e logEntry) {
	if !slices.Contains(logLevels, e.Level) {
		v.add(field+"level", "unknown_value", "must be one of debug, info, warn, error")
	}
	if e.Message == "" || len(e.Message) > 8<<10 {
		v.add(field+"message", "wrong_length", "must have 1 to 8,192 bytes")
	}
	v.object(field+"fields", e.Fields)
}

// specsOfMission refuses ids that aren't specs of the mission.
func (t *tx) specsOfMission(ctx context.Context, missionID string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var found int
	err := t.QueryRow(ctx, `
		SELECT count(*) FROM unnest($2::uuid[]) AS want (id)
		CROSS JOIN LATERAL (SELECT mission_id FROM specs WHERE id = want.id LIMIT 1) s WHERE s.mission_id = $1`,
		missionID, ids).Scan(&found)
	if err != nil {
		return fmt.Errorf("looking for specs: %w", err)
	}
	if found != len(ids) {
		return invalidField("entries", "unknown_spec", "name a spec that isn't in this mission")
	}
	return nil
}

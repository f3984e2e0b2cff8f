package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// serverStream is the stream of what instances tell each other. It isn't
// readable by clients.
const serverStream = "00000000-0000-0000-0000-000000000000"

// event is one entry of a stream: what happened, to what, by whom. A mission's
// stream has the mission's id, a user's stream the user's. seq counts 1, 2, 3 …
// within a stream, without a gap.
type event struct {
	Stream    string    `json:"stream"`
	Seq       int64     `json:"seq"`
	Type      string    `json:"type"`
	MissionID *string   `json:"mission_id"`
	SpecID    *string   `json:"spec_id"`
	Actor     actor     `json:"actor"`
	At        time.Time `json:"at"`
	Data      any       `json:"data"`
}

// actor is who caused an event: nobody, for what the server does by itself.
type actor struct {
	UserID *string `json:"user_id"`
	Agent  *string `json:"agent"`
}

// emit adds an event to a mission's stream, caused by the caller. specID and
// agent may be "".
func (t *tx) emit(kind, missionID, specID, agent string, data any) {
	t.emitAs(actor{UserID: orNull(t.account.userID), Agent: orNull(agent)}, kind, missionID, specID, data)
}

// emitAs is emit for what somebody else has caused, or nobody.
func (t *tx) emitAs(by actor, kind, missionID, specID string, data any) {
	t.events = append(t.events, event{
		Stream: missionID, Type: kind, MissionID: &missionID, SpecID: orNull(specID), Actor: by, Data: data,
	})
}

// notify adds a notification to a user's own stream.
func (t *tx) notify(userID, missionID, specID, message string) {
	t.events = append(t.events, event{
		Stream: userID, Type: "notification", MissionID: orNull(missionID), SpecID: orNull(specID),
		Actor: actor{UserID: orNull(t.account.userID)}, Data: map[string]any{"message": message},
	})
}

// headCounters are the counters that the head of a mission's stream carries:
// how many of its specs have each status, how many of them are planned with
// nothing unmet, which makes them ready once the mission is active, and the
// criteria of those that count.
var headCounters = append(slices.Clone(specStatuses), "unblocked", "criteria_total", "criteria_done")

// tally is a change of each of headCounters.
type tally []int

// tallyOf is what one spec counts.
func tallyOf(status string, unmet int, done []bool) tally {
	n := make(tally, len(headCounters))
	n[slices.Index(specStatuses, status)] = 1
	if status == "planned" && unmet == 0 {
		n[len(specStatuses)] = 1
	}
	if slices.Contains(countedStatuses, status) {
		n[len(specStatuses)+1], n[len(specStatuses)+2] = len(done), countDone(done)
	}
	return n
}

// openSpecsSQL is how many specs of a head are open.
var openSpecsSQL = strings.Join(openStatuses, " + ")

// openSpecs is the change of openSpecsSQL, and completedSpecs of those that are.
func (n tally) openSpecs() (open int) {
	for i, status := range specStatuses {
		if n != nil && slices.Contains(openStatuses, status) {
			open += n[i]
		}
	}
	return open
}

func (n tally) completedSpecs() int {
	if n == nil {
		return 0
	}
	return n[slices.Index(specStatuses, "completed")]
}

// count moves the counters of a mission by what one of its specs counts after
// a change, and counted before; nil is a spec that isn't there. The spec is
// locked, so that nobody else moves it. It goes onto the mission's head with
// the events.
func (t *tx) count(missionID string, before, after tally) {
	n := t.moved[missionID]
	if n == nil {
		n = make(tally, len(headCounters))
		t.moved[missionID] = n
	}
	for i := range n {
		if before != nil {
			n[i] -= before[i]
		}
		if after != nil {
			n[i] += after[i]
		}
	}
}

// countAgain has the counters of a mission counted from its specs, all of which
// are locked.
func (t *tx) countAgain(missionID string) { t.recount[missionID] = struct{}{} }

var recountSQL = func() string {
	var counts []string
	for _, status := range specStatuses {
		counts = append(counts, "count(*) FILTER (WHERE status = '"+status+"') AS "+status)
	}
	counted := `FILTER (WHERE status IN ('` + strings.Join(countedStatuses, `', '`) + `'))`
	var set []string
	for _, counter := range headCounters {
		set = append(set, counter+" = n."+counter)
	}
	return `UPDATE heads SET ` + strings.Join(set, ", ") + ` FROM (
		SELECT ` + strings.Join(counts, ", ") + `, count(*) FILTER (WHERE ` + unblockedSQL + `) AS unblocked,
		       coalesce(sum(cardinality(done)) ` + counted + `, 0) AS criteria_total,
		       coalesce(sum(cardinality(array_positions(done, true))) ` + counted + `, 0) AS criteria_done
		FROM spec_states h WHERE mission_id = $1) n WHERE stream = $1`
}()

// flush queues the events gathered so far, which get the next numbers of their
// streams, and the counters' moves. The heads stay locked from there to the
// commit, so commit does it last; a closure does it earlier only when its
// answer holds a counter.
// See docs/design.md, Event order without gaps.
func (t *tx) flush() error {
	if len(t.events) == 0 {
		return nil
	}
	slices.SortStableFunc(t.events, func(a, b event) int { return strings.Compare(a.Stream, b.Stream) })
	streams := []string{}
	var grow, moves []int
	n := len(t.events)
	of, places, types, data := make([]int, n), make([]int, n), make([]string, n), make([]string, n)
	missions, specs, users, agents := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, e := range t.events {
		encoded, err := encode(e.Data)
		if err != nil {
			return fmt.Errorf("encoding an event: %w", err)
		}
		if i == 0 || e.Stream != t.events[i-1].Stream {
			streams, grow = append(streams, e.Stream), append(grow, 0)
			moves = append(moves, t.movesOf(e.Stream)...)
		}
		grow[len(grow)-1]++
		of[i], places[i], types[i], data[i] = len(grow), grow[len(grow)-1], e.Type, string(encoded)
		missions[i], specs[i] = orEmptyText(e.MissionID), orEmptyText(e.SpecID)
		if specs[i] != "" {
			t.specs[specs[i]] = missions[i]
		}
		users[i], agents[i] = orEmptyText(e.Actor.UserID), orEmptyText(e.Actor.Agent)
	}
	t.queue(appendSQL, streams, grow, moves, of, places, types, data, missions, specs, users,
		agents).Query(func(rows pgx.Rows) error {
		var stream string
		var seq int64
		_, err := pgx.ForEachRow(rows, []any{&stream, &seq}, func() error {
			t.heads[stream] = seq
			return nil
		})
		return err
	})
	t.queueRecounts()
	t.events = nil
	clear(t.moved)
	clear(t.recount)
	return nil
}

// orNull is NULL for "" and the text for any other.
func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// orEmptyText is the text, or "" for nil.
func orEmptyText(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// movesOf are the moves of the counters of a stream's head. Every move of
// counters has its event.
func (t *tx) movesOf(stream string) tally {
	if _, anew := t.recount[stream]; anew || t.moved[stream] == nil {
		return make(tally, len(headCounters))
	}
	return t.moved[stream]
}

// queueRecounts recounts what was asked for, once appendSQL has made all heads and
// locked them in their order.
func (t *tx) queueRecounts() {
	for _, mission := range slices.Sorted(maps.Keys(t.recount)) {
		t.queue(recountSQL, mission)
	}
}

// appendSQL makes the heads $1 grow by $2 events each, and moves their counters
// by $3, in the order of the streams, which it makes where there are none. The
// events, from $4 on, say which of the streams is theirs and which place they
// have in it. Ids come as text, and what is absent as an empty text, which pgx encodes in
// a third of the time that uuid and NULL take.
var appendSQL = func() string {
	var moves, sums []string
	for i, counter := range headCounters {
		moves = append(moves, fmt.Sprintf("($3::int[])[(g.place - 1) * %d + %d]", len(headCounters), i+1))
		sums = append(sums, fmt.Sprintf("%s = h.%s + excluded.%s", counter, counter, counter))
	}
	return `
	WITH growing AS (
		SELECT stream, n, place FROM unnest($1::uuid[], $2::int[]) WITH ORDINALITY AS g (stream, n, place)
	), head AS (
		INSERT INTO heads AS h (stream, seq, oldest_at, ` + strings.Join(headCounters, ", ") + `)
		SELECT g.stream, g.n, clock_timestamp(), ` + strings.Join(moves, ", ") + ` FROM growing g ORDER BY g.stream
		ON CONFLICT (stream) DO UPDATE SET seq = h.seq + excluded.seq,
			oldest_at = coalesce(h.oldest_at, excluded.oldest_at), ` + strings.Join(sums, ", ") + `
		RETURNING stream, seq
	), stored AS (
		INSERT INTO events (stream, seq, type, mission_id, spec_id, user_id, agent, at, data)
		SELECT head.stream, head.seq - g.n + e.place, e.type, nullif(e.mission_id, '')::uuid, nullif(e.spec_id, '')::uuid,
		       nullif(e.user_id, '')::uuid, nullif(e.agent, ''), clock_timestamp(), e.data::json
		FROM unnest($4::int[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[])
		     AS e (stream, place, type, data, mission_id, spec_id, user_id, agent)
		JOIN growing g ON g.place = e.stream JOIN head ON head.stream = g.stream
	)
	SELECT stream, seq FROM head`
}()

// eventsView is a stretch of a stream, with the bounds of what is kept of it.
type eventsView struct {
	Items    []event `json:"items"`
	FirstSeq int64   `json:"first_seq"`
	LastSeq  int64   `json:"last_seq"`
}

// readHead reads the bounds of a stream that the account may read: a mission's,
// or its own.
func (s *Server) readHead(ctx context.Context, a account, stream string) (eventsView, error) {
	view := eventsView{Items: []event{}, FirstSeq: 1}
	err := s.db.QueryRow(ctx, `
		SELECT h.first_seq, h.seq FROM heads h LEFT JOIN missions m ON m.id = h.stream
		WHERE h.stream = $3 AND (h.stream = $1 OR m.id IS NOT NULL AND `+readableSQL+`)`,
		a.userID, a.admin(), stream).Scan(&view.FirstSeq, &view.LastSeq)
	if errors.Is(err, pgx.ErrNoRows) && stream == a.userID {
		return view, nil // nothing has happened yet
	}
	return view, notFoundOr(err, "reading a stream's head")
}

// listMissionEvents is GET /api/v1/missions/{id}/events.
func (s *Server) listMissionEvents(w http.ResponseWriter, r *http.Request, c *call) error {
	if c.target.mission == c.account.userID { // a stream of the caller's, but no mission's
		return errNotFound()
	}
	return s.serveEvents(w, r, c, c.target.mission)
}

// listOwnEvents is GET /api/v1/events: the caller's notifications.
func (s *Server) listOwnEvents(w http.ResponseWriter, r *http.Request, c *call) error {
	return s.serveEvents(w, r, c, c.account.userID)
}

// serveEvents answers with a stretch of a stream, or follows it live where the
// client accepts text/event-stream.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request, c *call, stream string) error {
	live := wantsEventStream(r)
	q := newQuery(r)
	limit := q.number("limit", 50, 1, 200)
	after := q.after(r.Header.Get("Last-Event-ID"), live)
	if err := q.err(); err != nil {
		return err
	}
	view, err := s.readHead(r.Context(), c.account, stream)
	if err != nil {
		return err
	}
	if after, err = view.start(after); err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept")
	if live {
		return s.streamEvents(w, r, c, &follower{topic: &topicName{Stream: stream}, last: after}, view.LastSeq)
	}
	if view.Items, err = readEvents(r.Context(), s.db, stream, after, limit); err != nil {
		return err
	}
	next := view.LastSeq + 1
	if n := len(view.Items); n > 0 { // what came since the head was read
		next, view.LastSeq = view.Items[0].Seq, max(view.LastSeq, view.Items[n-1].Seq)
	}
	if next != after+1 { // what was pruned since then
		return errCursorBefore(next)
	}
	return respond(w, r, c, view)
}

// mayFollow looks again whether an account may read a mission. One that is
// deleted may be followed to its end, which is near.
func (s *Server) mayFollow(ctx context.Context, a account, missionID string) error {
	var may bool
	err := s.db.QueryRow(ctx, `SELECT coalesce(bool_or(`+readableSQL+`), true) FROM missions m WHERE m.id = $3`,
		a.userID, a.admin(), missionID).Scan(&may)
	if err != nil {
		return fmt.Errorf("checking access: %w", err)
	}
	if !may {
		return errNotFound()
	}
	return nil
}

// Places to start reading at that aren't numbers of events.
const (
	fromOldest = -1
	fromLatest = -2
)

// after reads where to start: Last-Event-ID, which beats the parameter, the
// number of an event, or "latest".
func (q *query) after(lastEventID string, live bool) int64 {
	place, _ := q.get("after")
	if live && lastEventID != "" {
		n, err := strconv.ParseInt(lastEventID, 10, 64)
		if err != nil || n < 0 {
			q.fail("Last-Event-ID", "out_of_range", "must be the id of an event")
		}
		return n
	}
	if place == "latest" {
		return fromLatest
	}
	return q.number("after", fromOldest, 0, 1<<62)
}

// start is the seq that reading goes on after, for the one a client gave, and
// an error where what it asks for is gone or not there yet.
func (v eventsView) start(after int64) (int64, error) {
	switch {
	case after == fromOldest:
		return v.FirstSeq - 1, nil
	case after == fromLatest:
		return v.LastSeq, nil
	case after < v.FirstSeq-1:
		return 0, errCursorBefore(v.FirstSeq)
	case after > v.LastSeq:
		return 0, problem(http.StatusConflict, "cursor_ahead",
			"The stream ends at %[1]d: your cursor is beyond it. Read what you follow again, and go on after %[1]d.",
			v.LastSeq).with("last_seq", v.LastSeq)
	}
	return after, nil
}

// errCursorBefore is the answer to a cursor before the first event that is kept.
func errCursorBefore(first int64) error {
	return problem(http.StatusGone, "cursor_gone",
		"Events up to %d are no longer kept. Read what you follow again, and go on from there.",
		first-1).with("first_seq", first)
}

const eventColumns = `stream, seq, type, mission_id, spec_id, user_id, agent, at, data`

// scanEvent reads a row of eventColumns.
func scanEvent(row pgx.CollectableRow) (e event, err error) {
	var data json.RawMessage
	err = row.Scan(&e.Stream, &e.Seq, &e.Type, &e.MissionID, &e.SpecID, &e.Actor.UserID, &e.Actor.Agent, &e.At, &data)
	e.Data = data
	return e, err
}

// readEvents reads at most limit events of a stream, after one seq.
func readEvents(ctx context.Context, q querier, stream string, after, limit int64) ([]event, error) {
	rows, err := q.Query(ctx, `SELECT `+eventColumns+` FROM events WHERE stream = $1 AND seq > $2 ORDER BY seq LIMIT $3`,
		stream, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	events, err := pgx.CollectRows(rows, scanEvent)
	if err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	return events, nil
}

// object checks a free-form JSON object: at most 16 KiB, with numbers that a
// float64 can hold, as checkJSON has seen to.
func (v *violations) object(field string, raw json.RawMessage) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
	case raw[0] != '{':
		v.add(field, "wrong_type", "must be an object")
	case len(raw) > 16<<10:
		v.add(field, "too_long", "must have at most 16 KiB")
	}
}

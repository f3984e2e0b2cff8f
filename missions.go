package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/gather"
)

// missionView is a mission as clients see it.
type missionView struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Status      string          `json:"status"`
	Tags        []string        `json:"tags"`
	Metadata    json.RawMessage `json:"metadata"`
	Review      string          `json:"review"`
	MaxInReview int             `json:"max_in_review"`
	Triage      bool            `json:"triage"`
	OwnerID     string          `json:"owner_id"`
	MyRole      string          `json:"my_role"`
	Stats       missionStats    `json:"stats"`
	Version     int64           `json:"version"`
	CreatedAt   time.Time       `json:"created_at"`
	UpdatedAt   time.Time       `json:"updated_at"`

	reviewFull bool // it hands out nothing until a person has reviewed some; see noteFull
}

func (m *missionView) etag() string     { return etagOf(m.Version) }
func (m *missionView) location() string { return "/api/v1/missions/" + m.ID }

// missionStats are a mission's counters, read from the head of its stream.
type missionStats struct {
	byStatus                           []int // as specStatuses
	total                              int   // of those that count
	ready, criteriaTotal, criteriaDone int
}

// of is how many specs have a status.
func (n missionStats) of(status string) int { return n.byStatus[slices.Index(specStatuses, status)] }

// MarshalJSON writes a member for each status, beside the others.
func (n missionStats) MarshalJSON() ([]byte, error) {
	b := strconv.AppendInt([]byte(`{"total":`), int64(n.total), 10)
	for i, status := range specStatuses {
		b = strconv.AppendInt(append(b, `,"`+status+`":`...), int64(n.byStatus[i]), 10)
	}
	percentage := 0.0
	if n.total > 0 {
		percentage = math.Round(float64(n.of("completed"))/float64(n.total)*1000) / 10
	}
	return fmt.Appendf(b, `,"ready":%d,"criteria_total":%d,"criteria_done":%d,"completion_percentage":%v}`,
		n.ready, n.criteriaTotal, n.criteriaDone, percentage), nil
}

// missionColumns are what scanMission reads of missions m and their heads h, as
// user $1 ($2: an admin) sees them.
var missionColumns = `
	SELECT m.id, m.name, m.description, m.status, m.tags, m.metadata, m.review, m.max_in_review, m.triage, m.owner_id,
	       ` + accessSQL + `, m.version, m.created_at, m.updated_at,
	       h.` + strings.Join(headCounters, ", h.")

// scanMission reads a row of missionColumns.
func scanMission(row pgx.CollectableRow) (m missionView, err error) {
	err = m.scan(row)
	return m, err
}

// scan reads a row of missionColumns into m, after the columns that go to before.
// JSON is read as bytes, since pgx would parse it for a json.RawMessage.
func (m *missionView) scan(row pgx.CollectableRow, before ...any) error {
	var have access
	n := &m.Stats
	n.byStatus = make([]int, len(specStatuses))
	fields := append(before, &m.ID, &m.Name, &m.Description, &m.Status, &m.Tags, (*[]byte)(&m.Metadata), &m.Review,
		&m.MaxInReview, &m.Triage, &m.OwnerID, &have, &m.Version, &m.CreatedAt, &m.UpdatedAt)
	for i := range n.byStatus {
		fields = append(fields, &n.byStatus[i])
	}
	if err := row.Scan(append(fields, &n.ready, &n.criteriaTotal, &n.criteriaDone)...); err != nil {
		return err
	}
	m.MyRole = have.String()
	if m.Status != "active" {
		n.ready = 0
	}
	for _, status := range countedStatuses {
		n.total += n.of(status)
	}
	return nil
}

// oneMissionSQL reads the mission $3.
var oneMissionSQL = missionColumns + `
	FROM missions m JOIN heads h ON h.stream = m.id WHERE ` + readableSQL + ` AND m.id = $3`

// readMission reads one mission for an account.
func readMission(ctx context.Context, q querier, a account, id string) (missionView, error) {
	rows, err := q.Query(ctx, oneMissionSQL, a.userID, a.admin(), id)
	if err != nil {
		return missionView{}, fmt.Errorf("reading a mission: %w", err)
	}
	m, err := pgx.CollectExactlyOneRow(rows, scanMission)
	return m, notFoundOr(err, "reading a mission")
}

// askMissionView queues a read of a mission as it then is, counters included.
func (t *tx) askMissionView(id string) (*missionView, error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	return askFor(t, oneMissionSQL, []any{t.account.userID, t.account.admin(), id}, scanMission), nil
}

// missionSorts are the sort keys of the mission list, and how they compare.
var missionSorts = map[string]sortKey[missionView]{
	"created_at": {"created_at", "timestamptz", func(m missionView) string { return timeText(m.CreatedAt) }},
	"updated_at": {"updated_at", "timestamptz", func(m missionView) string { return timeText(m.UpdatedAt) }},
	"name":       {"name", "text", func(m missionView) string { return m.Name }},
}

// listMissions is GET /api/v1/missions.
func (s *Server) listMissions(ctx context.Context, c *call, q *query) (list[missionView], error) {
	filter := newListFilter(c.account)
	filter.missionStatus(q.choice("status", "", missionStatuses...))
	if tag := q.text("tag", 64); tag != "" {
		filter.having(`m.tags @> ARRAY[$?]`, tag)
		filter.rare = append(filter.rare,
			idQuery{"missions m", "m.id", condition{`m.tags @> ARRAY[$?]`, tag}, "", true, false})
	}
	order := readOrder(q, missionSorts, "-created_at", filter)
	if err := q.err(); err != nil {
		return list[missionView]{}, err
	}
	return s.findMissions(ctx, filter, order)
}

func (f *listFilter) missionStatus(status string) {
	if status != "" {
		f.having(`m.status = $?`, status)
		f.rare = append(f.rare, idQuery{"missions m", "m.id", condition{`m.status = $?`, status}, "", false, false})
	}
}

// findMissions reads a page of missions: their ids first, by the index that
// leaves the fewest, and then what is shown of them.
func (s *Server) findMissions(ctx context.Context, f *listFilter, o listOrder[missionView]) (list[missionView], error) {
	if o.text != "" {
		bounded, end, err := s.beginRead(ctx, f.account, o.text, true)
		if err != nil {
			return list[missionView]{}, err
		}
		defer end()
		ctx = bounded
	}
	if err := s.seeMissions(ctx, f, ""); err != nil {
		return list[missionView]{}, err
	}
	var few *idQuery
	var err error
	switch {
	case f.scope != nil:
		few = &idQuery{from: "unnest($?::uuid[]) AS m (id)", id: "m.id", condition: condition{"true", f.scope}}
	case !f.missionsInOrder(o):
		if few, err = s.narrow(ctx, f); err != nil {
			return list[missionView]{}, err
		}
	}
	missions, err := s.readMissions(ctx, f, o, few)
	bounded := few == nil && o.text == "" && len(f.rare) > 0 && !f.missionsInOrder(o)
	if err == nil && bounded && len(missions) <= o.limit {
		missions, err = s.readMissions(ctx, f, o, &f.rare[0])
	}
	if err != nil {
		return list[missionView]{}, err
	}
	return pageOf(missions, o.limit, func(m missionView) string { return o.cursor(m, m.ID) }), nil
}

// missionsInOrder reports whether an index has what the filter leaves in the
// order of the list: all missions, or by their creation those of one status.
func (f *listFilter) missionsInOrder(o listOrder[missionView]) bool {
	switch len(f.conditions) {
	case 0:
		return o.text == ""
	case 1:
		return o.text == "" && o.key.column == "created_at" && strings.HasPrefix(f.conditions[0].sql, "m.status")
	}
	return false
}

// readMissions reads one mission more than a page has, if there are so many.
func (s *Server) readMissions(ctx context.Context, f *listFilter, o listOrder[missionView],
	few *idQuery) ([]missionView, error) {
	q := statement{[]any{f.account.userID, f.account.admin()}}
	sql := missionsSQL(&q, f, o, few)
	args := q.args
	if !f.missionsInOrder(o) {
		args = plannedEachTime(args)
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("listing missions: %w", err)
	}
	missions, err := pgx.AppendRows(make([]missionView, 0, o.limit+1), rows, scanMission)
	if err != nil {
		return nil, fmt.Errorf("listing missions: %w", err)
	}
	return missions, nil
}

// missionsSQL is the statement of readMissions: of few if that isn't nil, all of
// which is then read and sorted, and else along the index of the order, for at
// most walkedRows where there is another way. See fewIDs and walkedIDs.
func missionsSQL(q *statement, f *listFilter, o listOrder[missionView], few *idQuery) string {
	with, from, key := "", "missions m", "m."+o.key.column
	if few != nil {
		with = `few AS MATERIALIZED (` + f.ids(*few, q) + `), `
		from = `few CROSS JOIN LATERAL (
			SELECT id, owner_id, name, status, tags, words, created_at, updated_at
			FROM missions WHERE id = few.id OFFSET 0) AS m`
	}
	where := f.where(q) + " AND " + readableSQL
	last := o.sorted(key, "m.id")
	var page string
	switch after := o.compared(q, key, "m.id"); {
	case o.text != "":
		words := `websearch_to_tsquery('tachikoma', folded(` + q.bind(o.text) + `))`
		page = fmt.Sprintf(`SELECT m.id FROM %s%s AND m.words @@ %s LIMIT %d`, from, where, words, rankedMatches)
		last = ` ORDER BY ts_rank(m.words, ` + words + `) DESC, m.id LIMIT ` + q.bind(o.limit)
	case few != nil:
		page = `SELECT id FROM (SELECT m.id, ` + key + ` AS key FROM ` + from + where + after + ` OFFSET 0) AS narrowed` +
			o.sorted("key", "id") + o.first()
	case len(f.rare) > 0 && !f.missionsInOrder(o):
		page = fmt.Sprintf(`SELECT m.id FROM (
				SELECT m.id, m.owner_id, m.status, m.tags, %s FROM missions m WHERE true%s%s LIMIT %d
			) AS m%s%s%s`, key, after, last, walkedRows, where, last, o.first())
	default: // the rows themselves, since the walk reads no others
		return missionColumns + ` FROM (SELECT m.* FROM ` + from + where + after + last + o.first() + `) AS m` +
			withHeadSQL + last
	}
	return `WITH ` + with + `page AS MATERIALIZED (` + page + `)` + missionColumns + `
		FROM page JOIN missions m USING (id)` + withHeadSQL + last
}

// withHeadSQL joins the head h of each mission m, by its index however many
// missions PostgreSQL expects.
// Its columns are named where it is joined.
const withHeadSQL = ` CROSS JOIN LATERAL (SELECT * FROM heads WHERE stream = m.id OFFSET 0) AS h`

// getMission is GET /api/v1/missions/{id}.
func (s *Server) getMission(ctx context.Context, c *call) (*missionView, error) {
	m, err := s.missions.Get(ctx, gather.Lookup{UserID: c.account.userID, Admin: c.account.admin(), ID: c.target.mission})
	return &m, notFoundOr(err, "reading a mission")
}

// briefMission is a mission as agents need to know it.
type briefMission struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Specs     int    `json:"specs"`
	Completed int    `json:"completed"`
	Ready     int    `json:"ready"`
}

func (m missionView) brief() briefMission {
	return briefMission{m.ID, m.Name, m.Status, m.Stats.total, m.Stats.of("completed"), m.Stats.ready}
}

// next says what an agent without a spec should do in a mission.
func (m missionView) next() string {
	switch {
	case m.Status == "completed":
		return "The mission is completed. Stop, and tell the user."
	case m.Status != "active":
		return "The mission is " + m.Status + ": nothing is handed out. Stop, and tell the user."
	case m.reviewFull:
		return "review_full: as many specs wait for a person's review, or will, as the mission may have. Stop, and tell " +
			"the user."
	case m.Stats.ready > 0:
		return "Call claim_spec."
	case m.Stats.of("in_progress") > 0:
		return fmt.Sprintf("Others are at work, and more may become ready when they are done: call claim_spec with "+
			"wait_seconds %d.", maxWait)
	}
	return "Nothing is ready and nobody is at work, so waiting won't help. Stop, and tell the user what next_spec " +
		"says of the rest."
}

// memberView is somebody who shares a mission, its owner included.
type memberView struct {
	UserID    string    `json:"user_id"`
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Role      string    `json:"role"` // owner, editor or viewer
	CreatedAt time.Time `json:"created_at"`
}

// listMembers is GET /api/v1/missions/{id}/members, by e-mail.
func (s *Server) listMembers(ctx context.Context, c *call, q *query) (none list[memberView], err error) {
	limit := int(q.number("limit", 50, 1, 200))
	after := q.cursor("members")
	if err := q.err(); err != nil {
		return none, err
	}
	a, id := c.account, c.target.mission
	if _, err := readMission(ctx, s.db, a, id); err != nil {
		return none, err
	}
	rows, err := s.db.Query(ctx, `
		WITH mission AS (SELECT m.id, m.owner_id, m.created_at FROM missions m WHERE m.id = $3 AND `+readableSQL+`),
		people AS (
			SELECT owner_id AS user_id, 'owner' AS role, created_at FROM mission
			UNION ALL
			SELECT b.user_id, b.role, b.created_at FROM mission CROSS JOIN LATERAL (
				SELECT user_id, role, created_at FROM members
				WHERE mission_id = mission.id AND email > $4 ORDER BY email LIMIT $5) b
		)
		SELECT p.user_id, u.email, u.name, p.role, p.created_at FROM people p JOIN users u ON u.id = p.user_id
		WHERE u.email > $4 ORDER BY u.email LIMIT $5`, a.userID, a.admin(), id, after, limit+1)
	if err != nil {
		return none, fmt.Errorf("listing members: %w", err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[memberView])
	if err != nil {
		return none, fmt.Errorf("listing members: %w", err)
	}
	return pageOf(members, limit, func(m memberView) string { return encodeCursor("members", m.Email) }), nil
}

// memberRequest says who is to have which role in a mission.
type memberRequest struct {
	Email string `json:"email"`
	Role  string `json:"role"`
}

func (in *memberRequest) validate(v *violations, _ *Config) {
	in.Email = v.email("email", in.Email)
	if in.Role != "editor" && in.Role != "viewer" {
		v.add("role", "unknown_value", "must be editor or viewer")
	}
}

// setMember is PUT /api/v1/missions/{id}/members.
func (s *Server) setMember(ctx context.Context, t *tx, c *call, in *memberRequest) (*memberView, error) {
	m, err := t.mission(ctx, c.target, lockNoKeyUpdate, accessOwner)
	if err != nil {
		return nil, err
	}
	if err := t.mayShare(ctx, m); err != nil {
		return nil, err
	}
	member, err := t.putMember(ctx, m, in.Email, in.Role)
	return &member, err
}

// putMember makes somebody a member, or changes the role of one.
func (t *tx) putMember(ctx context.Context, m missionLock, email, role string) (memberView, error) {
	var member memberView
	var before *string
	err := t.QueryRow(ctx, `
		SELECT u.id, u.email, u.name, b.role, coalesce(b.created_at, clock_timestamp())
		FROM users u LEFT JOIN members b ON b.user_id = u.id AND b.mission_id = $2
		WHERE u.email = $1`, email, m.ID).Scan(&member.UserID, &member.Email, &member.Name, &before, &member.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return member, invalidField("email", "unknown_account", "doesn't belong to an account")
	}
	if err != nil {
		return member, fmt.Errorf("looking for an account: %w", err)
	}
	if member.UserID == m.OwnerID {
		return member, invalidField("email", "is_owner", "belongs to the owner; transfer the mission with PATCH first")
	}
	member.Role = role
	if before != nil && *before == role {
		return member, nil
	}
	_, err = t.Exec(ctx, `INSERT INTO members (mission_id, user_id, role, email) VALUES ($1, $2, $3, $4)
		ON CONFLICT (mission_id, user_id) DO UPDATE SET role = excluded.role`, m.ID, member.UserID, role, member.Email)
	if err != nil {
		return member, fmt.Errorf("storing a member: %w", err)
	}
	t.emit("member.set", m.ID, "", "", map[string]any{"user_id": member.UserID, "role": role})
	if before == nil {
		t.notify(member.UserID, m.ID, "", fmt.Sprintf("You are now a member of the mission %[2]q, with the role %[1]s.",
			role, m.Name))
	}
	return member, nil
}

// removeMember is DELETE /api/v1/missions/{id}/members/{user_id}.
func (s *Server) removeMember(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	m, err := t.mission(ctx, c.target, lockNoKeyUpdate, accessOwner)
	if err != nil {
		return nil, err
	}
	if err := t.mayShare(ctx, m); err != nil {
		return nil, err
	}
	tag, err := t.Exec(ctx, `DELETE FROM members WHERE mission_id = $1 AND user_id = $2`, m.ID, c.target.user)
	if err != nil {
		return nil, fmt.Errorf("removing a member: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, errNotFound()
	}
	t.emit("member.removed", m.ID, "", "", map[string]any{"user_id": c.target.user})
	return nil, nil
}

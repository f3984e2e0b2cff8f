package main

// The reference database: sql/reference.sql with the same data as the
// server's, for pgbench and bare.

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

//go:embed sql
var scripts embed.FS

// referenceOwner is the one account there.
const referenceOwner = "a0000000-0000-7000-8000-000000000000"

// fillReference stores what size says, with plain SQL and COPY. Ids are made
// of numbers, as by the function numbered_id, so that pgbench can draw them.
func (b *bench) fillReference(ctx context.Context) error {
	schema, err := scripts.ReadFile("sql/reference.sql")
	if err != nil {
		return err
	}
	db, err := b.postgres.connect(ctx, "reference")
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	if _, err := db.Exec(ctx, string(schema)); err != nil {
		return err
	}
	if _, err := db.Exec(ctx, `INSERT INTO users (id) VALUES ($1)`, referenceOwner); err != nil {
		return err
	}
	if err := fillMissions(ctx, db, plainPrefix, b.size.missions, "draft", nil); err != nil {
		return err
	}
	for _, g := range b.size.groups {
		specs := g.all()
		if err := fillMissions(ctx, db, g.prefix, g.missions, "active", specs); err != nil {
			return err
		}
		for mission := range g.missions {
			if err := g.copySpecs(ctx, db, mission+1, specs); err != nil {
				return err
			}
		}
	}
	return nil
}

// fillMissions stores n missions, each with its first event, and with its head
// as it is with these specs.
func fillMissions(ctx context.Context, db *pgx.Conn, prefix string, n int, status string, specs []spec) error {
	ready, criteria := 0, 0
	for _, s := range specs {
		criteria += s.criteria
		if len(s.needs) == 0 {
			ready++
		}
	}
	_, err := db.Exec(ctx, `
		WITH made AS (
			INSERT INTO missions (id, owner_id, name, description, status, tags, metadata)
			SELECT numbered_id($1, i), $2, 'Load', 'A mission of the load test.', $4, '{a,b}', '{"team": "perf"}'
			FROM generate_series(1, $3) i RETURNING id
		), head AS (
			INSERT INTO heads (stream, seq, planned, unblocked, criteria_total) SELECT id, 1, $5, $6, $7 FROM made
		)
		INSERT INTO events (stream, seq, type, mission_id, user_id, at, data)
		SELECT id, 1, 'mission.created', id, $2, clock_timestamp(), '{"name": "Load"}' FROM made`,
		prefix, referenceOwner, n, status, len(specs), ready, criteria)
	return err
}

// numberedID is the id that numbered_id makes.
func (g group) numberedID(mission, spec int) string {
	return fmt.Sprintf("%s%06x-0000-7000-8000-%012x", g.prefix, mission, spec)
}

// copySpecs stores the specs of a mission and their dependencies.
func (g group) copySpecs(ctx context.Context, db *pgx.Conn, mission int, specs []spec) error {
	var rows, dependencies [][]any
	uuid := func(spec int) (id pgtype.UUID) {
		_ = id.Scan(g.numberedID(mission, spec)) // it always has the form
		return id
	}
	for _, s := range specs {
		rows = append(rows, []any{uuid(s.number), uuid(0), s.key, fmt.Sprintf("%05d", s.number), s.title, s.phase,
			"planned", 5, []string{}, "", s.text, "planned", make([]bool, s.criteria), s.criteria, 0, len(s.needs)})
		for _, other := range s.needs {
			dependencies = append(dependencies, []any{uuid(s.number), uuid(other)})
		}
	}
	columns := []string{"id", "mission_id", "key", "number", "title", "phase", "status", "priority", "tags",
		"estimated_context", "body", "derived_status", "done", "criteria_total", "criteria_done", "unmet"}
	if _, err := db.CopyFrom(ctx, pgx.Identifier{"specs"}, columns, pgx.CopyFromRows(rows)); err != nil {
		return err
	}
	columns = []string{"spec_id", "depends_on"}
	_, err := db.CopyFrom(ctx, pgx.Identifier{"dependencies"}, columns, pgx.CopyFromRows(dependencies))
	return err
}

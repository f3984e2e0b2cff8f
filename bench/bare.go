package main

// The reference "bare": the same reads as the server's with net/http, pgx, one
// query and encoding/json, as one would first write them. It has no
// credentials, no permissions, no limits and no log, and doesn't parse specs.

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

type bareMission struct {
	ID            string          `json:"id"`
	Name          string          `json:"name"`
	Description   string          `json:"description"`
	Status        string          `json:"status"`
	Tags          []string        `json:"tags"`
	Metadata      json.RawMessage `json:"metadata"`
	OwnerID       string          `json:"owner_id"`
	Version       int64           `json:"version"`
	CreatedAt     time.Time       `json:"created_at"`
	UpdatedAt     time.Time       `json:"updated_at"`
	Planned       int             `json:"planned"`
	InProgress    int             `json:"in_progress"`
	InReview      int             `json:"in_review"`
	Testing       int             `json:"testing"`
	Completed     int             `json:"completed"`
	Blocked       int             `json:"blocked"`
	Deferred      int             `json:"deferred"`
	Ready         int             `json:"ready"`
	CriteriaTotal int             `json:"criteria_total"`
	CriteriaDone  int             `json:"criteria_done"`
}

const bareMissions = `
	SELECT m.id, m.name, m.description, m.status, m.tags, m.metadata, m.owner_id, m.version, m.created_at, m.updated_at,
	       h.planned, h.in_progress, h.in_review, h.testing, h.completed, h.blocked, h.deferred, h.unblocked,
	       h.criteria_total, h.criteria_done
	FROM missions m JOIN heads h ON h.stream = m.id `

type bareSpec struct {
	ID               string          `json:"id"`
	MissionID        string          `json:"mission_id"`
	Key              string          `json:"key"`
	Number           string          `json:"number"`
	Title            string          `json:"title"`
	Phase            string          `json:"phase"`
	Status           string          `json:"status"`
	Priority         int             `json:"priority"`
	Tags             []string        `json:"tags"`
	EstimatedContext string          `json:"estimated_context"`
	Attempts         int             `json:"attempts"`
	Version          int64           `json:"version"`
	CreatedAt        time.Time       `json:"created_at"`
	UpdatedAt        time.Time       `json:"updated_at"`
	Dependencies     json.RawMessage `json:"dependencies"`
	Agent            *string         `json:"agent"`
	Body             string          `json:"body,omitempty"`
}

const (
	bareSpecs = `
	SELECT s.id, s.mission_id, s.key, s.number, s.title, s.phase, s.status, s.priority, s.tags, s.estimated_context,
	       s.attempts, s.version, s.created_at, s.updated_at,
	       (SELECT coalesce(json_agg(json_build_object(
	            'id', o.id, 'key', o.key, 'title', o.title, 'status', o.status)), '[]')
	        FROM dependencies d JOIN specs o ON o.id = d.depends_on WHERE d.spec_id = s.id),
	       l.agent, `
	bareSpecTables = `
	FROM specs s LEFT JOIN leases l ON l.spec_id = s.id `
)

// serveBare serves on an address, from the database at a URL.
func serveBare(args []string) error {
	config, err := pgxpool.ParseConfig(args[1])
	if err != nil {
		return err
	}
	config.MaxConns = poolSize
	db, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	defer db.Close()
	http.HandleFunc("GET /missions/{id}", bareOne[bareMission](db, bareMissions+`WHERE m.id = $1`))
	http.HandleFunc("GET /specs/{id}", bareOne[bareSpec](db, bareSpecs+`s.body`+bareSpecTables+`WHERE s.id = $1`))
	http.HandleFunc("GET /missions", bareList[bareMission](db, "status", bareMissions+
		`WHERE m.status = $1 ORDER BY m.created_at DESC, m.id DESC LIMIT 50`))
	http.HandleFunc("GET /specs", bareList[bareSpec](db, "mission_id", bareSpecs+`''`+bareSpecTables+
		`WHERE s.mission_id = $1 AND s.status = 'planned' ORDER BY s.number_order, s.id LIMIT 50`))
	return http.ListenAndServe(args[0], nil)
}

func bareOne[T any](db *pgxpool.Pool, sql string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rows, _ := db.Query(r.Context(), sql, r.PathValue("id")) // rows has the error too
		v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
		bareAnswer(w, v, err)
	}
}

func bareList[T any](db *pgxpool.Pool, parameter, sql string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rows, _ := db.Query(r.Context(), sql, r.URL.Query().Get(parameter)) // rows has the error too
		v, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
		bareAnswer(w, map[string]any{"items": v}, err)
	}
}

func bareAnswer(w http.ResponseWriter, v any, err error) {
	var body []byte
	if err == nil {
		body, err = json.Marshal(v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client has gone
}

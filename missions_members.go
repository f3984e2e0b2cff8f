package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// memberView is somebody who shares a mission, its owner included.
type memberView struct {
	UserID    string    `json:"user_id"`
	Email     string    `json:"email"`
	Name      string    `json:"name"`
	Role      string    `json:"role"` // owner, editor or viewer
	CreatedAt time.Time `json:"created_at"`
}

// listMembers is GET /api/v1/missions/{id}/members, by e-mail.
func (s *Server) listMembers(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r, "limit", "cursor")
	limit := int(q.number("limit", 50, 1, 200))
	after := q.cursor("members")
	if err := q.err(); err != nil {
		return err
	}
	a, id := callOf(r).account, callOf(r).target.mission
	if _, err := readMission(r.Context(), s.db, a, id); err != nil {
		return err
	}
	rows, err := s.db.Query(r.Context(), `
		WITH mission AS (SELECT m.id, m.owner_id, m.created_at FROM missions m WHERE m.id = $3 AND `+readableSQL+`),
		people AS (
			SELECT owner_id AS user_id, 'owner' AS role, created_at FROM mission
			UNION ALL
			SELECT b.user_id, b.role, b.created_at FROM mission CROSS JOIN LATERAL (
				SELECT user_id, role, created_at FROM members WHERE mission_id = mission.id AND email > $4 ORDER BY email LIMIT $5) b
		)
		SELECT p.user_id, u.email, u.name, p.role, p.created_at FROM people p JOIN users u ON u.id = p.user_id
		WHERE u.email > $4 ORDER BY u.email LIMIT $5`, a.userID, a.admin(), id, after, limit+1)
	if err != nil {
		return fmt.Errorf("listing members: %w", err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowToStructByPos[memberView])
	if err != nil {
		return fmt.Errorf("listing members: %w", err)
	}
	return respondOK(w, r, page(members, limit, func(m memberView) string { return encodeCursor("members", m.Email) }))
}

// setMember is PUT /api/v1/missions/{id}/members.
func (s *Server) setMember(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Email string `json:"email"`
		Role  string `json:"role"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	email, ok := normalizeEmail(in.Email)
	if !ok {
		v.add("email", "not_an_email", "must be an e-mail address")
	}
	if in.Role != "editor" && in.Role != "viewer" {
		v.add("role", "unknown_value", "must be editor or viewer")
	}
	if err := v.err(); err != nil {
		return err
	}
	id := callOf(r).target.mission
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		m, err := t.mission(ctx, target{mission: id}, lockNoKeyUpdate, accessOwner)
		if err != nil {
			return reply{}, err
		}
		member, err := t.putMember(ctx, m, email, in.Role)
		return reply{status: http.StatusOK, body: member}, err
	})
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
		return member, invalidField("email", "unknown_account", "is nobody's who has an account here")
	}
	if err != nil {
		return member, fmt.Errorf("looking for an account: %w", err)
	}
	if member.UserID == m.OwnerID {
		return member, invalidField("email", "is_owner", "is the owner's; give the mission away with PATCH first")
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
		t.notify(member.UserID, m.ID, "", fmt.Sprintf("You are now %s of the mission %q.", role, m.Name))
	}
	return member, nil
}

// removeMember is DELETE /api/v1/missions/{id}/members/{user_id}.
func (s *Server) removeMember(w http.ResponseWriter, r *http.Request) error {
	id, userID := callOf(r).target.mission, strings.ToLower(r.PathValue("user_id"))
	if !validID(userID) {
		return errNotFound()
	}
	if err := decodeRequest(r, &struct{}{}); err != nil {
		return err
	}
	return s.write(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if _, err := t.mission(ctx, target{mission: id}, lockNoKeyUpdate, accessOwner); err != nil {
			return reply{}, err
		}
		tag, err := t.Exec(ctx, `DELETE FROM members WHERE mission_id = $1 AND user_id = $2`, id, userID)
		if err != nil {
			return reply{}, fmt.Errorf("removing a member: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return reply{}, errNotFound()
		}
		t.emit("member.removed", id, "", "", map[string]any{"user_id": userID})
		return reply{status: http.StatusNoContent}, nil
	})
}

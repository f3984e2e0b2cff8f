package main

import (
	"context"
	"errors"
	"fmt"
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
				SELECT user_id, role, created_at FROM members WHERE mission_id = mission.id AND email > $4 ORDER BY email LIMIT $5) b
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

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestListsAgreeWithPlainQueries compares pages of lists, which are found in
// several ways by what there is and who asks, with what plain queries find in a
// database that has enough for all of these.
func TestListsAgreeWithPlainQueries(t *testing.T) {
	t.Parallel()
	s := newGrownServer(t, filling{specs: 3 * walkedRows, beside: fewMissions + 100})
	specs := []listed{
		{"", "true"}, {"ready=true", readySQL}, {"ready=false", "NOT " + readySQL},
		{"status=planned", "h.status = 'planned'"},
		{"status=completed", "h.status = 'completed'"},
		{"status=deferred", "h.status = 'deferred'"}, {"status=blocked", "false"},
		{"tag=all", "'all' = ANY(s.tags)"}, {"tag=tenth", "'tenth' = ANY(s.tags)"}, {"tag=few", "'few' = ANY(s.tags)"},
		{"phase=P1", "s.phase = 'P1'"}, {"phase=Last", "s.phase = 'Last'"}, {"claimed=mine", "l.user_id = $1"},
		{"status=completed&tag=tenth", "h.status = 'completed' AND 'tenth' = ANY(s.tags)"},
		{"status=planned&phase=P1", "h.status = 'planned' AND s.phase = 'P1'"},
	}
	missions := []listed{
		{"", "true"}, {"status=active", "m.status = 'active'"}, {"status=archived", "m.status = 'archived'"},
		{"status=completed&tag=tenth", "m.status = 'completed' AND 'tenth' = ANY(m.tags)"},
		{"tag=all", "'all' = ANY(m.tags)"}, {"tag=tenth", "'tenth' = ANY(m.tags)"}, {"tag=few", "'few' = ANY(m.tags)"},
	}
	keys := map[string]string{"number": "s.number_order", "priority": "s.priority", "updated_at": "h.updated_at"}
	for _, by := range []string{"admin", "owner", "few"} {
		t.Run(by, func(t *testing.T) {
			c := s.by[by].in(t)
			for _, filter := range specs {
				for sort, key := range keys {
					s.compare(c, "/api/v1/specs", "s.id", sort, key, filter)
					if by == "owner" {
						s.compare(c, "/api/v1/specs", "s.id", sort, key, filter.within(idOf(s.wide)))
						s.compare(c, "/api/v1/specs", "s.id", sort, key, filter.within(idOf(s.chain)))
					}
				}
			}
			for _, filter := range missions {
				for _, sort := range []string{"name", "created_at", "updated_at"} {
					s.compare(c, "/api/v1/missions", "m.id", sort, "m."+sort, filter)
				}
			}
		})
	}
}

// listed is a filter of a list, and the same in SQL.
type listed struct{ query, sql string }

func (f listed) within(mission string) listed {
	return listed{f.query + "&mission_id=" + mission, f.sql + " AND m.id = '" + mission + "'"}
}

// compare fails the test unless the first two pages of a list, sorted up and
// down, have the ids that a plain query finds.
func (s *grownServer) compare(c *client, path, id, sort, column string, filter listed) {
	c.t.Helper()
	from := "missions m"
	if id == "s.id" {
		from = `missions m JOIN specs s ON s.mission_id = m.id JOIN spec_states h ON h.spec_id = s.id
			LEFT JOIN leases l ON l.spec_id = s.id`
	}
	for sign, direction := range map[string]string{"": "ASC", "-": "DESC"} {
		plain := fmt.Sprintf(`SELECT %s::text FROM %s WHERE %s AND %s ORDER BY %s %s, %[1]s %[6]s LIMIT 50`,
			id, from, readableSQL, filter.sql, column, direction)
		rows, err := s.db.Query(c.t.Context(), plain, c.user.ID, c.user.Role == "admin")
		if err != nil {
			c.t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			c.t.Fatal(err)
		}
		query := strings.TrimSuffix(path+"?limit=25&sort="+sign+sort+"&"+filter.query, "&")
		var got []string
		for at, pages := query, 0; at != "" && pages < 2; pages++ {
			a := c.get(at).want(http.StatusOK)
			var page list[struct{ ID string }]
			a.into(&page)
			for _, item := range page.Items {
				got = append(got, item.ID)
			}
			if at = ""; page.NextCursor != nil {
				at = query + "&cursor=" + url.QueryEscape(*page.NextCursor)
			}
		}
		if !slices.Equal(got, want) {
			c.t.Errorf("%s has %d items, want %d: %.200s, want %.200s", query, len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

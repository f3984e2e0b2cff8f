package main

// Attempts at a spec: what each lease came to, kept for whoever tries next.

// How an attempt ends.
const (
	attemptCompleted = "completed"
	attemptFailed    = "failed"
	attemptExpired   = "expired"
	attemptReleased  = "released"
	attemptTaken     = "taken" // by hand, or with the mission
)

// ending is how the attempt ends that a change to a spec ends, if there is one.
type ending struct{ outcome, notes string }

// openedSQL follows a claim's CTE spec, of the specs that it takes with their
// attempts. It gives each a lease, its CTE lease, and opens an attempt. An attempt
// that is still open an older server has left so when it ended the lease, since
// whoever holds a spec keeps it from being claimed. The parameters are the places
// of the mission, the account, the agent, the token and the lease's time.
func openedSQL(mission, user, agent, token, lasts string) string {
	return `newest AS (
			SELECT spec.spec_id, spec.attempts, a.number, a.number IS NOT NULL AND a.ended_at IS NULL AS left_open
			FROM spec LEFT JOIN LATERAL (
				SELECT number, ended_at FROM attempts WHERE spec_id = spec.spec_id ORDER BY number DESC LIMIT 1) a ON true
		), closed AS (
			UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'expired'
			WHERE spec_id = ANY(ARRAY(SELECT spec_id FROM newest WHERE left_open))
			  AND number = ANY(ARRAY(SELECT number FROM newest WHERE left_open)) AND ended_at IS NULL
		), lease AS (
			INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, number, expires_at, reported_at)
			SELECT spec_id, ` + mission + `, ` + user + `, ` + agent + `, ` + token + `, attempts, coalesce(number, 0) + 1,
			       clock_timestamp() + ` + lasts + `::interval, NULL
			FROM newest RETURNING spec_id, user_id, agent, attempt, number, claimed_at, expires_at
		), opened AS (
			INSERT INTO attempts (spec_id, number, agent, user_id, started_at)
			SELECT spec_id, number, agent, user_id, claimed_at FROM lease
		)`
}

// endLease ends the lease on a locked spec, if there is one, and its attempt. One
// that an older server has given gets its row now, and what that server may have
// left open below it is closed.
func (t *tx) endLease(specID string, how ending) {
	t.queue(`
		WITH lease AS (
			DELETE FROM leases WHERE spec_id = $1 RETURNING spec_id, number, agent, user_id, claimed_at
		), newest AS (
			SELECT number FROM attempts WHERE spec_id = $1 ORDER BY number DESC LIMIT 1
		), closed AS (
			UPDATE attempts SET ended_at = clock_timestamp(),
			       outcome = CASE WHEN (SELECT number FROM lease) IS NULL THEN 'expired' ELSE $2 END,
			       notes = CASE WHEN (SELECT number FROM lease) IS NULL THEN '' ELSE $3 END
			WHERE spec_id = $1 AND number = (SELECT coalesce(number, (SELECT number FROM newest)) FROM lease)
			  AND ended_at IS NULL
		)
		INSERT INTO attempts (spec_id, number, agent, user_id, started_at, ended_at, outcome, notes)
		SELECT spec_id, coalesce((SELECT number FROM newest), 0) + 1, agent, user_id, claimed_at, clock_timestamp(), $2, $3
		FROM lease WHERE number IS NULL`, specID, how.outcome, how.notes)
}

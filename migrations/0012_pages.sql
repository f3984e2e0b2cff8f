-- What pages need. Browsers sign in with a cookie instead of tokens. Such a session is one more
-- kind of those there are, so that whatever ends sessions ends it too; it has no
-- refresh tokens.
ALTER TABLE sessions ADD COLUMN cookie_hash bytea;  -- SHA-256 of the cookie; null for a session of tokens

CREATE UNIQUE INDEX sessions_cookie ON sessions (cookie_hash) WHERE cookie_hash IS NOT NULL;

-- A board shows what waits for other specs, however many are ready before it.
CREATE INDEX spec_states_unmet ON spec_states (mission_id, place, spec_id) WHERE status = 'planned' AND unmet > 0;

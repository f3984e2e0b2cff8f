-- Browsers sign in with a cookie instead of tokens. Such a session is one more
-- kind of those there are, so that whatever ends sessions ends it too; it has no
-- refresh tokens.
ALTER TABLE sessions ADD COLUMN cookie_hash bytea;  -- SHA-256 of the cookie; null for a session of tokens

CREATE UNIQUE INDEX sessions_cookie ON sessions (cookie_hash) WHERE cookie_hash IS NOT NULL;

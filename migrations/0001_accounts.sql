-- Who may use the server: accounts, their sessions and API keys, and the
-- secrets that all instances of the server share.

CREATE TABLE secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE users (
    id            uuid        PRIMARY KEY,
    email         text        NOT NULL COLLATE "C",   -- lower case
    name          text        NOT NULL,
    role          text        NOT NULL CHECK (role IN ('admin', 'user', 'viewer')),
    disabled      boolean     NOT NULL DEFAULT false,
    password_hash text        NOT NULL,               -- a PHC string
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT users_email_unique UNIQUE (email)
);

CREATE TABLE sessions (
    id         uuid        PRIMARY KEY,
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Every refresh token a session has had. A token is spent by its first use;
-- spent ones are kept, so that a second use is known for what it is.
CREATE TABLE refresh_tokens (
    hash       bytea       PRIMARY KEY,               -- SHA-256 of the token
    session_id uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    spent_at   timestamptz
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_spent ON refresh_tokens (spent_at);

CREATE TABLE api_keys (
    id           uuid        PRIMARY KEY,
    user_id      uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text        NOT NULL,
    scope        text        NOT NULL CHECK (scope IN ('read', 'write')),
    hash         bytea       NOT NULL UNIQUE,         -- SHA-256 of the key
    prefix       text        NOT NULL,                -- enough to recognise it by
    expires_at   timestamptz,
    last_used_at timestamptz,                         -- to the minute
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_keys_user ON api_keys (user_id);

-- Failed log-ins by account, whether or not the account exists, and the
-- addresses an account has logged in from, which its failures don't lock out.
CREATE TABLE login_failures (
    account  bytea       PRIMARY KEY,                 -- SHA-256 of the e-mail
    tokens   float8      NOT NULL,                    -- attempts left, as of since
    since    timestamptz NOT NULL
);
CREATE INDEX login_failures_since ON login_failures (since);

CREATE TABLE known_addresses (
    user_id uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    address text        NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, address)
);
CREATE INDEX known_addresses_seen ON known_addresses (seen_at);

-- Answers kept for 24 hours for requests that carry an Idempotency-Key.
CREATE TABLE idempotency_keys (
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    key        text        NOT NULL,
    request    bytea       NOT NULL,                  -- SHA-256 of method, target and body
    status     int,
    body       bytea,
    location   text,
    etag       text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

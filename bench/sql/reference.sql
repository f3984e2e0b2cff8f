-- The tables that pgbench and bare work on: missions, specs, leases and events
-- in the straightforward layout, one table for each kind of thing, with the
-- columns, indexes and fillfactors that the server's first release had. They
-- stay as they are when the server's own tables change, so that ratios of
-- different versions can be compared.

CREATE TABLE users (
    id uuid PRIMARY KEY
);

CREATE TABLE missions (
    id          uuid        PRIMARY KEY,
    owner_id    uuid        NOT NULL REFERENCES users,
    name        text        NOT NULL COLLATE "C",
    description text        NOT NULL,
    status      text        NOT NULL DEFAULT 'draft'
                CHECK (status IN ('draft', 'active', 'paused', 'completed', 'cancelled', 'archived')),
    tags        text[]      NOT NULL,
    metadata    json        NOT NULL,
    version     bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    search      tsvector    GENERATED ALWAYS AS (
                    setweight(to_tsvector('english', name), 'A') ||
                    setweight(to_tsvector('english', description), 'B')) STORED
);
CREATE INDEX missions_owner   ON missions (owner_id);
CREATE INDEX missions_created ON missions (created_at, id);
CREATE INDEX missions_updated ON missions (updated_at, id);
CREATE INDEX missions_name    ON missions (name, id);
CREATE INDEX missions_search  ON missions USING gin (search);

CREATE TABLE specs (
    id                uuid        PRIMARY KEY,
    mission_id        uuid        NOT NULL REFERENCES missions ON DELETE CASCADE,
    key               text        NOT NULL COLLATE "C",
    number            text        NOT NULL COLLATE "C",
    title             text        NOT NULL,
    phase             text        NOT NULL COLLATE "C",
    status            text        NOT NULL CHECK (status IN ('planned', 'in_progress', 'in_review',
                                  'testing', 'completed', 'blocked', 'deferred')),
    priority          smallint    NOT NULL CHECK (priority BETWEEN 0 AND 9),
    tags              text[]      NOT NULL,
    estimated_context text        NOT NULL,
    body              text        NOT NULL,
    derived_status    text        NOT NULL,
    done              boolean[]   NOT NULL,
    criteria_total    int         NOT NULL,
    criteria_done     int         NOT NULL,
    unmet             int         NOT NULL DEFAULT 0,
    attempts          int         NOT NULL DEFAULT 0,
    version           bigint      NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    path              text,
    source_hash       bytea,
    style             text        NOT NULL DEFAULT '',
    refs              text[],
    number_order      text        NOT NULL COLLATE "C" GENERATED ALWAYS AS (
                          lpad(substring(number from '^[0-9]*'), 16, '0') ||
                          substring(number from '^[0-9]*(.*)$')) STORED,
    search            tsvector    GENERATED ALWAYS AS (
                          setweight(to_tsvector('english', number || ' ' || key || ' ' || title), 'A') ||
                          setweight(to_tsvector('english', phase), 'B') ||
                          setweight(to_tsvector('english', left(body, 65536)), 'D')) STORED,
    CONSTRAINT specs_key_unique UNIQUE (mission_id, key)
) WITH (fillfactor = 80);
CREATE INDEX specs_ready    ON specs (mission_id, priority DESC, number_order, id)
    WHERE status = 'planned' AND unmet = 0;
CREATE INDEX specs_number   ON specs (mission_id, number_order, id);
CREATE INDEX specs_all_number   ON specs (number_order, id);
CREATE INDEX specs_all_priority ON specs (priority, id);
CREATE INDEX specs_all_updated  ON specs (updated_at, id);
CREATE INDEX specs_open     ON specs (mission_id) WHERE status NOT IN ('completed', 'deferred');
CREATE INDEX specs_search   ON specs USING gin (search);

CREATE TABLE dependencies (
    spec_id    uuid NOT NULL REFERENCES specs ON DELETE CASCADE,
    depends_on uuid NOT NULL REFERENCES specs,
    PRIMARY KEY (spec_id, depends_on)
);
CREATE INDEX dependencies_reverse ON dependencies (depends_on, spec_id);

CREATE TABLE leases (
    spec_id    uuid        PRIMARY KEY REFERENCES specs ON DELETE CASCADE,
    mission_id uuid        NOT NULL,
    user_id    uuid        NOT NULL REFERENCES users,
    agent      text        NOT NULL,
    token      text        NOT NULL,
    attempt    int         NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX leases_expiry  ON leases (expires_at);
CREATE INDEX leases_mission ON leases (mission_id, expires_at);
CREATE INDEX leases_user    ON leases (user_id);

CREATE TABLE heads (
    stream         uuid   PRIMARY KEY,
    seq            bigint NOT NULL DEFAULT 0,
    first_seq      bigint NOT NULL DEFAULT 1,
    planned        int    NOT NULL DEFAULT 0,
    in_progress    int    NOT NULL DEFAULT 0,
    in_review      int    NOT NULL DEFAULT 0,
    testing        int    NOT NULL DEFAULT 0,
    completed      int    NOT NULL DEFAULT 0,
    blocked        int    NOT NULL DEFAULT 0,
    deferred       int    NOT NULL DEFAULT 0,
    unblocked      int    NOT NULL DEFAULT 0,
    criteria_total int    NOT NULL DEFAULT 0,
    criteria_done  int    NOT NULL DEFAULT 0
) WITH (fillfactor = 40);

CREATE TABLE events (
    stream     uuid        NOT NULL,
    seq        bigint      NOT NULL,
    type       text        NOT NULL,
    mission_id uuid,
    spec_id    uuid,
    user_id    uuid,
    agent      text,
    at         timestamptz NOT NULL,
    data       json        NOT NULL,
    PRIMARY KEY (stream, seq)
);
CREATE INDEX events_age ON events USING brin (at);

-- The id of the i-th mission of a group, or of the j-th spec in it.
CREATE FUNCTION numbered_id(prefix text, i int, j int DEFAULT 0) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN (prefix || lpad(to_hex(i), 6, '0') || '-0000-7000-8000-' || lpad(to_hex(j), 12, '0'))::uuid;

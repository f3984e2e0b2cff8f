-- The work itself: missions, who shares them, their specs with what these
-- depend on, and who holds a spec right now.

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

CREATE TABLE members (
    mission_id uuid        NOT NULL REFERENCES missions ON DELETE CASCADE,
    user_id    uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    role       text        NOT NULL CHECK (role IN ('editor', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (mission_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

-- body is the text as it was given and isn't touched by progress: done says
-- how its criteria stand now, derived_status which status the text speaks of.
-- unmet counts the dependencies that aren't completed; with it the next ready
-- spec is the first row of an index, however many specs there are.
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

    -- What an import remembers of the file: its path, its hash, its style of
    -- header and its references, which are resolved anew when files join it.
    -- refs is null where the dependencies were set by hand.
    path              text,
    source_hash       bytea,
    style             text        NOT NULL DEFAULT '',
    refs              text[],

    -- Numbers as people sort them: 9, 31, 31a, 100.
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
    depends_on uuid NOT NULL CONSTRAINT dependencies_dependents REFERENCES specs,
    PRIMARY KEY (spec_id, depends_on)
);
CREATE INDEX dependencies_reverse ON dependencies (depends_on, spec_id);

-- One row while somebody holds a spec. Heartbeats write here and leave the
-- wide rows of specs alone.
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
CREATE INDEX leases_expiry ON leases (expires_at);
CREATE INDEX leases_mission ON leases (mission_id, expires_at);
CREATE INDEX leases_user   ON leases (user_id);

-- What work changes of a spec moves into a narrow table of its own. Until now
-- each claim, report and completion wrote a new version of the wide row of
-- specs, into all its indexes, the one for full-text search included: some
-- 7 KB of WAL each. A new version of a row of spec_states goes into four
-- indexes. (pgbench, 64 clients that claim and complete: 1.6 times as many,
-- with a fifth of the WAL.)
--
-- The old columns are dropped, so that an older server that still runs beside
-- this one fails instead of handing a spec out a second time: stop all
-- instances for this update. With 200,000 specs of 2 KB, 200,000 missions and
-- 4 million events it took 6 seconds on two cores.

-- done says how the criteria of the spec's body stand. unmet counts the
-- dependencies that aren't completed; with it the next ready spec is the first
-- row of an index, however many specs there are. cycle is how many specs
-- depend on each other in the circle that the spec is part of, 0 for none; it
-- is written where edges are, and for edges that are there already by the
-- program, after this file (see migrationSteps).
--
-- The columns from priority on are copies of the spec's own: claims and lists
-- filter and sort by them together with the status.
CREATE TABLE spec_states (
    spec_id      uuid        NOT NULL,
    mission_id   uuid        NOT NULL,
    status       text        NOT NULL COLLATE "C" CHECK (status IN ('planned', 'in_progress', 'in_review',
                             'testing', 'completed', 'blocked', 'deferred')),
    done         boolean[]   NOT NULL,
    unmet        int         NOT NULL DEFAULT 0,
    cycle        int         NOT NULL DEFAULT 0,
    attempts     int         NOT NULL DEFAULT 0,
    version      bigint      NOT NULL DEFAULT 1,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    priority     smallint    NOT NULL,
    number_order text        NOT NULL COLLATE "C",
    phase        text        NOT NULL COLLATE "C",
    tags         text[]      NOT NULL
) WITH (fillfactor = 80);

INSERT INTO spec_states (spec_id, mission_id, status, done, unmet, attempts, version, updated_at,
                         priority, number_order, phase, tags)
SELECT id, mission_id, status, done, unmet, attempts, version, updated_at, priority, number_order, phase, tags FROM specs;

ALTER TABLE spec_states ADD PRIMARY KEY (spec_id);
ALTER TABLE spec_states ADD CONSTRAINT spec_states_spec FOREIGN KEY (spec_id) REFERENCES specs ON DELETE CASCADE;

-- What is ready, as it is handed out: of all, of a phase, with a tag. A step
-- from or to another status writes to none of these. One GIN index serves a
-- tag of all missions, and a tag of one, whose id counts as one more tag.
CREATE INDEX spec_states_ready       ON spec_states (mission_id, priority DESC, number_order, spec_id)
    WHERE status = 'planned' AND unmet = 0;
CREATE INDEX spec_states_ready_phase ON spec_states (mission_id, phase, priority DESC, number_order, spec_id)
    WHERE status = 'planned' AND unmet = 0;
CREATE INDEX spec_states_ready_tags  ON spec_states USING gin (array_prepend(mission_id::text, tags)) WITH (fastupdate = off)
    WHERE status = 'planned' AND unmet = 0;
-- Lists of a status, and by the last change.
CREATE INDEX spec_states_status      ON spec_states (status, mission_id, number_order, spec_id);
CREATE INDEX spec_states_updated     ON spec_states (mission_id, updated_at, spec_id);
CREATE INDEX spec_states_all_updated ON spec_states (updated_at, spec_id);
-- The few that are part of a cycle.
CREATE INDEX spec_states_cycles      ON spec_states (mission_id) WHERE cycle > 0;

-- A lease holds a state: taking one leaves the wide row alone.
ALTER TABLE leases DROP CONSTRAINT leases_spec_id_fkey;
ALTER TABLE leases ADD CONSTRAINT leases_spec FOREIGN KEY (spec_id) REFERENCES spec_states ON DELETE CASCADE;

-- With the columns go specs_ready, specs_open and specs_all_updated.
ALTER TABLE specs DROP COLUMN status, DROP COLUMN done, DROP COLUMN criteria_total, DROP COLUMN criteria_done,
    DROP COLUMN unmet, DROP COLUMN attempts, DROP COLUMN version, DROP COLUMN updated_at;

-- Lists that are filtered or sorted by what the text says.
CREATE INDEX specs_priority     ON specs (mission_id, priority, id);
CREATE INDEX specs_phase        ON specs (phase, mission_id, number_order, id);
CREATE INDEX specs_tags         ON specs USING gin (array_prepend(mission_id::text, tags));
CREATE INDEX missions_status    ON missions (status, created_at, id);
CREATE INDEX missions_tags      ON missions USING gin (tags);

-- A mission's members are listed by their e-mails, which never change.
ALTER TABLE members ADD COLUMN email text COLLATE "C";
UPDATE members SET email = u.email FROM users u WHERE u.id = user_id;
ALTER TABLE members ALTER COLUMN email SET NOT NULL;
CREATE INDEX members_email ON members (mission_id, email);

-- The admins, who are locked before one of them loses rights.
CREATE INDEX users_role ON users (role);

-- Pruning goes to the streams whose oldest event has had its time. Until now
-- it looked for old events, and read all there are, since no index served it.
ALTER TABLE heads ADD COLUMN oldest_at timestamptz;  -- of the event first_seq; null where none is kept
UPDATE heads SET oldest_at = e.at FROM events e WHERE e.stream = heads.stream AND e.seq = heads.first_seq;
CREATE INDEX heads_oldest ON heads (oldest_at);
DROP INDEX events_age;

-- How much there is of everything, counted by the sweep every 15 seconds:
-- metrics read one row instead of one for each mission.
CREATE TABLE totals (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    counted_at  timestamptz NOT NULL,
    missions    bigint[]    NOT NULL,   -- by status, in the order of the program's list
    specs       bigint[]    NOT NULL,   -- likewise
    ready       bigint      NOT NULL,
    leases      bigint      NOT NULL,
    oldest_claim timestamptz            -- null where nothing is held
);

ANALYZE spec_states;

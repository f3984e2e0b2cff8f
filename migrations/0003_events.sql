-- The event log. A stream (one a mission, one a user, one for the server
-- itself) has a head row that hands out its numbers: the row stays locked from
-- the update until the commit, so events become visible in the order of their
-- numbers and without a gap. The head also carries a mission's counters.
--
-- No foreign keys: the last event of a deleted mission is still delivered.

CREATE TABLE heads (
    stream         uuid   PRIMARY KEY,
    seq            bigint NOT NULL DEFAULT 0,         -- of the newest event
    first_seq      bigint NOT NULL DEFAULT 1,         -- of the oldest one kept
    planned        int    NOT NULL DEFAULT 0,
    in_progress    int    NOT NULL DEFAULT 0,
    in_review      int    NOT NULL DEFAULT 0,
    testing        int    NOT NULL DEFAULT 0,
    completed      int    NOT NULL DEFAULT 0,
    blocked        int    NOT NULL DEFAULT 0,
    deferred       int    NOT NULL DEFAULT 0,
    unblocked      int    NOT NULL DEFAULT 0,         -- planned, nothing unmet: ready once the mission is active
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
-- Rows come in the order of their time, so a small BRIN index finds old ones.
CREATE INDEX events_age ON events USING brin (at);

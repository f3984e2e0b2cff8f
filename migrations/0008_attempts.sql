-- What an attempt at a spec came to stays. Until now nobody saw why the one
-- before had failed: a lease was deleted when it ended, and its event is pruned.
--
-- number counts a spec's attempts up for ever, while spec_states.attempts and
-- leases.attempt are those that MAX_ATTEMPTS bounds. A row is made with the
-- lease and closed where that ends. Reports and the close leave the primary key
-- alone, so that their new versions stay on the page.
CREATE TABLE attempts (
    id            uuid        NOT NULL DEFAULT gen_random_uuid(),
    spec_id       uuid        NOT NULL CONSTRAINT attempts_spec REFERENCES spec_states ON DELETE CASCADE,
    number        int         NOT NULL,
    agent         text        NOT NULL,
    user_id       uuid        NOT NULL,   -- accounts are never deleted
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz,            -- null while the lease lasts
    outcome       text        CHECK (outcome IN ('completed', 'submitted', 'failed', 'expired', 'released', 'parked', 'taken')),
    notes         text        NOT NULL DEFAULT '',
    message       text        NOT NULL DEFAULT '',   -- of the last report that had one
    checked       int[]       NOT NULL DEFAULT '{}', -- criteria that it has checked
    links         jsonb       NOT NULL DEFAULT '[]',
    verdict       text        CHECK (verdict IN ('approve', 'reject')),
    verdict_notes text        NOT NULL DEFAULT '',
    verdict_by    uuid,
    verdict_at    timestamptz,
    PRIMARY KEY (spec_id, number),
    CONSTRAINT attempts_ended CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT attempts_verdict CHECK ((verdict IS NULL) = (verdict_at IS NULL))
) WITH (fillfactor = 70);

-- The attempt of a lease. Null: the lease is older than this migration, or an
-- older server beside this one has given it, and its row is made later: when it
-- ends, at the latest.
ALTER TABLE leases ADD COLUMN number int;

-- The links of the newest attempt that has some.
ALTER TABLE specs ADD COLUMN links jsonb NOT NULL DEFAULT '[]';

-- Work that somebody found waits, as proposed, until a person takes it into the
-- mission or puts it off. The mission's triage says whether what agents file does.
--
-- With 200,000 specs and 100,000 missions it took 0.4 s on two cores: the CHECK and
-- the indexes read spec_states and heads once each, under locks that writes wait
-- for. Nothing is rewritten but the specs that are in review.
--
-- An older server beside this one doesn't count what is proposed, and can't change
-- it: nothing may be proposed while one runs. The start counts anew (see sweep.go).

ALTER TABLE spec_states DROP CONSTRAINT spec_states_status_check;
ALTER TABLE spec_states ADD CONSTRAINT spec_states_status_check CHECK (status IN ('proposed', 'planned',
    'in_progress', 'in_review', 'testing', 'completed', 'blocked', 'deferred'));

-- proposed_by is who filed a spec that is proposed. waits_since is when it last
-- began to wait for a person, which it does while it is proposed or in review.
ALTER TABLE spec_states
    ADD COLUMN proposed_by uuid,
    ADD COLUMN waits_since timestamptz;
UPDATE spec_states SET waits_since = updated_at WHERE status = 'in_review';
CREATE INDEX spec_states_proposed ON spec_states (mission_id, proposed_by) WHERE status = 'proposed';
CREATE INDEX spec_states_waiting  ON spec_states (waits_since) WHERE status IN ('proposed', 'in_review');

ALTER TABLE heads ADD COLUMN proposed int NOT NULL DEFAULT 0;
CREATE INDEX heads_proposed ON heads (stream) WHERE proposed <> 0;

ALTER TABLE missions ADD COLUMN triage boolean NOT NULL DEFAULT true;

-- How many specs the holder of a lease has filed.
ALTER TABLE leases ADD COLUMN filed smallint NOT NULL DEFAULT 0;

-- Since when the spec has waited that a person is to look at first.
ALTER TABLE totals ADD COLUMN oldest_waiting timestamptz;

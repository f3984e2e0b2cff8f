-- An agent that lacks one fact could only fail. It can ask now, and go on
-- waiting, or give the spec back until somebody has answered.
--
-- number is the attempt's that asked. Ids rise with time, so that they order
-- lists. A parked question has given the spec back.
CREATE TABLE questions (
    id          uuid        PRIMARY KEY,
    mission_id  uuid        NOT NULL,
    spec_id     uuid        NOT NULL CONSTRAINT questions_spec REFERENCES spec_states ON DELETE CASCADE,
    number      int         NOT NULL,
    question    text        NOT NULL,
    options     text[]      NOT NULL,
    parked      boolean     NOT NULL DEFAULT false,
    state       text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'answered', 'withdrawn')),
    answer      text,
    answered_by uuid,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    answered_at timestamptz,
    CONSTRAINT questions_answered CHECK ((state = 'answered') = (answer IS NOT NULL AND answered_at IS NOT NULL))
);
CREATE INDEX questions_attempt ON questions (spec_id, number, id);
CREATE INDEX questions_open    ON questions (spec_id) WHERE state = 'open';
CREATE INDEX questions_mission ON questions (mission_id, state, id);
CREATE INDEX questions_state   ON questions (state, id);

-- How many open questions a spec has: most have none, and a step of these need
-- not look for what it withdraws.
ALTER TABLE spec_states ADD COLUMN asked int NOT NULL DEFAULT 0;

-- Those who are told that something waits for a person.
CREATE INDEX members_editors ON members (mission_id, email) WHERE role = 'editor';

-- When the oldest open question was asked, for the metrics.
ALTER TABLE totals ADD COLUMN oldest_question timestamptz;

-- Whether a person looks at what agents have finished, before it counts as done:
-- what a mission says, and what a spec may say otherwise.
--
-- With 200,000 specs and 100,000 missions it took 0.3 s on two cores. Columns
-- with a constant default rewrite nothing; the CHECKs and the index read both
-- tables once, under locks that writes wait for.
--
-- An older server beside this one completes past a review: nothing may ask for one
-- while one runs.

-- max_in_review bounds how many specs wait for review, with those that are held and
-- will: 0 is no bound.
ALTER TABLE missions
    ADD COLUMN review        text NOT NULL DEFAULT 'none' CHECK (review IN ('none', 'human')),
    ADD COLUMN max_in_review int  NOT NULL DEFAULT 0;

-- review is null where the mission's counts. approved_by is the account whose word
-- completed the spec, where it took a person's.
ALTER TABLE spec_states
    ADD COLUMN review      text CHECK (review IN ('none', 'human')),
    ADD COLUMN approved_by uuid;
CREATE INDEX spec_states_human ON spec_states (mission_id) WHERE review = 'human';

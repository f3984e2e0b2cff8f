-- Files of other tools come in. What identifies a spec of an import is its path;
-- until now it was the file's name, and one file could replace another.
--
-- The criteria of a spec are known by their positions in its text, so a text keeps
-- the rules that it was read by: those of the first version for all that is there
-- already, until it is next written. An older server would count by its own rules,
-- so it must not run beside this one: it fails, since the column number_order gives
-- way to place. Stop all instances for this update.

-- rules says how criteria are found in the body: 1 by the first version's rules, 2
-- by sections, 3 all boxes. file_id is what a file calls itself. ref_lines has the
-- line of each of refs. documents are the paths of what belongs to the spec beside
-- its file. file_warnings are what its text is at fault with, ref_warnings which of
-- refs are no dependencies; both are what clients see.
ALTER TABLE specs
    ADD COLUMN rules         smallint NOT NULL DEFAULT 1,
    ADD COLUMN file_id       text     NOT NULL DEFAULT '' COLLATE "C",
    ADD COLUMN ref_lines     int[],
    ADD COLUMN documents     text[]   NOT NULL DEFAULT '{}',
    ADD COLUMN file_warnings json     NOT NULL DEFAULT '[]',
    ADD COLUMN ref_warnings  json     NOT NULL DEFAULT '[]';

-- place is where a spec stands among others: by the parts of its number, 1.2 before
-- 1.10, then by its path as people sort it. Each run of digits is filled up to 16 with
-- zeros. It has at most 512 bytes.
ALTER TABLE specs DROP COLUMN number_order;
ALTER TABLE specs ADD COLUMN place text NOT NULL COLLATE "C" GENERATED ALWAYS AS (left(
    regexp_replace(regexp_replace(translate(number, '-', '.') || ' ' || coalesce(path, key),
        '([0-9]+)', '000000000000000\1', 'g'), '[0-9]*([0-9]{16})', '\1', 'g'),
    CASE WHEN octet_length(number || coalesce(path, key)) = char_length(number || coalesce(path, key)) THEN 512 ELSE 128 END)) STORED;

-- ahead says that a spec comes before others of its priority.
ALTER TABLE spec_states DROP COLUMN number_order;
ALTER TABLE spec_states
    ADD COLUMN ahead boolean NOT NULL DEFAULT false,
    ADD COLUMN place text    NOT NULL DEFAULT '' COLLATE "C";
UPDATE spec_states h SET place = s.place FROM specs s WHERE s.id = h.spec_id;
ALTER TABLE spec_states ALTER COLUMN place DROP DEFAULT;

-- The indexes that went with number_order.
CREATE UNIQUE INDEX specs_path_unique  ON specs (mission_id, path);
CREATE INDEX specs_number              ON specs (mission_id, place, id);
CREATE INDEX specs_all_number          ON specs (place, id);
CREATE INDEX specs_phase               ON specs (phase, mission_id, place, id);
CREATE INDEX spec_states_ready         ON spec_states (mission_id, priority DESC, ahead DESC, place, spec_id)
    WHERE status = 'planned' AND unmet = 0;
CREATE INDEX spec_states_ready_phase   ON spec_states (mission_id, phase, priority DESC, ahead DESC, place, spec_id)
    WHERE status = 'planned' AND unmet = 0;
CREATE INDEX spec_states_status        ON spec_states (status, mission_id, place, spec_id);

ANALYZE specs, spec_states;

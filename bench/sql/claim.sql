-- One agent's claim and complete, each a transaction, without reading anything
-- back: the mission's lock, the next ready spec, the lease, the event.
\set i random(1, :missions)
SELECT numbered_id('c0', :i::int) AS mission \gset
BEGIN;
SELECT status FROM missions WHERE id = :mission::uuid FOR NO KEY UPDATE;
UPDATE specs SET status = 'in_progress', attempts = attempts + 1, version = version + 1, updated_at = clock_timestamp()
WHERE id = (
    SELECT id FROM specs WHERE mission_id = :mission::uuid AND status = 'planned' AND unmet = 0
    ORDER BY priority DESC, number_order, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id AS spec \gset
INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, expires_at)
VALUES (:spec::uuid, :mission::uuid, :owner, 'a', 'lt_x', 1, clock_timestamp() + interval '5 min');
WITH head AS (
    UPDATE heads SET seq = seq + 1, planned = planned - 1, unblocked = unblocked - 1, in_progress = in_progress + 1
    WHERE stream = :mission::uuid RETURNING seq)
INSERT INTO events (stream, seq, type, mission_id, spec_id, user_id, agent, at, data)
SELECT :mission::uuid, seq, 'spec.claimed', :mission::uuid, :spec::uuid, :owner, 'a', clock_timestamp(),
       '{"attempt": 1}'
FROM head;
COMMIT;
BEGIN;
SELECT status FROM missions WHERE id = :mission::uuid FOR NO KEY UPDATE;
UPDATE specs SET status = 'completed', version = version + 1, updated_at = clock_timestamp() WHERE id = :spec::uuid;
DELETE FROM leases WHERE spec_id = :spec::uuid;
WITH head AS (
    UPDATE heads SET seq = seq + 1, in_progress = in_progress - 1, completed = completed + 1
    WHERE stream = :mission::uuid RETURNING seq)
INSERT INTO events (stream, seq, type, mission_id, spec_id, user_id, agent, at, data)
SELECT :mission::uuid, seq, 'spec.completed', :mission::uuid, :spec::uuid, :owner, 'a', clock_timestamp(),
       '{"from": "in_progress"}'
FROM head;
COMMIT;

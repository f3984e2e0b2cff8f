-- A new mission with its head and its first event.
BEGIN;
INSERT INTO missions (id, owner_id, name, description, tags, metadata)
VALUES (gen_random_uuid(), :owner, 'Load', 'A mission of the load test.', '{a,b}', '{"team": "perf"}')
RETURNING id AS mission \gset
WITH head AS (INSERT INTO heads (stream, seq) VALUES (:mission::uuid, 1) RETURNING seq)
INSERT INTO events (stream, seq, type, mission_id, user_id, at, data)
SELECT :mission::uuid, seq, 'mission.created', :mission::uuid, :owner, clock_timestamp(), '{"name": "Load"}' FROM head;
COMMIT;

-- Log entries of a mission, as many as :entries says, in one commit.
\set i random(1, :missions)
WITH head AS (
    UPDATE heads SET seq = seq + :entries::int WHERE stream = numbered_id('b0', :i::int) RETURNING stream, seq)
INSERT INTO events (stream, seq, type, mission_id, user_id, at, data)
SELECT stream, seq - :entries::int + n, 'log', stream, :owner, clock_timestamp(),
       '{"level": "info", "message": "compiled, and ran the tests: all pass"}'
FROM head, generate_series(1, :entries::int) n;

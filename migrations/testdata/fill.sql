-- Much of everything, for the tests and benchmarks that ask what a database
-- with many rows costs. :'owner' is the account that gets the missions "Wide",
-- in which many specs are ready, and "Chain", in which each spec depends on the
-- one before it, with :specs specs each; beside them come :beside missions of
-- one spec, accounts, and what else a server gathers.

-- Ids grow, as those that the program makes do.
CREATE FUNCTION pg_temp.id(kind text, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008' || left(md5(kind || n), 15))::uuid $$;

INSERT INTO users (id, email, name, role, password_hash, created_at)
SELECT pg_temp.id('user', n), 'user' || n || '@example.com', 'User ' || n, 'user', '', now() - n * interval '1 s'
FROM generate_series(1, :beside) AS n;
INSERT INTO sessions (id, user_id, expires_at)
SELECT pg_temp.id('session', n), pg_temp.id('user', n), now() + n * interval '1 min' FROM generate_series(1, :beside) AS n;
INSERT INTO refresh_tokens (hash, session_id, spent_at)
SELECT sha256(n::text::bytea), pg_temp.id('session', n), CASE WHEN n % 2 = 0 THEN now() END FROM generate_series(1, :beside) AS n;
INSERT INTO api_keys (id, user_id, name, scope, hash, prefix)
SELECT pg_temp.id('key', n), pg_temp.id('user', n), 'key', 'write', sha256(n::text::bytea), 'tk_' FROM generate_series(1, :beside) AS n;
INSERT INTO login_failures (account, tokens, since)
SELECT sha256(n::text::bytea), 1, now() FROM generate_series(1, :beside) AS n;
INSERT INTO known_addresses (user_id, address, seen_at)
SELECT pg_temp.id('user', n), '192.0.2.1', now() FROM generate_series(1, :beside) AS n;
INSERT INTO idempotency_keys (user_id, key, request, status, body)
SELECT pg_temp.id('user', n), 'key', '\x', 200, '{}' FROM generate_series(1, :beside) AS n;

-- Five missions are archived, a few have the tag few, a tenth the tag tenth.
INSERT INTO missions (id, owner_id, name, description, status, tags, metadata, created_at, updated_at)
SELECT pg_temp.id('mission', n), :'owner'::uuid, 'Mission ' || n, CASE WHEN n % (:beside / 4) = 7 THEN 'an uncommon one' ELSE 'as any other' END,
       CASE WHEN n <= 5 THEN 'archived' WHEN n % 4 = 0 THEN 'completed' ELSE 'active' END,
       array_remove(ARRAY['all', CASE WHEN n % 10 = 0 THEN 'tenth' END, CASE WHEN n <= 3 THEN 'few' END], NULL), '{}'::json,
       now() - n * interval '1 s', now() - (n * 7919 % :beside) * interval '1 s'
FROM generate_series(1, :beside) AS n
UNION ALL
SELECT pg_temp.id(name, 0), :'owner'::uuid, name, 'a large one', 'active', '{all}', '{}', now() - interval '1 day', now() - interval '1 day'
FROM unnest('{Wide,Chain}'::text[]) AS name;
INSERT INTO members (mission_id, user_id, role, email)
SELECT pg_temp.id('mission', n), pg_temp.id('user', n), 'viewer', 'user' || n || '@example.com' FROM generate_series(1, :beside) AS n
UNION ALL
SELECT pg_temp.id('Wide', 0), pg_temp.id('user', n), 'editor', 'user' || n || '@example.com' FROM generate_series(1, :beside, 10) AS n;

INSERT INTO specs (id, mission_id, key, number, title, phase, priority, tags, estimated_context, body, derived_status, path, source_hash)
SELECT pg_temp.id(mission || 's', n), CASE mission WHEN 'mission' THEN pg_temp.id('mission', n) ELSE pg_temp.id(mission, 0) END,
       'k' || n, n::text, 'Spec ' || n, CASE WHEN n <= 3 THEN 'Last' ELSE 'P' || n % 20 END, n % 10,
       array_remove(ARRAY['all', CASE WHEN n % 10 = 0 THEN 'tenth' END, CASE WHEN n % (many / 4) = 1 THEN 'few' END], NULL), '',
       E'## Acceptance Criteria\n\n- [ ] one\n- [x] two\n\nIt is common. ' || CASE WHEN n % (many / 4) = 1 THEN 'Seldom. ' ELSE '' END ||
       (SELECT string_agg(md5((n * 100 + word)::text), ' ') FROM generate_series(1, 8) AS word), 'planned',
       'k' || n || '.md', sha256(n::text::bytea)
FROM (VALUES ('mission', :beside), ('Wide', :specs), ('Chain', :specs)) AS kinds (mission, many), generate_series(1, many) AS n;

-- Of Wide, and of what is beside, half is completed, three are deferred, twenty held, and
-- a tenth is blocked or in review; of Chain the first spec is ready.
INSERT INTO dependencies (spec_id, depends_on)
SELECT pg_temp.id('Chains', n), pg_temp.id('Chains', n - 1) FROM generate_series(2, :specs) AS n
UNION ALL
SELECT pg_temp.id('Wides', n), pg_temp.id('Wides', n - 1) FROM generate_series(2, :specs, 2) AS n;
INSERT INTO spec_states (spec_id, mission_id, status, done, unmet, priority, place, phase, tags, updated_at)
SELECT id, mission_id, CASE
           WHEN mission_id = pg_temp.id('Chain', 0) THEN 'planned'
           WHEN number::int <= 3 THEN 'deferred' WHEN number::int <= 23 THEN 'in_progress'
           WHEN number::int % 20 = 14 THEN 'blocked' WHEN number::int % 20 = 18 THEN 'in_review'
           WHEN number::int % 4 < 2 THEN 'completed' ELSE 'planned' END,
       '{false,true}', CASE WHEN mission_id = pg_temp.id('Chain', 0) AND number <> '1' THEN 1 ELSE 0 END,
       priority, place, phase, tags, now() - (number::int * 7919 % :specs) * interval '1 s'
FROM specs;
UPDATE spec_states SET waits_since = updated_at WHERE status = 'in_review';
INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, expires_at)
SELECT spec_id, mission_id, :'owner'::uuid, 'bot', 'lt_' || spec_id, 1, now() + interval '1 day' FROM spec_states WHERE status = 'in_progress';

-- Each spec that was worked on has an attempt, a tenth of them with an answered
-- question, and what is held an open one.
INSERT INTO attempts (spec_id, number, agent, user_id, started_at, ended_at, outcome, notes)
SELECT spec_id, 1, 'bot', :'owner'::uuid, now(), CASE WHEN status <> 'in_progress' THEN now() END,
       CASE status WHEN 'completed' THEN 'completed' WHEN 'in_review' THEN 'submitted' WHEN 'blocked' THEN 'failed' END, 'done'
FROM spec_states WHERE status IN ('in_progress', 'in_review', 'blocked', 'completed');
UPDATE leases SET number = 1;
INSERT INTO questions (id, mission_id, spec_id, number, question, options, state, answer, answered_by, answered_at)
SELECT pg_temp.id('question', (row_number() OVER ())::int), spec_states.mission_id, spec_id, 1, 'Which one?', '{}', CASE status WHEN 'completed' THEN 'answered' ELSE 'open' END,
       CASE status WHEN 'completed' THEN 'this' END, :'owner'::uuid, CASE status WHEN 'completed' THEN now() END
FROM spec_states JOIN specs ON id = spec_id WHERE status = 'in_progress' OR status = 'completed' AND number::int % 10 = 0;
UPDATE spec_states SET asked = 1 WHERE status = 'in_progress';

INSERT INTO events (stream, seq, type, mission_id, spec_id, at, data)
SELECT mission_id, row_number() OVER (PARTITION BY mission_id ORDER BY spec_id), 'spec.created', mission_id, spec_id, now(), '{}' FROM spec_states;
INSERT INTO heads (stream, seq, oldest_at, planned, in_progress, in_review, blocked, completed, deferred, unblocked,
                   criteria_total, criteria_done)
SELECT mission_id, count(*), now(), count(*) FILTER (WHERE status = 'planned'), count(*) FILTER (WHERE status = 'in_progress'),
       count(*) FILTER (WHERE status = 'in_review'), count(*) FILTER (WHERE status = 'blocked'),
       count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'deferred'),
       count(*) FILTER (WHERE status = 'planned' AND unmet = 0), 2 * count(*), count(*)
FROM spec_states GROUP BY mission_id;
DROP FUNCTION pg_temp.id;

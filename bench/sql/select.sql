-- A mission with its counters.
\set i random(1, :missions)
SELECT m.id, m.name, m.description, m.status, m.tags, m.metadata, m.owner_id, m.version, m.created_at, m.updated_at,
       h.planned, h.in_progress, h.in_review, h.testing, h.completed, h.blocked, h.deferred, h.unblocked,
       h.criteria_total, h.criteria_done
FROM missions m JOIN heads h ON h.stream = m.id
WHERE m.id = numbered_id('b0', :i::int);

-- When the holder of a lease first reported something. Until then it may never
-- have got the answer that gave it the lease: claim_spec tells it of that one
-- before it gives it another.
--
-- Of leases that are there already nobody knows, and the versions before this
-- one don't say: for them the default says that their holders know of them.
ALTER TABLE leases ADD COLUMN reported_at timestamptz DEFAULT clock_timestamp();

CREATE INDEX leases_unreported ON leases (mission_id, user_id, agent, claimed_at) WHERE reported_at IS NULL;

-- What waits for a person was sought among all specs by their last change, a thousand
-- of them, and where that didn't fill a page by reading all that waits: 0.2 s beside
-- 100,000 blocked specs.
--
-- It takes a second for a million specs. Only a spec that begins or ceases to wait
-- writes to these indexes.

CREATE INDEX spec_states_needs     ON spec_states (mission_id, updated_at, spec_id)
    WHERE status IN ('proposed', 'in_review', 'blocked');
CREATE INDEX spec_states_all_needs ON spec_states (updated_at, spec_id)
    WHERE status IN ('proposed', 'in_review', 'blocked');

-- What needs a person was sought among all specs by their last change, a thousand of
-- them, and where that didn't fill a page by reading all of it: 0.2 s beside 100,000
-- blocked specs.
--
-- With a million specs, a fifth of them in the indexes, it took 0.9 s, while writes to
-- spec_states wait. Only changes of specs that need a person write to these indexes.

CREATE INDEX spec_states_needs     ON spec_states (mission_id, updated_at, spec_id)
    WHERE status IN ('proposed', 'in_review', 'blocked');
CREATE INDEX spec_states_all_needs ON spec_states (updated_at, spec_id)
    WHERE status IN ('proposed', 'in_review', 'blocked');

-- What people said when they moved a spec by hand, and why criteria stayed open, was
-- only in events, which are pruned: neither the next agent nor a reviewer saw it.
--
-- It takes an instant: columns with a constant default, or without one, rewrite nothing.
-- A step that an older server beside this one takes is only in its event, as before.

-- The last step by hand of which something was said, as decisionView has it; null: none.
ALTER TABLE specs ADD COLUMN decision jsonb;

-- Why criteria were still open when the attempt completed the spec; '': they weren't.
ALTER TABLE attempts ADD COLUMN override text NOT NULL DEFAULT '';

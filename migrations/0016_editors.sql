-- Who looks on at thousands of missions and decides in few has these found by an index.
-- It took 0.03 s with 220,000 members, while writes to members wait.

CREATE INDEX members_edits ON members (user_id, mission_id) WHERE role = 'editor';

-- The queue: a submission that can be repeated, and what still waits.

-- The client's own name for its submission: a client that did not hear the answer asks again with
-- the same one and is told of the same run. NULL where the client gave none.
ALTER TABLE run ADD COLUMN request TEXT;
CREATE UNIQUE INDEX run_by_request ON run (submitter, request) WHERE request IS NOT NULL;

-- All that is not over: a handful among many.
CREATE INDEX run_unfinished ON run (submitted_at, id) WHERE state <> 'finished';

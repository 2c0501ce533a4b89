-- Shapes of load: what became of connections that were replaced while they were held.

-- Established flows that were closed before the end, and those that a client opened in their place.
-- What was stored before had none.
ALTER TABLE trial_end ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trial_end ADD COLUMN churned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN churned INTEGER NOT NULL DEFAULT 0;

-- Rounds on held connections: begun, answered, late or left out.
ALTER TABLE trial_end ADD COLUMN rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trial_end ADD COLUMN answered_rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trial_end ADD COLUMN late_rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN answered_rounds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN late_rounds INTEGER NOT NULL DEFAULT 0;
-- JSON: how long answered ones took, time in microseconds and count in turn; NULL where there were none.
ALTER TABLE trial_end ADD COLUMN round_trips TEXT CHECK (round_trips IS NULL OR json_valid(round_trips));

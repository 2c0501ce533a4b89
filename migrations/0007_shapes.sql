-- Shapes of load: what became of connections that were replaced while they were held.

-- Established flows that were closed before the end, and those that a client opened in their place.
-- What was stored before had none.
ALTER TABLE trial_end ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE trial_end ADD COLUMN churned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sample ADD COLUMN churned INTEGER NOT NULL DEFAULT 0;

-- Timing: how long connects took, whether they began at the plan's rate, and together.

-- JSON: connects asked per second, full seconds and those of them that were seen, connects begun in the
-- second that was furthest off, and by how much (parts in a million). Made from the samples when the
-- trial was closed; NULL without a rate, and where no full second was seen.
ALTER TABLE trial ADD COLUMN ramp TEXT CHECK (ramp IS NULL OR json_valid(ramp));

-- When Go was, on the host's own CLOCK_BOOTTIME, in nanoseconds; first_micros counts from it.
ALTER TABLE trial_end ADD COLUMN go_nanos INTEGER;

-- JSON: which clock that is (the kernel's boot id), the controller's clock minus it, and to within how
-- much that is known, in nanoseconds.
ALTER TABLE trial_end ADD COLUMN clock TEXT CHECK (clock IS NULL OR json_valid(clock));

-- JSON: for each tenth of its flows that were established when a connect began, the times that connects
-- took, as a flat list: time (us), count, time, count, ...; only steps that were hit. Of clients.
ALTER TABLE trial_end ADD COLUMN connect_times TEXT CHECK (connect_times IS NULL OR json_valid(connect_times));

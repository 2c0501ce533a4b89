-- Evidence: what the applications and the kernels of both ends said of each trial.
--
--     run_case --< trial --< trial_end --< reading, failure
--                                     '--- census (none where no kernel was counted)
--
-- Rows per trial: one, and per end some 130 (two readings of about 60 names, its failures by class).
-- Their number does not grow with the connections.

-- One repetition of a case that was begun.
CREATE TABLE trial (
    run         TEXT    NOT NULL,
    case_index  INTEGER NOT NULL,
    -- From 0.
    trial_index INTEGER NOT NULL,
    -- Whether it went through all its phases (0 or 1).
    whole       INTEGER NOT NULL CHECK (whole IN (0, 1)),
    -- JSON: what is missing, in words; an empty list where nothing is.
    gaps        TEXT    NOT NULL CHECK (json_valid(gaps)),
    PRIMARY KEY (run, case_index, trial_index),
    FOREIGN KEY (run, case_index) REFERENCES run_case (run, case_index) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- One end of a trial: an agent's host, with its application's own words. NULL is "not said".
CREATE TABLE trial_end (
    -- What reading, failure and census refer to; of no meaning outside this file.
    id              INTEGER NOT NULL PRIMARY KEY,
    run             TEXT    NOT NULL,
    case_index      INTEGER NOT NULL,
    trial_index     INTEGER NOT NULL,
    -- The place in the schedule, from 0.
    position        INTEGER NOT NULL,
    agent           TEXT    NOT NULL,
    role            TEXT    NOT NULL CHECK (role IN ('server', 'client')),
    -- Counters: flows begun, answered by the other application, still held, begun late, strangers.
    attempted       INTEGER NOT NULL,
    established     INTEGER NOT NULL,
    held            INTEGER NOT NULL,
    late            INTEGER NOT NULL,
    strangers       INTEGER NOT NULL,
    -- From Go to the first connect, and to the last established flow.
    first_micros    INTEGER,
    last_micros     INTEGER,
    -- The worker's CPU time, and its proportional set size when ready and at the plateau.
    cpu_micros      INTEGER,
    pss_ready_bytes INTEGER,
    pss_bytes       INTEGER,
    -- How many connects were tried beyond the schedule's four-tuples; NULL where none was to be.
    beyond_tried    INTEGER,
    -- Whether the kernel's counters were read before the trial and at the census (0 or 1).
    read_before     INTEGER NOT NULL CHECK (read_before IN (0, 1)),
    read_after      INTEGER NOT NULL CHECK (read_after IN (0, 1)),
    samples_missing INTEGER NOT NULL,
    UNIQUE (run, case_index, trial_index, agent),
    FOREIGN KEY (run, case_index, trial_index)
        REFERENCES trial (run, case_index, trial_index) ON DELETE CASCADE
) STRICT;

-- One of a kernel's own counters, under the kernel's own name (TcpExt.ListenOverflows).
CREATE TABLE reading (
    trial_end INTEGER NOT NULL REFERENCES trial_end (id) ON DELETE CASCADE,
    moment    TEXT    NOT NULL CHECK (moment IN ('before', 'after')),
    name      TEXT    NOT NULL,
    value     INTEGER NOT NULL,
    PRIMARY KEY (trial_end, moment, name)
) STRICT, WITHOUT ROWID;

-- Flows that failed, by the system call and its error.
CREATE TABLE failure (
    trial_end INTEGER NOT NULL REFERENCES trial_end (id) ON DELETE CASCADE,
    -- 'load': flows of the schedule. 'beyond': the one connect more, which is to be refused.
    during    TEXT    NOT NULL CHECK (during IN ('load', 'beyond')),
    position  INTEGER NOT NULL,
    call      TEXT    NOT NULL,
    error     TEXT    NOT NULL,
    count     INTEGER NOT NULL,
    PRIMARY KEY (trial_end, during, position)
) STRICT, WITHOUT ROWID;

-- What one host's kernel counted at the end of the hold.
CREATE TABLE census (
    trial_end   INTEGER NOT NULL PRIMARY KEY REFERENCES trial_end (id) ON DELETE CASCADE,
    established INTEGER NOT NULL,
    -- The order-free sum of the four-tuples' hashes, 32 hexadecimal digits.
    digest      TEXT    NOT NULL,
    strangers   INTEGER NOT NULL,
    -- JSON: sockets by state.
    states      TEXT    NOT NULL CHECK (json_valid(states)),
    -- JSON: each listener's accept queue.
    listeners   TEXT    NOT NULL CHECK (json_valid(listeners)),
    -- How long the kernel took to be asked.
    micros      INTEGER NOT NULL
) STRICT;

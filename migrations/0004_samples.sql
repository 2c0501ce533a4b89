-- Samples: one row per worker and second while a trial runs.

-- Delivery may repeat: the key makes a second copy harmless. No foreign keys: a sample comes before
-- its trial is closed, and one of a late epoch is kept beside the others as evidence of its own.
CREATE TABLE sample (
    run            TEXT    NOT NULL,
    -- Which attachment of the agent it belongs to.
    epoch          INTEGER NOT NULL,
    agent          TEXT    NOT NULL,
    -- The agent's number for it, by which it is acknowledged.
    sequence       INTEGER NOT NULL,
    case_index     INTEGER NOT NULL,
    trial_index    INTEGER NOT NULL,
    -- The worker's number for it, from 0 in each trial; a missing one is a gap.
    tick           INTEGER NOT NULL,
    elapsed_micros INTEGER NOT NULL,
    cpu_micros     INTEGER NOT NULL,
    attempted      INTEGER NOT NULL,
    established    INTEGER NOT NULL,
    held           INTEGER NOT NULL,
    late           INTEGER NOT NULL,
    strangers      INTEGER NOT NULL,
    -- JSON: how many failed so far, by call and error.
    failures       TEXT    NOT NULL CHECK (json_valid(failures)),
    PRIMARY KEY (run, epoch, agent, sequence)
) STRICT, WITHOUT ROWID;

-- What a controller that is started again needs to go on with a run, and what came too late for it.

-- What agents said of a run, beside samples: kept before it is acknowledged, so that a trial's evidence can be
-- gathered again from here. No foreign keys, as for samples: it may be of a run that this database lacks.
CREATE TABLE message (
    run         TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    agent       TEXT    NOT NULL,
    -- The agent's number for it, by which it is acknowledged; samples are counted with it. The key makes a second
    -- copy harmless.
    sequence    INTEGER NOT NULL,
    case_index  INTEGER NOT NULL,
    trial_index INTEGER NOT NULL,
    -- When it was stored.
    at          INTEGER NOT NULL,
    -- ready, plateau, counted, ...; sample only where it came too late.
    kind        TEXT    NOT NULL,
    -- Whether its epoch, or its trial, was over when it came (0 or 1): kept apart, in no evidence.
    late        INTEGER NOT NULL CHECK (late IN (0, 1)),
    -- As it came: a tuplelab.v1.RunMessage in protobuf.
    body        BLOB    NOT NULL,
    PRIMARY KEY (run, epoch, agent, sequence)
) STRICT, WITHOUT ROWID;

-- When a run was last conducted, once a second while it is under way: no agent's lease is longer than from then.
CREATE TABLE conducted (
    run         TEXT    NOT NULL PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
    -- Microseconds since 1970.
    at          INTEGER NOT NULL,
    -- The same on a clock that nobody sets: the controller's boot id, and its CLOCK_BOOTTIME in nanoseconds.
    clock       TEXT    NOT NULL,
    clock_nanos INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

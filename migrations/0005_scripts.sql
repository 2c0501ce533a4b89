-- Scripts: what each step of a case was answered, and what that says of a claim.

-- One step of a trial, with the answer of the kernel: evidence.
CREATE TABLE observation (
    run         TEXT    NOT NULL,
    case_index  INTEGER NOT NULL,
    trial_index INTEGER NOT NULL,
    -- Its position in the case's script, from 0.
    step        INTEGER NOT NULL,
    agent       TEXT    NOT NULL,
    -- The step as it was carried out: with addresses.
    call        TEXT    NOT NULL,
    -- The name under which the judge looks for it; NULL where it has none.
    label       TEXT,
    -- ok, an errno's name, eof, pending.
    outcome     TEXT    NOT NULL,
    value       INTEGER,
    -- JSON: whatever else there is to know, by name.
    details     TEXT    NOT NULL CHECK (json_valid(details)),
    PRIMARY KEY (run, case_index, trial_index, step),
    FOREIGN KEY (run, case_index, trial_index)
        REFERENCES trial (run, case_index, trial_index) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- JSON: what each line of a claim's experiment showed; an empty list of an expectation.
ALTER TABLE verdict ADD COLUMN points TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(points));

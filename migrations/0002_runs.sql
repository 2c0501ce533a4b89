-- Runs: what happened, and where that led.

-- One execution of a plan. All of a row is written when the run is submitted, but for `schedule`
-- (once, when it is placed) and state, outcome and finished_at, which follow from run_event and
-- change in the transaction that appends the event.
CREATE TABLE run (
    -- A version 7 UUID: its text sorts by time.
    id           TEXT    NOT NULL PRIMARY KEY,
    plan         TEXT    NOT NULL REFERENCES plan (digest),
    -- user@host, as the client says.
    submitter    TEXT    NOT NULL,
    submitted_at INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN
        ('queued', 'preparing', 'ramping', 'holding', 'counting', 'releasing', 'finished')),
    -- JSON: outcome ->> 'kind' is the word, outcome ->> 'why' the reason where there is one.
    outcome      TEXT    CHECK (outcome IS NULL OR json_valid(outcome)),
    finished_at  INTEGER,
    -- JSON: every host's concrete work; NULL before the run is placed.
    schedule     TEXT    CHECK (schedule IS NULL OR json_valid(schedule)),
    -- No run is over without an outcome, and none has one before it is over.
    CHECK ((state = 'finished') = (outcome IS NOT NULL)),
    CHECK ((outcome IS NULL) = (finished_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX run_by_time ON run (submitted_at, id);

-- What happened to a run, in order: the state machine fed with these bodies gives run.state.
CREATE TABLE run_event (
    run  TEXT    NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    -- From 0, without holes.
    seq  INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    kind TEXT    GENERATED ALWAYS AS (body ->> '$.event') VIRTUAL,
    -- JSON.
    body TEXT    NOT NULL CHECK (json_valid(body)),
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER run_event_is_never_changed BEFORE UPDATE ON run_event
BEGIN
    SELECT RAISE(ABORT, 'what happened is never changed');
END;

-- The hosts that there were when the run was placed, with the facts that it was placed by.
CREATE TABLE host (
    run      TEXT    NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    -- The agent's name.
    name     TEXT    NOT NULL,
    -- The place in the inventory, from 0.
    position INTEGER NOT NULL,
    -- JSON.
    labels   TEXT    NOT NULL CHECK (json_valid(labels)),
    -- JSON: limits, addresses, kernel settings.
    facts    TEXT    NOT NULL CHECK (json_valid(facts)),
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;

-- A case of a run (`case` alone is a word of SQL): one point of the plan's sweep, what was asked of
-- it and what the capacity model predicted on these hosts.
CREATE TABLE run_case (
    run          TEXT    NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    -- From 0, in the order of the plan.
    case_index   INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    -- JSON: what sets it apart from the plan's base.
    parameters   TEXT    NOT NULL CHECK (json_valid(parameters)),
    -- JSON: everything about it, in the form of a plan file.
    setup        TEXT    NOT NULL CHECK (json_valid(setup)),
    -- How many connections were to be opened.
    target       INTEGER NOT NULL,
    -- How many the model said the hosts would hold, by which limit, and by which next.
    predicted    INTEGER NOT NULL,
    bound_by     TEXT    NOT NULL,
    next_bound   TEXT,
    accept_queue INTEGER NOT NULL,
    -- JSON: what every limit offers, the tightest first.
    margins      TEXT    NOT NULL CHECK (json_valid(margins)),
    PRIMARY KEY (run, case_index)
) STRICT, WITHOUT ROWID;

-- What was found of each expectation and claim. Derived: it can be made again from the evidence,
-- and is replaced as a whole when it is.
CREATE TABLE verdict (
    run           TEXT    NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    -- From 0, in the order of the plan: expectations, then claims.
    position      INTEGER NOT NULL,
    -- The expectation as the plan writes it, or the claim's name (C3).
    subject       TEXT    NOT NULL,
    verdict       TEXT    NOT NULL CHECK (verdict IN
        ('held', 'missed', 'confirmed', 'qualified', 'refuted', 'inconclusive')),
    reason        TEXT    NOT NULL,
    -- Which rules made it, and when.
    judge_version INTEGER NOT NULL,
    judged_at     INTEGER NOT NULL,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;

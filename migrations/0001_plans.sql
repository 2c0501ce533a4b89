-- tuplelab's history. These files are never edited once they are merged: a change is a new file.
-- The words are those of the vocabulary in domain/src/lib.rs. Times are microseconds since 1970
-- (UTC) on the controller's clock; columns that end in `_micros` are durations.
--
-- Numbers of 2^63 and above keep their bits but look negative here: SQLite's integers are signed.

-- Written into the file's header, so that tuplelab knows its own databases and `file` can name
-- them: the letters "tplb".
PRAGMA application_id = 0x74706c62;

-- A plan, word for word as it was submitted. Two runs of one text share the row.
CREATE TABLE plan (
    -- SHA-256 of the source, in hexadecimal.
    digest   TEXT NOT NULL PRIMARY KEY,
    source   TEXT NOT NULL,
    question TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One store is one file; PROTOCOL names its tables the same everywhere. Times are ms since the Unix epoch, hashes are
-- the bits of an unsigned number, ids are the 16 bytes of a UUIDv7, whose order is their age.

CREATE TABLE store (
    id         BLOB    NOT NULL CHECK (length(id) = 16),
    schema     INTEGER NOT NULL,                        -- the last migration that was applied
    min_reader INTEGER NOT NULL,                        -- the oldest schema that a program must know to write here
    partitions INTEGER NOT NULL,
    topic      TEXT    NOT NULL
) STRICT;

CREATE TABLE partitions (
    part                 INTEGER PRIMARY KEY,
    base                 INTEGER NOT NULL DEFAULT 0,    -- the position is base + next_offset
    next_offset          INTEGER NOT NULL DEFAULT 0,
    last_hash            INTEGER,
    caught_up_at         INTEGER NOT NULL DEFAULT 0,
    purged               INTEGER NOT NULL DEFAULT 0,    -- no tombstone up to this revision can be relied on
    dead_letters_dropped INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Clustered by id, so that the newest are read in one walk. The texts come last: a look at the other columns does not
-- follow the pages of a long description.
CREATE TABLE todos (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    part        INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    deleted     INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    completed   INTEGER NOT NULL CHECK (completed IN (0, 1)),
    updated_at  INTEGER NOT NULL,
    born        INTEGER,
    title       TEXT    NOT NULL CHECK (deleted = 1 OR length(title) BETWEEN 1 AND 500),
    description TEXT    NOT NULL CHECK (length(description) <= 10000)
) STRICT, WITHOUT ROWID;

CREATE INDEX todos_by_revision ON todos (part, revision);
CREATE INDEX tombstones_by_id ON todos (id) WHERE deleted = 1;

CREATE TABLE producers (
    part        INTEGER NOT NULL,
    producer    BLOB    NOT NULL CHECK (length(producer) = 16),
    last_number INTEGER NOT NULL,
    seen        INTEGER NOT NULL,
    PRIMARY KEY (part, producer)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    part     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    reason   TEXT    NOT NULL,
    record   BLOB    NOT NULL,
    at       INTEGER NOT NULL,
    replayed INTEGER,
    PRIMARY KEY (part, position)
) STRICT, WITHOUT ROWID;

-- The store of a cluster, by the names of PROTOCOL. Times are ms since the Unix epoch, hashes are the bits of an unsigned
-- number, ids are UUIDv7, whose order is their age.

-- The store's clock, in one place, so that a test can be next week.
CREATE FUNCTION store_now_ms() RETURNS bigint LANGUAGE sql VOLATILE
    AS 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE TABLE store (
    id         uuid    NOT NULL,
    schema     integer NOT NULL,                -- the last migration that was applied
    min_reader integer NOT NULL,                -- the oldest schema that a program must know to write here
    partitions integer NOT NULL,
    topic      text    NOT NULL
);
CREATE UNIQUE INDEX store_has_one_row ON store ((true));

CREATE TABLE partitions (
    part                 integer PRIMARY KEY,
    base                 bigint NOT NULL DEFAULT 0,   -- the position is base + next_offset
    next_offset          bigint NOT NULL DEFAULT 0,
    last_hash            bigint,
    caught_up_at         bigint NOT NULL DEFAULT 0,
    purged               bigint NOT NULL DEFAULT 0,   -- no tombstone up to this revision can be relied on
    dead_letters_dropped bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);                             -- rewritten by every batch: the new version stays in the page

CREATE TABLE todos (
    id          uuid    PRIMARY KEY,
    part        integer NOT NULL,
    revision    bigint  NOT NULL,
    deleted     boolean NOT NULL,
    completed   boolean NOT NULL,
    updated_at  bigint  NOT NULL,
    born        bigint,
    title       text    NOT NULL CHECK (deleted OR char_length(title) BETWEEN 1 AND 500),
    description text    NOT NULL CHECK (char_length(description) <= 10000)
);
CREATE INDEX todos_by_revision ON todos (part, revision);
CREATE INDEX todos_newest_first ON todos (id DESC) WHERE NOT deleted;
CREATE INDEX tombstones_by_id ON todos (part, id) WHERE deleted;

CREATE TABLE producers (
    part        integer NOT NULL,
    producer    uuid    NOT NULL,
    last_number bigint  NOT NULL,
    seen        bigint  NOT NULL,
    PRIMARY KEY (part, producer)
);

CREATE TABLE dead_letters (
    part     integer NOT NULL,
    position bigint  NOT NULL,
    reason   text    NOT NULL,
    record   bytea   NOT NULL,
    at       bigint  NOT NULL,
    replayed bigint,
    PRIMARY KEY (part, position)
);

-- Beside the partitions and not in them: a batch holds its partition's row, and no lease waits for a batch.
CREATE TABLE leases (
    part        integer PRIMARY KEY,
    owner       uuid,
    lease_until bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- Who is there to share the partitions, those without one included.
CREATE TABLE workers (
    worker     uuid   PRIMARY KEY,
    live_until bigint NOT NULL
);

-- The data model. Tables that grow are partitioned by UUIDv7, which carries its time, into days:
-- the primary key stays (id), look-ups by id touch one partition, and retention is DROP TABLE.

CREATE TYPE gateway.job_state AS ENUM
    ('scheduled', 'available', 'running', 'blocked', 'completed', 'dead', 'cancelled');


-- Ids ---------------------------------------------------------------------------------------------

-- The smallest id that a UUIDv7 made at or after this moment can have (RFC 9562, section 5.7).
CREATE FUNCTION gateway.uuid7_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(greatest(floor(extract(epoch FROM moment) * 1000), 0)::bigint), 12, '0')
            || '00000000000000000000')::uuid;

CREATE FUNCTION gateway.uuid7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN (lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid;

CREATE FUNCTION gateway.uuid7_time(id uuid) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0);


-- What vendors told us ------------------------------------------------------------------------------

CREATE TABLE gateway.events (
    id             uuid PRIMARY KEY,
    vendor         text NOT NULL,
    event_type     text,
    dedupe_key     text,
    correlation_id text NOT NULL,
    traceparent    text,
    headers        jsonb NOT NULL,
    query          text NOT NULL DEFAULT '',
    body           bytea NOT NULL,
    received_at    timestamptz NOT NULL
) PARTITION BY RANGE (id);

-- A caller's own correlation id is rare; the usual one is the event's id and found by the key.
CREATE INDEX events_correlation ON gateway.events (correlation_id)
    WHERE correlation_id <> id::text;

-- The transactional lock on a sender's event: whoever inserts the row owns the event. The key comes
-- first, since it is what differs. No index on expires_at, which every webhook would pay for: upkeep
-- sweeps the table for what has expired.
CREATE TABLE gateway.dedupe_keys (
    vendor     text NOT NULL,
    key        text NOT NULL,
    event_id   uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    duplicates integer NOT NULL DEFAULT 0,
    PRIMARY KEY (key, vendor)
) WITH (fillfactor = 90);


-- Units of work ---------------------------------------------------------------------------------------

CREATE TABLE gateway.jobs (
    id             uuid PRIMARY KEY,
    event_id       uuid,
    route          text NOT NULL,
    vendor         text NOT NULL,                -- the lane
    kind           text NOT NULL,
    state          gateway.job_state NOT NULL,
    priority       smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    ordering_key   text,
    holds_key      boolean NOT NULL DEFAULT false, -- should it die, its key waits for an operator
    run_at         timestamptz NOT NULL DEFAULT now(),
    attempt        integer NOT NULL DEFAULT 0,   -- executions counted so far
    max_attempts   integer NOT NULL,
    node           text,
    claim_no       integer NOT NULL DEFAULT 0,   -- fencing token: every change of hands adds one
    rescues        integer NOT NULL DEFAULT 0,   -- how often a node died while holding it
    correlation_id text NOT NULL,
    replay_of      uuid,
    last_status    integer,
    last_error     text,
    payload        jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    finished_at    timestamptz,
    -- These columns exist for the partial indexes below. None of them changes when a running job
    -- completes, so that update touches no indexed column and stays HOT.
    claimable      boolean GENERATED ALWAYS AS (state = 'available') STORED,
    due_at         timestamptz GENERATED ALWAYS AS
                       (CASE WHEN state = 'scheduled' THEN run_at END) STORED,
    parked         boolean GENERATED ALWAYS AS (state = 'dead') STORED,
    in_line        boolean GENERATED ALWAYS AS (state = 'blocked') STORED
) PARTITION BY RANGE (id);

CREATE INDEX jobs_event ON gateway.jobs (event_id);
CREATE INDEX jobs_correlation ON gateway.jobs (correlation_id)
    WHERE event_id IS NULL OR correlation_id <> event_id::text;
CREATE INDEX jobs_urgent ON gateway.jobs (vendor, priority, id) WHERE claimable;
CREATE INDEX jobs_oldest ON gateway.jobs (vendor, id) WHERE claimable;
CREATE INDEX jobs_due ON gateway.jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_line ON gateway.jobs (route, ordering_key, id) WHERE in_line;
CREATE INDEX jobs_dead ON gateway.jobs (vendor, id) WHERE parked;

CREATE FUNCTION gateway.refuse_transition() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        RAISE EXCEPTION 'job %: a job cannot begin as %', NEW.id, NEW.state
            USING ERRCODE = 'check_violation',
                  HINT = 'A job begins as scheduled, available, running or blocked.';
    END IF;
    RAISE EXCEPTION 'job %: its state cannot change from % to %', OLD.id, OLD.state, NEW.state
        USING ERRCODE = 'check_violation',
              HINT = CASE WHEN OLD.state IN ('completed', 'dead', 'cancelled')
                     THEN 'A finished job stays as it is: SELECT gateway.replay(id) makes a new one.'
                     ELSE 'Use SELECT gateway.cancel(id) to stop a job that is not running.' END;
END $$;

-- The legal moves stand in the WHEN clauses, so that a legal one costs an expression, not a call.
-- After an update, not before it: what runs before locks each row first, and writes that to the WAL.
CREATE TRIGGER jobs_transition AFTER UPDATE OF state ON gateway.jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state AND NOT CASE OLD.state
        WHEN 'scheduled' THEN NEW.state IN ('available', 'cancelled')
        WHEN 'available' THEN NEW.state IN ('running', 'cancelled')
        WHEN 'blocked'   THEN NEW.state IN ('available', 'scheduled', 'cancelled')
        WHEN 'running'   THEN NEW.state IN ('completed', 'dead', 'cancelled', 'scheduled', 'available')
        ELSE false END)
    EXECUTE FUNCTION gateway.refuse_transition();

CREATE TRIGGER jobs_beginning BEFORE INSERT ON gateway.jobs FOR EACH ROW
    WHEN (NEW.state NOT IN ('scheduled', 'available', 'running', 'blocked'))
    EXECUTE FUNCTION gateway.refuse_transition();


-- History -------------------------------------------------------------------------------------------

CREATE TABLE gateway.attempts (
    job_id      uuid NOT NULL,
    attempt     integer NOT NULL,
    node        text NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms double precision NOT NULL,
    outcome     text NOT NULL,
    http_status integer,
    error       text,
    request     jsonb,
    response    jsonb,
    PRIMARY KEY (job_id, attempt)
) PARTITION BY RANGE (job_id);

CREATE FUNCTION gateway.refuse_rewrite() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    -- Maintenance moves rows between partitions; it says so for its own transaction.
    IF current_setting('gateway.maintenance', true) = 'on' THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    RAISE EXCEPTION '%.%: history is append-only, % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Retention drops whole partitions: database.retention in the configuration.';
END $$;

CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON gateway.events
    FOR EACH ROW EXECUTE FUNCTION gateway.refuse_rewrite();
CREATE TRIGGER attempts_append_only BEFORE UPDATE OR DELETE ON gateway.attempts
    FOR EACH ROW EXECUTE FUNCTION gateway.refuse_rewrite();
CREATE TRIGGER events_not_emptied BEFORE TRUNCATE ON gateway.events
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.refuse_rewrite();
CREATE TRIGGER attempts_not_emptied BEFORE TRUNCATE ON gateway.attempts
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.refuse_rewrite();


-- Nodes and vendors ---------------------------------------------------------------------------------

-- One row per living process. seen_at is the database's clock; a node not seen for its lease is
-- dead. oldest_held bounds the ids that its jobs can have from below, so that a rescue reads only
-- the young end of the jobs table.
CREATE TABLE gateway.nodes (
    node        text PRIMARY KEY,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    lease       interval NOT NULL,
    version     text NOT NULL,
    oldest_held uuid NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE gateway.vendor_state (
    vendor       text PRIMARY KEY,
    paused       boolean NOT NULL DEFAULT false,
    parked_until timestamptz,
    updated_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);


-- Partitions ------------------------------------------------------------------------------------------

-- The default partitions catch ids from a clock that is far off; they are empty otherwise. When the
-- day of such ids gets a partition of its own they move there, so that one of them does not keep a
-- whole day in the default.
CREATE TABLE gateway.events_default PARTITION OF gateway.events DEFAULT;
CREATE TABLE gateway.jobs_default PARTITION OF gateway.jobs DEFAULT WITH (fillfactor = 50);
CREATE TABLE gateway.attempts_default PARTITION OF gateway.attempts DEFAULT;

-- Days whose jobs are all finished, for good: final states are final and new ids are young. Claims
-- and rescues start at the first day that is not here, retention drops days that are.
CREATE TABLE gateway.sealed_days (
    day       date PRIMARY KEY,
    sealed_at timestamptz NOT NULL DEFAULT now()
);

-- What a sealed day holds, counted once: a search passes over the days that have nothing for it, so
-- that what it does not find costs no index that every job would pay for.
CREATE TABLE gateway.sealed_jobs (
    day    date NOT NULL REFERENCES gateway.sealed_days ON DELETE CASCADE,
    route  text NOT NULL,
    vendor text NOT NULL,
    state  gateway.job_state NOT NULL,
    jobs   bigint NOT NULL,
    PRIMARY KEY (day, route, vendor, state)
);

-- Make the partition of one day (UTC) of events, jobs or attempts; return whether it was missing.
-- Ids of that day that went to the default partition move along, unless there are more than can be
-- moved under a short lock: then the day stays there, too.
-- Whoever runs this in a busy database sets lock_timeout: the last step has to lock the default
-- partition, and what asks for that partition meanwhile waits behind it.
CREATE FUNCTION gateway.make_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    most   CONSTANT integer := 10000;
    name   text := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
    rest   text := parent || '_default';
    id     text := CASE parent WHEN 'attempts' THEN 'job_id' ELSE 'id' END;
    low    uuid := gateway.uuid7_floor(day::timestamp AT TIME ZONE 'UTC');
    high   uuid := gateway.uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
    given  text;  -- the columns that are not generated
    strays bigint;
BEGIN
    IF to_regclass(format('gateway.%I', name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- One maker at a time; the others find the partition made. Not an advisory lock: only after
    -- locking a table does a session look at the catalogue afresh.
    LOCK TABLE gateway.sealed_days IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass(format('gateway.%I', name)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('SELECT count(*) FROM (SELECT FROM gateway.%I WHERE %I >= %L AND %I < %L LIMIT %s) s',
                   rest, id, low, id, high, most + 1) INTO strays;
    IF strays > most THEN
        RETURN false;
    END IF;
    -- LIKE and ATTACH, since PARTITION OF would lock the parent against every query.
    -- Half of a page of jobs stays free: jobs that arrive together end together, and only an
    -- update that finds room on its own page is HOT.
    EXECUTE format('CREATE TABLE gateway.%I (LIKE gateway.%I INCLUDING ALL) %s', name, parent,
                   CASE parent WHEN 'jobs' THEN 'WITH (fillfactor = 50, '
                       'autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1)'
                   ELSE '' END);
    IF strays > 0 THEN
        SELECT string_agg(quote_ident(attname), ', ') INTO given FROM pg_attribute
        WHERE attrelid = format('gateway.%I', parent)::regclass
          AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('LOCK TABLE gateway.%I IN ACCESS EXCLUSIVE MODE', rest);
        PERFORM set_config('gateway.maintenance', 'on', true);
        -- No trigger is on the new table yet: a row moves as it is.
        EXECUTE format('WITH moved AS (DELETE FROM gateway.%I WHERE %I >= %L AND %I < %L RETURNING *) '
                       'INSERT INTO gateway.%I (%s) SELECT %s FROM moved',
                       rest, id, low, id, high, name, given, given);
        PERFORM set_config('gateway.maintenance', '', true);
    END IF;
    EXECUTE format('ALTER TABLE gateway.%I ATTACH PARTITION gateway.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, name, low, high);
    RETURN true;
END $$;

-- Make those of all three tables; return whether any was missing.
CREATE FUNCTION gateway.make_partitions(day date) RETURNS boolean
    LANGUAGE sql AS $$
    SELECT bool_or(gateway.make_partition(parent, day))
    FROM unnest(ARRAY['events', 'jobs', 'attempts']) AS parent
$$;

-- Ids of a clock that was far off go to the default partitions. When their day gets a partition of
-- its own they move there, so that one such id does not keep a whole day in the default.

-- Make the partition of one day (UTC) of events, jobs or attempts; return whether it was missing.
-- Ids of that day that went to the default partition move along, unless there are more than can be
-- moved under a short lock: then the day stays there, too.
-- Whoever runs this in a busy database sets lock_timeout: the last step has to lock the default
-- partition, and what asks for that partition meanwhile waits behind it.
CREATE OR REPLACE FUNCTION gateway.make_partition(parent text, day date) RETURNS boolean
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

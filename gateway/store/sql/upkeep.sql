-- name: missing_partitions
-- Those of yesterday to $1 days ahead; $2 the moment, null: now, and so in all of these.
SELECT parent, day
FROM (SELECT parent, (coalesce($2::timestamptz, now()) AT TIME ZONE 'UTC')::date + ahead AS day
      FROM generate_series(-1, $1::int) AS ahead,
           unnest(ARRAY['events', 'jobs', 'attempts']) AS parent) wanted
WHERE to_regclass(format('gateway.%I', parent || '_' || to_char(day, 'YYYYMMDD'))) IS NULL
ORDER BY day, parent

-- name: make_partition
SELECT gateway.make_partition($1, $2) AS made

-- name: job_partitions
-- The partitions that have a day each; its number is counted from 1970-01-01.
WITH leaves AS MATERIALIZED (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'gateway.jobs'::regclass
)
SELECT c.relname::text AS name, to_date(substr(c.relname, 6), 'YYYYMMDD') - date '1970-01-01' AS day_number
FROM leaves l JOIN pg_class c ON c.oid = l.inhrelid
WHERE c.relname ~ '^jobs_\d{8}$'

-- name: unsealed_days
-- Days whose partition is two days old and may still have unfinished jobs. $1 the moment.
WITH leaves AS MATERIALIZED (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'gateway.jobs'::regclass
)
SELECT day
FROM (SELECT to_date(substr(c.relname, 6), 'YYYYMMDD') AS day
      FROM leaves l JOIN pg_class c ON c.oid = l.inhrelid WHERE c.relname ~ '^jobs_\d{8}$') d
WHERE day < (coalesce($1::timestamptz, now()) AT TIME ZONE 'UTC')::date - 1
  AND NOT EXISTS (SELECT FROM gateway.sealed_days s WHERE s.day = d.day)
ORDER BY day

-- name: seal_day
-- Finished for good unless some job is not; $1 the day, $2 and $3 the bounds of its ids. The cheap
-- questions come first: only where the partial indexes are empty is the whole day read, and once
-- more to count what it holds.
WITH sealed AS (
    INSERT INTO gateway.sealed_days (day)
    SELECT $1::date
    WHERE NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $2 AND id < $3 AND claimable)
      AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $2 AND id < $3 AND due_at IS NOT NULL)
      AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $2 AND id < $3 AND in_line)
      AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $2 AND id < $3
                      AND state IN ('scheduled', 'available', 'running', 'blocked'))
    ON CONFLICT DO NOTHING
    RETURNING day
), held AS (
    INSERT INTO gateway.sealed_jobs (day, route, vendor, state, jobs)
    SELECT s.day, j.route, j.vendor, j.state, count(*)
    FROM sealed s CROSS JOIN gateway.jobs j
    WHERE j.id >= $2 AND j.id < $3
    GROUP BY s.day, j.route, j.vendor, j.state
)
SELECT day FROM sealed

-- name: orphans
-- Nodes that are gone without a rescue, though they hold jobs among the ids $1 to $2: a last
-- resort, asked when nothing else of a past day is left to do, since it reads the whole day.
SELECT DISTINCT node FROM gateway.jobs
WHERE id >= $1 AND id < $2 AND state = 'running'
  AND node NOT IN (SELECT node FROM gateway.nodes)
  AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $1 AND id < $2 AND claimable)
  AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $1 AND id < $2 AND due_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM gateway.jobs WHERE id >= $1 AND id < $2 AND in_line)

-- name: unseal_late_days
-- A node whose clock was days behind may have put a job into a day that was sealed already.
-- $1 the start of the first day that is not sealed.
DELETE FROM gateway.sealed_days
WHERE day IN (SELECT (gateway.uuid7_time(id) AT TIME ZONE 'UTC')::date
              FROM (SELECT id FROM gateway.jobs WHERE claimable AND id < $1
                    UNION ALL
                    SELECT id FROM gateway.jobs WHERE due_at IS NOT NULL AND id < $1
                    UNION ALL
                    SELECT id FROM gateway.jobs WHERE in_line AND id < $1) late)
RETURNING day

-- name: day_bounds
SELECT gateway.uuid7_floor($1::date::timestamp AT TIME ZONE 'UTC') AS low,
       gateway.uuid7_floor(($1::date + 1)::timestamp AT TIME ZONE 'UTC') AS high

-- name: oldest_unsealed
-- The first id that an unfinished job can have: the start of the first day that is not sealed, or
-- what the default partition has before that. $1 the moment.
WITH leaves AS MATERIALIZED (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = 'gateway.jobs'::regclass
)
SELECT least((SELECT id FROM gateway.jobs_default
              WHERE state IN ('scheduled', 'available', 'running', 'blocked')
              ORDER BY id LIMIT 1),
             gateway.uuid7_floor(coalesce(min(day), (coalesce($1::timestamptz, now()) AT TIME ZONE 'UTC')::date - 1)::timestamp
                                 AT TIME ZONE 'UTC')) AS floor
FROM (SELECT to_date(substr(c.relname, 6), 'YYYYMMDD') AS day
      FROM leaves l JOIN pg_class c ON c.oid = l.inhrelid WHERE c.relname ~ '^jobs_\d{8}$') d
WHERE NOT EXISTS (SELECT FROM gateway.sealed_days s WHERE s.day = d.day)

-- name: expired_days
-- Sealed days past the retention; $1 seconds, $2 the moment.
SELECT day FROM gateway.sealed_days
WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' < coalesce($2::timestamptz, now()) - make_interval(secs => $1)
ORDER BY day

-- name: prune_dedupe_keys
-- Delete the keys whose window is over on $2 pages of the table from page $1 on, which may be beyond
-- the last: it begins anew there. Returns the next page (0: that was the end), and how many there are.
-- A key that is being used is passed over, so that pruning and accepting never wait for each other.
WITH place AS MATERIALIZED (
    SELECT $1::bigint % greatest(pages, 1) AS page, pages
    FROM (SELECT pg_relation_size('gateway.dedupe_keys') / current_setting('block_size')::bigint AS pages) t
), expired AS (
    SELECT ctid FROM gateway.dedupe_keys
    WHERE ctid >= (SELECT format('(%s,0)', page) FROM place)::tid
      AND ctid < (SELECT format('(%s,0)', page + $2::bigint) FROM place)::tid
      AND expires_at < now() - interval '1 minute'
    FOR UPDATE SKIP LOCKED
), pruned AS (
    DELETE FROM gateway.dedupe_keys WHERE ctid = ANY (ARRAY (SELECT ctid FROM expired))
)
SELECT CASE WHEN page + $2 < pages THEN page + $2 ELSE 0 END AS next, pages FROM place

-- name: forget_day
-- Dropped, or not finished after all.
DELETE FROM gateway.sealed_days WHERE day = $1

-- name: unfinished
SELECT EXISTS (SELECT FROM gateway.jobs
               WHERE id >= $1 AND id < $2
                 AND state IN ('scheduled', 'available', 'running', 'blocked')) AS unfinished

-- name: now
SELECT now() AS now

-- name: prune_default_jobs
-- Finished jobs of the default partition past the retention of $1 seconds, by the database's
-- clock: their ids tell nothing. $2 the moment, $3 how many.
DELETE FROM gateway.jobs_default
WHERE id IN (SELECT id FROM gateway.jobs_default
             WHERE state IN ('completed', 'dead', 'cancelled')
               AND finished_at < coalesce($2::timestamptz, now()) - make_interval(secs => $1)
             ORDER BY id LIMIT $3)
RETURNING id

-- name: prune_default_attempts
DELETE FROM gateway.attempts_default
WHERE job_id = ANY ($1::uuid[])

-- name: prune_default_events
-- Events of the default partition past the retention that no job refers to any more.
DELETE FROM gateway.events_default
WHERE id IN (SELECT id FROM gateway.events_default e
             WHERE received_at < coalesce($2::timestamptz, now()) - make_interval(secs => $1)
               AND NOT EXISTS (SELECT FROM gateway.jobs j WHERE j.event_id = e.id)
             ORDER BY id LIMIT $3)

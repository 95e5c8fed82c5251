-- name: list_jobs
-- Jobs, newest first. $1 state, $2 vendor, $3 route, $4 correlation id, $5 ids to choose from,
-- $6 the lowest id, $7 the id above the highest, $8 how many. A null filters nothing.
-- Statements are planned with the values of their parameters (plan_cache_mode), so what is null
-- vanishes from the plan, and what a partial index asks for is there when its state is wanted.
SELECT id, event_id, route, vendor, kind, state::text AS state, priority, ordering_key, run_at,
       attempt, max_attempts, node, claim_no, rescues, correlation_id, replay_of, replay_id,
       idempotency_key, last_status,
       last_error, created_at, started_at, finished_at
FROM gateway.jobs
WHERE id >= $6 AND id < $7
  AND ($1::gateway.job_state IS NULL OR state = $1)
  AND ($1 IS DISTINCT FROM 'dead' OR parked)
  AND ($1 IS DISTINCT FROM 'available' OR claimable)
  AND ($1 IS DISTINCT FROM 'scheduled' OR due_at IS NOT NULL)
  AND ($2::text IS NULL OR vendor = $2)
  AND ($3::text IS NULL OR route = $3)
  AND ($4::text IS NULL OR correlation_id = $4)
  AND ($5::uuid[] IS NULL OR id = ANY ($5))
ORDER BY id DESC
LIMIT $8

-- name: jobs_of_event
-- Their ids, newest first; $1 the event, $2 the lowest id, $3 the id above the highest, $4 how many.
-- Materialized, so that the order cannot talk the planner into walking the primary key.
WITH found AS MATERIALIZED (
    SELECT id FROM gateway.jobs WHERE event_id = $1 AND id >= $2 AND id < $3
)
SELECT id FROM found ORDER BY id DESC LIMIT $4

-- name: jobs_of_correlation
-- The same for a correlation id $1. The usual one is the event's own id, which jobs_correlation
-- leaves out: $5 is that event (the nil id where $1 is no UUID).
WITH found AS MATERIALIZED (
    SELECT id FROM gateway.jobs
    WHERE correlation_id = $1 AND (event_id IS NULL OR correlation_id <> event_id::text)
      AND id >= $2 AND id < $3
    UNION ALL
    SELECT id FROM gateway.jobs
    WHERE event_id = $5 AND correlation_id = event_id::text AND correlation_id = $1
      AND id >= $2 AND id < $3
)
SELECT id FROM found ORDER BY id DESC LIMIT $4

-- name: days
-- The latest days before the day $1 that have a partition: their first ids, those of the days after
-- them, and whether they may hold what is wanted: $3 state, $4 vendor, $5 route. What a sealed day
-- holds is known. By the index of pg_class, where the $2 names before that day are read, those of a
-- day's indexes among them, so that a year costs what a week does. No row: there is no such day.
SELECT day, gateway.uuid7_floor(day::timestamp AT TIME ZONE 'UTC') AS low,
       gateway.uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC') AS high,
       NOT EXISTS (SELECT FROM gateway.sealed_days s WHERE s.day = d.day)
       OR EXISTS (SELECT FROM gateway.sealed_jobs h
                  WHERE h.day = d.day
                    AND ($3::gateway.job_state IS NULL OR h.state = $3)
                    AND ($4::text IS NULL OR h.vendor = $4)
                    AND ($5::text IS NULL OR h.route = $5)) AS worth_a_look
FROM (SELECT to_date(substr(relname, 6), 'YYYYMMDD') AS day
      FROM (SELECT relname, relkind FROM pg_class
            WHERE relname >= 'jobs_0' AND relname < 'jobs_' || to_char($1::date, 'YYYYMMDD')
              AND relnamespace = 'gateway'::regnamespace
            ORDER BY relname DESC
            LIMIT $2) latest
      WHERE relkind = 'r' AND relname ~ '^jobs_\d{8}$') d
ORDER BY day DESC

-- name: running_floor
-- No running job has an id below it: each is held by a node, which keeps oldest_held (see nodes).
SELECT oldest_held AS floor FROM gateway.nodes ORDER BY oldest_held LIMIT 1

-- name: job
SELECT id, event_id, route, vendor, kind, state::text AS state, priority, ordering_key, run_at,
       attempt, max_attempts, node, claim_no, rescues, correlation_id, replay_of, replay_id,
       idempotency_key, last_status,
       last_error, created_at, started_at, finished_at, payload::text AS payload
FROM gateway.jobs WHERE id = $1

-- name: attempts
-- The latest attempts of job $1 in order, at most $2.
SELECT attempt, node, started_at, duration_ms, outcome, http_status, error,
       request::text AS request, response::text AS response
FROM (SELECT * FROM gateway.attempts WHERE job_id = $1 ORDER BY attempt DESC LIMIT $2) latest
ORDER BY attempt

-- name: replays
-- Jobs made from job $1 by a replay; they have its event $2.
SELECT id FROM gateway.jobs WHERE event_id = $2 AND replay_of = $1 ORDER BY id LIMIT $3

-- name: event
-- Without the body: its size is known from the row's pointer to it.
SELECT id, vendor, event_type, dedupe_key, correlation_id, traceparent, headers::text AS headers,
       query, octet_length(body) AS body_bytes, received_at
FROM gateway.events WHERE id = $1

-- name: body
SELECT gateway.body($1)::text AS body

-- name: raw_body
SELECT body FROM gateway.events WHERE id = $1

-- name: replay
SELECT gateway.replay($1, $3, coalesce($2, current_user)) AS id

-- name: cancel
SELECT gateway.cancel($1, coalesce($2, current_user))::text AS state

-- name: recent_states
-- How many jobs with an id from $1 on are in which state, counting the newest $2 of them.
SELECT state::text AS state, count(*) AS jobs, min(created_at) AS since
FROM (SELECT state, created_at FROM gateway.jobs WHERE id >= $1 ORDER BY id DESC LIMIT $2) recent
GROUP BY state

-- name: dead
-- Dead letters of each lane, counting no further than $1 in all.
SELECT vendor, count(*) AS jobs
FROM (SELECT vendor FROM gateway.jobs WHERE parked LIMIT $1) d
GROUP BY vendor

-- name: scheduled
-- Jobs that wait for their time, counting no further than $2; $1 the floor under unfinished ids.
SELECT vendor, count(*) AS jobs
FROM (SELECT vendor FROM gateway.jobs WHERE due_at IS NOT NULL AND id >= $1 LIMIT $2) s
GROUP BY vendor

-- name: sizes
-- About how many rows each growing table has, and its bytes on disk, indexes included.
SELECT i.inhparent::regclass::text AS table,
       sum(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0))::bigint AS rows,
       sum(pg_total_relation_size(c.oid))::bigint AS bytes,
       count(*) AS partitions
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('gateway.events'::regclass, 'gateway.jobs'::regclass,
                      'gateway.attempts'::regclass)
GROUP BY 1
ORDER BY 1

-- name: nodes
SELECT node, version, started_at, seen_at, extract(epoch FROM now() - seen_at)::float8 AS seen_seconds,
       seen_at + lease >= now() AS alive
FROM gateway.nodes ORDER BY node

-- name: vendor_state
SELECT vendor, paused,
       CASE WHEN parked_until > now() THEN parked_until END AS parked_until,
       CASE WHEN breaker = 'open' AND breaker_until <= now() THEN 'half-open' ELSE breaker END AS breaker
FROM gateway.vendor_state
ORDER BY vendor

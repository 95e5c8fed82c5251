-- name: bounds
-- The ids of jobs made since $1 and before $2 (nulls: ever). One that is finished by now has an id
-- of about now at the latest; nodes' clocks may be some minutes fast.
SELECT coalesce(gateway.uuid7_floor($1::timestamptz), '00000000-0000-0000-0000-000000000000') AS low,
       gateway.uuid7_floor(least($2::timestamptz, now() + interval '10 minutes')) AS high

-- name: look
-- Look at the next $12 finished jobs of state $1 after id $2 and below $3, in order: how many there
-- were, the last of them, and the first $13 that match. $4 vendor, $5 route, $6 correlation id and $7
-- the event that it may be the id of, $8 event, $9 fingerprint of the error, $10 those, too, that
-- were replayed before, $11 finished before then (null: by now). A null filters nothing.
-- What is looked at is bounded, not what is found: a filter that fits nothing in a long history is
-- a walk of many small steps. Dead jobs have an index of their own and are counted alone.
WITH seen AS MATERIALIZED (
    SELECT id, state, vendor, route, last_error, finished_at FROM gateway.jobs
    WHERE id > $2 AND id < $3
      AND ($1::gateway.job_state <> 'dead' OR parked)
      AND ($1 <> 'dead' OR $4::text IS NULL OR vendor = $4)
      AND ($6::text IS NULL
           OR correlation_id = $6 AND (event_id IS NULL OR correlation_id <> event_id::text)
           OR correlation_id = $6 AND event_id = $7)
      AND ($8::uuid IS NULL OR event_id = $8)
    ORDER BY id
    LIMIT $12
), matching AS (
    SELECT id FROM seen s
    WHERE state = $1
      AND ($4::text IS NULL OR vendor = $4)
      AND ($5::text IS NULL OR route = $5)
      AND finished_at < coalesce($11::timestamptz, now())
      AND ($9::text IS NULL OR gateway.fingerprint(last_error) = $9)
      -- A replay is younger than its original: older days need not be asked.
      AND ($10 OR (SELECT r.id FROM gateway.jobs r
                   WHERE r.replay_of = s.id AND r.state <> 'cancelled'
                     AND r.id > gateway.uuid7_floor(gateway.uuid7_time(s.id) - interval '1 hour')
                   LIMIT 1) IS NULL)
    ORDER BY id
    LIMIT $13
)
SELECT (SELECT count(*) FROM seen) AS looked_at,
       (SELECT id FROM seen ORDER BY id DESC LIMIT 1) AS reached,
       ARRAY (SELECT id FROM matching) AS ids

-- name: running
SELECT count(*) AS running FROM gateway.replays WHERE state = 'running'

-- name: request
-- $1 id, $2 who, $3 which jobs, $4 rate, $5 pause_seconds, $6 new_key, $7 counted, $8 counted_all,
-- $9 the id that it begins after, $10 the one that it ends before.
WITH requested AS (
    INSERT INTO gateway.replays (id, requested_by, wanted, rate, pause_seconds, new_key,
                                 counted, counted_all, reached, high)
    VALUES ($1, $2, $3::jsonb, $4, $5, $6, $7, $8, $9, $10)
    RETURNING id
)
SELECT gateway.record_act($2, 'replay.start',
                          jsonb_build_object('jobs', $3::jsonb, 'rate', $4::text, 'new_key', $6::boolean),
                          jsonb_build_object('replay', id, 'counted', $7::bigint)) AS act
FROM requested

-- name: take
-- Take or keep the replays that no living node has; $1 node, $2 lease in seconds, $3 how many.
UPDATE gateway.replays
SET node = $1, lease_until = now() + make_interval(secs => $2),
    fence = fence + (node IS DISTINCT FROM $1)::int
WHERE id IN (SELECT id FROM gateway.replays
             WHERE state = 'running' AND (node IS NULL OR node = $1 OR lease_until < now())
             ORDER BY id
             LIMIT $3
             FOR UPDATE SKIP LOCKED)
RETURNING id, fence, pause_seconds, extract(epoch FROM next_at - now())::float8 AS due_seconds

-- name: give_back
UPDATE gateway.replays SET node = NULL, lease_until = NULL WHERE node = $1 AND state = 'running'

-- name: lock
-- All that run: one step at a time, so that two replays of the same jobs see each other's.
SELECT id, node, fence, requested_at, wanted::text AS wanted, new_key, reached, high, pause_seconds
FROM gateway.replays WHERE state = 'running'
ORDER BY id
FOR UPDATE

-- name: unfinished
-- Jobs of replay $1 that are not finished, counting no further than $2.
SELECT count(*) AS jobs
FROM (SELECT FROM gateway.jobs
      WHERE replay_id = $1
        AND id >= (SELECT gateway.uuid7_floor(requested_at - interval '1 hour')
                   FROM gateway.replays WHERE id = $1)
        AND state IN ('scheduled', 'available', 'running', 'blocked')
      LIMIT $2) u

-- name: take_places
-- The replay of a dead job that holds its key takes its place at the front of the line. $1 the
-- originals, $2 their replays. In order, as everybody locks lines.
WITH held AS MATERIALIZED (
    SELECT k.route, k.key, n.fresh
    FROM unnest($1::uuid[], $2::uuid[]) AS n (original, fresh)
        JOIN gateway.jobs o ON o.id = n.original AND o.id = ANY ($1)
        JOIN gateway.ordering_keys k ON k.route = o.route AND k.key = o.ordering_key
                                        AND k.held AND k.job_id = o.id
    ORDER BY k.route, k.key
    FOR UPDATE OF k
)
UPDATE gateway.ordering_keys k SET job_id = h.fresh, held = false
FROM held h WHERE k.route = h.route AND k.key = h.key

-- name: make
-- $1 the originals, $2 the ids of their replays, $3 the replay, $4 with new idempotency keys.
INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                          holds_key, max_attempts, correlation_id, replay_of, replay_id,
                          idempotency_key, payload)
SELECT n.fresh, o.event_id, o.route, o.vendor, o.kind, 'available', 9, o.ordering_key,
       o.holds_key, o.max_attempts, o.correlation_id, o.id, $3,
       CASE WHEN NOT $4 THEN coalesce(o.idempotency_key, o.id) END, o.payload
FROM unnest($1::uuid[], $2::uuid[]) AS n (original, fresh)
    JOIN gateway.jobs o ON o.id = n.original AND o.id = ANY ($1)
ORDER BY o.route, o.ordering_key, n.fresh
RETURNING vendor

-- name: advance
-- $1 replay, $2 how many were made, $3 the last id looked at, $4 whether that was all, $5 lease.
UPDATE gateway.replays
SET made = made + $2, reached = $3,
    next_at = CASE WHEN $2 = 0 THEN next_at
              ELSE greatest(next_at, now()) + make_interval(secs => $2 * pause_seconds) END,
    state = CASE WHEN $4 THEN 'completed' ELSE state END,
    finished_at = CASE WHEN $4 THEN now() END,
    lease_until = now() + make_interval(secs => $5)
WHERE id = $1
RETURNING made, extract(epoch FROM next_at - now())::float8 AS due_seconds

-- name: list
-- The newest $1.
SELECT id, state, requested_at, requested_by, wanted::text AS filter, rate, new_key, counted,
       counted_all, made, node, finished_at
FROM gateway.replays ORDER BY id DESC LIMIT $1

-- name: show
SELECT id, state, requested_at, requested_by, wanted::text AS filter, rate, new_key, counted,
       counted_all, made, node, finished_at
FROM gateway.replays WHERE id = $1

-- name: jobs_by_state
-- What became of the jobs of replay $1, counting no further than $2.
SELECT state::text AS state, count(*) AS jobs
FROM (SELECT state FROM gateway.jobs
      WHERE replay_id = $1
        AND id >= (SELECT gateway.uuid7_floor(requested_at - interval '1 hour')
                   FROM gateway.replays WHERE id = $1)
      LIMIT $2) j
GROUP BY state

-- name: cancel
UPDATE gateway.replays SET state = 'cancelled', finished_at = now(), node = NULL, lease_until = NULL
WHERE id = $1 AND state = 'running'
RETURNING made

-- name: cancel_jobs
-- Cancel what waits of replay $1; the lines are locked first and in order, as a settle does it.
-- $2 who does it.
WITH found AS MATERIALIZED (
    SELECT id, route, ordering_key FROM gateway.jobs
    WHERE replay_id = $1
      AND id >= (SELECT gateway.uuid7_floor(requested_at - interval '1 hour')
                 FROM gateway.replays WHERE id = $1)
      AND state IN ('scheduled', 'available', 'blocked')
), lines AS MATERIALIZED (
    SELECT k.route FROM gateway.ordering_keys k
    WHERE (k.route, k.key) IN (SELECT route, ordering_key FROM found WHERE ordering_key IS NOT NULL)
    ORDER BY k.route, k.key
    FOR UPDATE
), cancelled AS (
    UPDATE gateway.jobs
    SET state = 'cancelled', finished_at = now(), last_error = 'its replay was cancelled'
    WHERE id = ANY (ARRAY (SELECT id FROM found)) AND state IN ('scheduled', 'available', 'blocked')
      AND (SELECT count(*) FROM lines) >= 0
    RETURNING id
)
SELECT count(*) AS cancelled,
       gateway.record_act($2, 'replay.cancel', jsonb_build_object('replay', $1::uuid),
                          jsonb_build_object('cancelled', count(*))) AS act
FROM cancelled

-- name: dead_groups
-- Dead letters of one kind together, the largest groups first, at most $6. $1 vendor, $2 route, $3 the
-- lowest id, $4 the id above the highest, $5 how many of the newest are looked at.
SELECT route, vendor, last_status AS status, gateway.fingerprint(last_error) AS error,
       sum(jobs)::bigint AS jobs, min(first) AS first, max(last) AS last,
       max(example)::uuid AS example, (sum(sum(jobs)) OVER ())::bigint AS looked_at
FROM (
    -- Equal texts first: the fingerprint is what costs.
    SELECT route, vendor, last_status, left(last_error, 400) AS last_error, count(*) AS jobs,
           min(finished_at) AS first, max(finished_at) AS last, max(id::text) AS example
    FROM (SELECT id, route, vendor, last_status, last_error, finished_at FROM gateway.jobs
          WHERE parked AND id >= $3 AND id < $4
            AND ($1::text IS NULL OR vendor = $1)
            AND ($2::text IS NULL OR route = $2)
          ORDER BY id DESC
          LIMIT $5) newest
    GROUP BY 1, 2, 3, 4
) texts
GROUP BY 1, 2, 3, 4
ORDER BY jobs DESC, last DESC
LIMIT $6

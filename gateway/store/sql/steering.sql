-- name: paused
-- What is paused, the routes whose pause is over while jobs of theirs may still be set aside, and
-- whether a replay runs: all that a node looks for once a second, in one round trip.
SELECT 'vendor' AS what, vendor AS name FROM gateway.vendor_state WHERE paused
UNION ALL
SELECT 'route', route FROM gateway.route_state WHERE paused
UNION ALL
SELECT 'aside', route FROM gateway.route_state WHERE aside AND NOT paused
UNION ALL
SELECT 'replay', '' WHERE EXISTS (SELECT FROM gateway.replays WHERE state = 'running')

-- name: pause_vendor
SELECT gateway.pause_vendor($1, $2) AS changed

-- name: resume_vendor
SELECT gateway.resume_vendor($1, $2) AS changed

-- name: pause_route
SELECT gateway.pause_route($1, $2) AS changed

-- name: resume_route
SELECT gateway.resume_route($1, $2) AS changed

-- name: set_aside
-- Put jobs that node $2 holds out of the way, where their route is paused; others go to the backlog.
-- $1 ids, $3 their routes. The lock makes the end of a pause wait for us, and us see it: whoever
-- brings the jobs back afterwards finds ours, too. Returns the routes that are not paused any more.
WITH paused AS MATERIALIZED (
    SELECT route FROM gateway.route_state WHERE route = ANY ($3::text[]) AND paused FOR SHARE
), aside AS (
    UPDATE gateway.jobs j
    SET state = CASE WHEN j.route IN (SELECT route FROM paused) THEN 'scheduled' ELSE 'available' END
            ::gateway.job_state,
        run_at = CASE WHEN j.route IN (SELECT route FROM paused) THEN '9999-12-31 00:00:00+00'
                 ELSE j.run_at END,
        node = NULL, claim_no = claim_no + 1, started_at = NULL
    WHERE id = ANY ($1::uuid[]) AND node = $2 AND state = 'running'
)
SELECT route FROM unnest($3::text[]) AS route WHERE route NOT IN (SELECT route FROM paused)

-- name: bring_back
-- Make jobs of route $1 that were set aside claimable, the oldest $2 of them; return their lanes.
WITH oldest AS MATERIALIZED (
    SELECT id FROM gateway.jobs
    WHERE route = $1 AND due_at = '9999-12-31 00:00:00+00'
    ORDER BY id
    LIMIT $2
    FOR UPDATE
)
UPDATE gateway.jobs SET state = 'available', run_at = now()
WHERE id = ANY (ARRAY (SELECT id FROM oldest)) AND state = 'scheduled'
RETURNING vendor

-- name: all_back
-- Nothing of route $1 is set aside any more; nothing can come as long as it is not paused.
UPDATE gateway.route_state SET aside = false WHERE route = $1 AND NOT paused

-- name: routes
-- The state of the routes, and how many of their jobs are set aside, counting no further than $1.
SELECT s.route, s.paused,
       (SELECT count(*) FROM (SELECT FROM gateway.jobs j
                              WHERE j.route = s.route AND j.due_at = '9999-12-31 00:00:00+00'
                              LIMIT $1) a) AS aside
FROM gateway.route_state s WHERE s.aside OR s.paused

-- name: reschedule
SELECT gateway.reschedule($1, $2, $3) AS before

-- name: reschedule_in
-- The same by the database's clock: $2 seconds from now.
SELECT now() + make_interval(secs => $2) AS moment,
       gateway.reschedule($1, now() + make_interval(secs => $2), $3) AS before

-- name: held_keys
-- Keys that wait for a decision, at most $1; how many jobs wait is counted no further than $2.
SELECT k.route, k.key, k.job_id, j.last_status, j.last_error, j.finished_at AS since,
       (SELECT count(*) FROM (SELECT FROM gateway.jobs w
                              WHERE w.route = k.route AND w.ordering_key = k.key AND w.in_line
                              LIMIT $2) l) AS waiting
FROM gateway.ordering_keys k LEFT JOIN gateway.jobs j ON j.id = k.job_id
WHERE k.held
ORDER BY k.route, k.key
LIMIT $1

-- name: release_key
SELECT gateway.release_key($1, $2, $3) AS next

-- name: from_now
-- The first moment of which nothing is there yet, as far as ids tell: they know milliseconds.
SELECT date_trunc('milliseconds', now()) + interval '1 ms' AS from_now

-- name: count_waiting
-- Jobs that wait, counting no further than $9; $1 to $8 as gateway.waiting takes them.
SELECT count(*) AS jobs
FROM (SELECT FROM gateway.waiting($1, $2, $3, $4, $5, $6, $7, $8) LIMIT $9) w

-- name: cancel_waiting
-- Cancel some of them, $9 at most; return how many were found and how many are cancelled now. Their
-- lines are locked first and in order, as a settle does it, so that the two cannot deadlock.
-- $10 who does it, $11 the filter as it goes into the book.
WITH found AS MATERIALIZED (
    SELECT id, route, ordering_key FROM gateway.waiting($1, $2, $3, $4, $5, $6, $7, $8) LIMIT $9
), lines AS MATERIALIZED (
    SELECT k.route FROM gateway.ordering_keys k
    WHERE (k.route, k.key) IN (SELECT route, ordering_key FROM found WHERE ordering_key IS NOT NULL)
    ORDER BY k.route, k.key
    FOR UPDATE
), cancelled AS (
    UPDATE gateway.jobs
    SET state = 'cancelled', finished_at = now(), last_error = 'cancelled by an operator'
    WHERE id = ANY (ARRAY (SELECT id FROM found)) AND id >= $7 AND id < $8
      AND state IN ('scheduled', 'available', 'blocked')
      AND ($1::gateway.job_state IS NULL OR state = $1)
      AND (SELECT count(*) FROM lines) >= 0
    RETURNING id
), told AS (
    SELECT gateway.record_act($10, 'jobs.cancel', $11::jsonb, jsonb_build_object('cancelled', count(*)))
    FROM cancelled HAVING count(*) > 0
)
SELECT (SELECT count(*) FROM found) AS found, (SELECT count(*) FROM cancelled) AS cancelled,
       (SELECT count(*) FROM told) AS told

-- name: reroute
-- Insert the jobs that today's routes make of a stored event, and say so in the book. $1 the event,
-- $2 who; of each job: $3 id, $4 route, $5 lane, $6 kind, $7 priority, $8 ordering key, $9 whether it
-- holds it, $10 delay, $11 attempts, $12 correlation id.
WITH made AS (
    INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                              holds_key, run_at, max_attempts, correlation_id)
    SELECT id, $1, route, vendor, kind,
           CASE WHEN delay_seconds > 0 THEN 'scheduled' ELSE 'available' END::gateway.job_state,
           priority, ordering_key, holds_key,
           now() + make_interval(secs => least(delay_seconds, 3e9)), max_attempts, correlation_id
    FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[], $9::boolean[],
                $10::float8[], $11::int[], $12::text[])
        AS j (id, route, vendor, kind, priority, ordering_key, holds_key, delay_seconds,
              max_attempts, correlation_id)
    ORDER BY route, ordering_key, id
    RETURNING id, route, vendor, state
), told AS (
    SELECT gateway.record_act($2, 'event.reroute', jsonb_build_object('event', $1::uuid),
                              jsonb_build_object('jobs', coalesce(jsonb_agg(id), '[]')))
    FROM made
)
SELECT m.id, m.route, m.vendor, m.state::text AS state FROM told LEFT JOIN made m ON true
ORDER BY m.route, m.id

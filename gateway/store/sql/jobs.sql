-- name: claim
-- Take the most urgent jobs of the backlog for each lane that has room, and a few of the oldest
-- whatever their priority, so that nothing starves. $1 lanes, $2 room for the urgent, $3 room for
-- the oldest, $4 node, $5 the floor under the ids that are looked at (prunes old partitions), $6-$7
-- how far each lane was read before: of a priority of $6 and less urgent ones, nothing is left below
-- the id $7. What was claimed is still in the index, as long as it is not vacuumed, and passing all
-- of it would cost each claim more than the one before.
-- All scans must walk their partial index from there and stop early. The inner LIMIT, a constant
-- beyond any room, tells the planner how early; the row by row LIMIT outside is opaque to it. The
-- oldest are asked for by a range of one lane, since for an equal lane the primary key has the same
-- order, and walking that one passes every finished job.
WITH me AS (
    -- A node that a rescuer has buried claims nothing; see events.accept.
    SELECT node FROM gateway.nodes WHERE node = $4 FOR KEY SHARE
), wanted AS (
    SELECT w.*
    FROM unnest($1::text[], $2::int[], $3::int[], $6::smallint[], $7::uuid[])
            AS w (lane, urgent, oldest, priority, low), me
), urgent AS MATERIALIZED (
    SELECT u.id
    FROM wanted w CROSS JOIN LATERAL (
        SELECT b.id FROM (
            SELECT id FROM (
                SELECT j.id FROM gateway.jobs j
                WHERE j.vendor = w.lane AND j.claimable AND j.id >= $5 AND j.priority < w.priority
                ORDER BY j.priority, j.id
                LIMIT 1000
                FOR UPDATE SKIP LOCKED) more_urgent
            UNION ALL
            SELECT id FROM (
                SELECT j.id FROM gateway.jobs j
                WHERE j.vendor = w.lane AND j.claimable AND j.id >= $5
                  AND (j.priority, j.id) >= (w.priority, w.low)
                ORDER BY j.priority, j.id
                LIMIT 1000
                FOR UPDATE SKIP LOCKED) next) b
        LIMIT w.urgent) u
), oldest AS MATERIALIZED (
    SELECT o.id
    FROM wanted w CROSS JOIN LATERAL (
        SELECT b.id FROM (
            SELECT j.id FROM gateway.jobs j
            WHERE (j.vendor, j.id) >= (w.lane, w.low) AND j.vendor <= w.lane
              AND j.claimable AND j.id >= $5
            ORDER BY j.vendor, j.id
            LIMIT 1000
            FOR UPDATE SKIP LOCKED) b
        LIMIT w.oldest) o
), picked AS MATERIALIZED (
    SELECT id FROM urgent UNION SELECT id FROM oldest  -- both may have picked the same row
), claimed AS (
    UPDATE gateway.jobs j
    SET state = 'running', node = $4, claim_no = j.claim_no + 1, started_at = NULL
    WHERE j.id = ANY (ARRAY (SELECT id FROM picked)) AND j.id >= $5 AND j.claimable
    RETURNING j.id, j.event_id, j.route, j.vendor, j.kind, j.priority, j.attempt, j.max_attempts,
              j.claim_no, j.correlation_id, j.created_at, j.ordering_key, j.rescues,
              j.idempotency_key, j.payload::text AS payload
), floor AS (
    -- The rescue relies on it: no job of a node has an id below its oldest_held.
    UPDATE gateway.nodes
    SET oldest_held = least(oldest_held, (SELECT id FROM claimed ORDER BY id LIMIT 1))
    WHERE node = $4 AND oldest_held > (SELECT id FROM claimed ORDER BY id LIMIT 1)
)
SELECT *, id IN (SELECT id FROM urgent) AS urgent, id IN (SELECT id FROM oldest) AS oldest
FROM claimed ORDER BY priority, id

-- name: settle
-- Record how attempts ended, fenced: a row whose claim_no moved on, or that is not running any
-- more, is somebody else's by now and stays as it is. The history and the follow-up jobs are
-- written only for the rows that matched. Returns those.
-- It is planned once (see Database.fetch_planned), and as a rule for the partition of a day alone (see
-- JobPartitions). If not, $29 and $30, the least and the greatest of the ids, prune when it runs.
-- Attempts that ended alike say so once, as in events.accept: $1-$5 the endings, to which the attempts
-- ($6-$13) refer by position; an array is null where it would hold nothing but nulls. Attempts are
-- numbered, though nobody asks for the numbers, because the planner expects a thousand of what is
-- numbered so, and then finds them by a hash. Of the few that it expects otherwise it would compare
-- each with each job.
WITH outcome AS MATERIALIZED (
    SELECT o.*, ($1::text[])[o.ending_no] AS state, ($2::int[])[o.ending_no] AS attempt,
           ($3::int[])[o.ending_no] AS claim_no, ($4::int[])[o.ending_no] AS http_status,
           ($5::text[])[o.ending_no] AS outcome
    FROM ROWS FROM (
        unnest($6::uuid[], $7::int[], $8::float8[], $9::float8[], $10::float8[], $11::text[],
               $12::text[], $13::text[]),
        generate_series(1, cardinality($6::uuid[])))
        AS o (id, ending_no, started_at, duration_ms, delay_seconds, error, request, response,
              number)
), lines AS MATERIALIZED (
    -- Leaving the front of a line locks it: all of them now, and in order, so that nobody deadlocks.
    SELECT k.route FROM gateway.ordering_keys k
    WHERE (k.route, k.key) IN (SELECT * FROM unnest($27::text[], $28::text[]))
    ORDER BY k.route, k.key
    FOR UPDATE
), settled AS (
    UPDATE gateway.jobs j
    SET state       = o.state::gateway.job_state,
        attempt     = o.attempt,
        -- However long a handler wants to sleep, the year must stay one that can be stored.
        run_at      = CASE o.state WHEN 'scheduled'
                      THEN now() + make_interval(secs => least(coalesce(o.delay_seconds, 0), 3e9))
                      ELSE j.run_at END,
        node        = CASE WHEN o.state IN ('scheduled', 'available') THEN NULL ELSE j.node END,
        last_status = coalesce(o.http_status, j.last_status),
        last_error  = o.error,
        started_at  = to_timestamp(o.started_at),
        finished_at = CASE WHEN o.state IN ('completed', 'dead', 'cancelled') THEN now() END
    FROM outcome o
    WHERE j.id = o.id AND j.id = ANY ($6) AND j.id >= $29 AND j.id <= $30
      AND j.claim_no = o.claim_no
      -- As a CASE, because the planner knows how rare running jobs are: it would expect one row.
      AND CASE j.state WHEN 'running' THEN true ELSE false END
      AND (SELECT count(*) FROM lines) >= 0
    RETURNING o.*
), history AS (
    INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome,
                                  http_status, error, request, response)
    SELECT id, attempt, $14, to_timestamp(started_at), duration_ms, outcome, http_status, error,
           request::jsonb, response::jsonb
    FROM settled
    WHERE outcome <> 'snooze'
), follow_up AS (
    INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                              run_at, max_attempts, correlation_id, payload)
    SELECT f.id, f.event_id, f.route, f.vendor, f.kind,
           CASE WHEN f.delay_seconds > 0 THEN 'scheduled' ELSE 'available' END::gateway.job_state,
           f.priority, f.ordering_key, now() + make_interval(secs => least(f.delay_seconds, 3e9)),
           f.max_attempts, f.correlation_id, f.payload::jsonb
    FROM unnest($15::uuid[], $16::uuid[], $17::uuid[], $18::text[], $19::text[], $20::text[],
                $21::int[], $22::text[], $23::float8[], $24::int[], $25::text[], $26::text[])
        AS f (parent_id, id, event_id, route, vendor, kind,
              priority, ordering_key, delay_seconds, max_attempts, correlation_id, payload)
    WHERE f.parent_id IN (SELECT id FROM settled)
)
SELECT id FROM settled

-- name: look
-- Which of the lanes $1 have something in the backlog; a lane of null says that a scheduled job is
-- due. $2 the floor under the ids. Each question is for the first of an index, as in claim.
SELECT w.lane
FROM unnest($1::text[]) AS w (lane)
WHERE (SELECT true FROM gateway.jobs j
       WHERE (j.vendor, j.id) >= (w.lane, $2) AND j.vendor <= w.lane AND j.claimable AND j.id >= $2
       ORDER BY j.vendor, j.id LIMIT 1)
UNION ALL
SELECT NULL
WHERE (SELECT true FROM gateway.jobs WHERE due_at <= now() AND id >= $2 ORDER BY due_at LIMIT 1)

-- name: promote
-- Make due jobs claimable; return their lanes. $1 how many at most, $2 the floor under the ids.
WITH due AS MATERIALIZED (
    SELECT id FROM gateway.jobs
    WHERE due_at <= now() AND id >= $2
    ORDER BY due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE gateway.jobs SET state = 'available'
    WHERE id = ANY (ARRAY (SELECT id FROM due)) AND id >= $2 AND state = 'scheduled'
    RETURNING vendor
)
SELECT vendor, count(*) AS jobs FROM promoted GROUP BY vendor

-- name: release
-- Give jobs that this node holds back to the backlog, uncounted: at shutdown, or because their
-- lane cannot run for long. Returns what was given back.
UPDATE gateway.jobs
SET state = 'available', node = NULL, claim_no = claim_no + 1, started_at = NULL
WHERE id = ANY ($1::uuid[]) AND node = $2 AND state = 'running'
RETURNING id

-- name: strays
-- What the database says $2 holds and its memory, $3, does not; $1 the floor under the ids. None is
-- below the node's oldest_held, and ordered they are found by their key, so that of a day with
-- millions of jobs only the young end is read.
SELECT id, claim_no FROM gateway.jobs
WHERE id >= $1 AND id >= coalesce((SELECT oldest_held FROM gateway.nodes WHERE node = $2), $1)
  AND node = $2 AND state = 'running' AND id <> ALL ($3::uuid[])
ORDER BY id

-- name: release_claims
-- Give back the jobs $1 as far as they are still held by the claims $2 of the node $3.
UPDATE gateway.jobs j
SET state = 'available', node = NULL, claim_no = j.claim_no + 1, started_at = NULL
FROM unnest($1::uuid[], $2::int[]) AS s (id, claim_no)
WHERE j.id = s.id AND j.id = ANY ($1) AND j.claim_no = s.claim_no AND j.node = $3
  AND j.state = 'running'
RETURNING j.id

-- name: release_all
-- Give back whatever the database says $2 holds; $1 its oldest_held. In order they are found by
-- their key: see strays.
UPDATE gateway.jobs
SET state = 'available', node = NULL, claim_no = claim_no + 1, started_at = NULL
WHERE id = ANY (ARRAY (SELECT id FROM gateway.jobs
                       WHERE id >= $1 AND node = $2 AND state = 'running'
                       ORDER BY id))
  AND id >= $1 AND node = $2 AND state = 'running'
RETURNING id

-- name: mark_started
-- Say which of the held jobs are executing. Returns those that are still ours.
UPDATE gateway.jobs j SET started_at = s.started_at
FROM unnest($1::uuid[], $2::int[], $3::timestamptz[]) AS s (id, claim_no, started_at)
WHERE j.id = s.id AND j.id = ANY ($1) AND j.claim_no = s.claim_no AND j.state = 'running'
RETURNING j.id

-- name: backlog
-- How many jobs wait in each lane, counting no further than $2 in all. Each lane's name is above '':
-- said so that the planner, before a day is analysed, leans to the index and not to the whole table.
SELECT vendor, count(*) AS jobs
FROM (SELECT vendor FROM gateway.jobs WHERE claimable AND vendor > '' AND id >= $1 LIMIT $2) b
GROUP BY vendor

-- name: accept
-- One statement takes a batch of webhooks: dedupe keys, events, jobs. Its rows tell what differs
-- from plain success: (event, original) for a duplicate, (job, null) for one that waits in line.
-- A key that is taken keeps its event until it expires. The update is what makes this exact: it
-- waits for a concurrent transaction that holds the same key, and then sees what that committed.
-- The caller sends each key once, in key order, so that two nodes cannot deadlock.
-- It only inserts, by a plan that does not depend on what the tables hold: see Database.fetch_planned.
-- A job is handed off (inserted as running, held by this node) only while the node is known to
-- live: the key-share lock makes a rescuer's DELETE wait for us, and us see it. One row of nulls
-- says that we are taken for dead and that the jobs went to the backlog instead.
-- What the items of a batch share is sent once: $1-$2 the vendors, $13-$20 the kinds of jobs, to
-- which the events ($3-$12) and the jobs ($21-$24) refer by position. Positions are looked up by
-- subscript and not joined: of a join the planner expects one row, and then chooses nested loops
-- for everything that is built on it, whose cost grows with the square of the batch. An array is
-- null where it would hold nothing but nulls; no query is the empty one. Positions are null where
-- there is nothing to choose from: one vendor, one kind of job, one job for each event.
WITH me AS (
    SELECT node FROM gateway.nodes WHERE node = $25 FOR KEY SHARE
), incoming AS MATERIALIZED (
    SELECT e.*, ($1::text[])[coalesce(e.vendor_no, 1)] AS vendor,
           ($2::float8[])[coalesce(e.vendor_no, 1)] AS dedupe_window_seconds
    FROM unnest($3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                $10::text[], $11::bytea[], $12::float8[])
        AS e (id, vendor_no, event_type, dedupe_key, correlation_id, traceparent, headers, query,
              body, received_at)
), keyed AS (
    INSERT INTO gateway.dedupe_keys AS d (vendor, key, event_id, expires_at)
    SELECT vendor, dedupe_key, id, now() + make_interval(secs => least(dedupe_window_seconds, 3e9))
    FROM incoming
    WHERE dedupe_key IS NOT NULL
    ON CONFLICT (vendor, key) DO UPDATE SET
        event_id   = CASE WHEN d.expires_at <= now() THEN excluded.event_id ELSE d.event_id END,
        duplicates = CASE WHEN d.expires_at <= now() THEN 0 ELSE d.duplicates + 1 END,
        expires_at = CASE WHEN d.expires_at <= now() THEN excluded.expires_at ELSE d.expires_at END
    RETURNING d.vendor, d.key, d.event_id
), taken AS MATERIALIZED (
    SELECT * FROM keyed WHERE event_id <> ALL ($3)
), duplicate AS MATERIALIZED (
    SELECT i.id, t.event_id AS original_id
    FROM taken t JOIN incoming i ON i.vendor = t.vendor AND i.dedupe_key = t.key
), stored AS (
    INSERT INTO gateway.events (id, vendor, event_type, dedupe_key, correlation_id, traceparent,
                                headers, query, body, received_at)
    SELECT id, vendor, event_type, dedupe_key, coalesce(correlation_id, id::text), traceparent,
           headers::jsonb, coalesce(query, ''), body, to_timestamp(received_at)
    FROM incoming
    WHERE id NOT IN (SELECT id FROM duplicate)
), queued AS (
    INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                              holds_key, run_at, max_attempts, node, claim_no, correlation_id)
    SELECT j.id, j.event_id, j.route, ($14::text[])[j.kind_no], ($15::text[])[j.kind_no],
           CASE WHEN j.handed_off AND me.node IS NOT NULL THEN 'running'
                WHEN j.delay_seconds > 0 THEN 'scheduled'
                ELSE 'available' END::gateway.job_state,
           ($16::int[])[j.kind_no], j.ordering_key, ($19::boolean[])[j.kind_no],
           now() + make_interval(secs => least(j.delay_seconds, 3e9)), ($18::int[])[j.kind_no],
           CASE WHEN j.handed_off THEN me.node END,
           (j.handed_off AND me.node IS NOT NULL)::int,
           coalesce(($7::text[])[j.event_no], j.event_id::text)
    FROM (
        SELECT j.id, j.ordering_key, event_no, kind_no, ($3::uuid[])[event_no] AS event_id,
               ($13::text[])[kind_no] AS route, ($17::float8[])[kind_no] AS delay_seconds,
               ($20::boolean[])[kind_no] AS handed_off
        FROM unnest($21::uuid[], $22::int[], $23::int[], $24::text[])
                WITH ORDINALITY AS j (id, of_event, of_kind, ordering_key, position),
            LATERAL (VALUES (coalesce(of_event, position::int), coalesce(of_kind, 1)))
                AS chosen (event_no, kind_no)
    ) j LEFT JOIN me ON true
    WHERE j.event_id NOT IN (SELECT id FROM duplicate)
    -- Each job with a key locks its line: in one order, so that two nodes cannot deadlock.
    ORDER BY j.route, j.ordering_key, j.id
    RETURNING id, state
)
SELECT id, original_id FROM duplicate
UNION ALL
SELECT id, NULL FROM queued WHERE state = 'blocked'
UNION ALL
SELECT NULL, NULL WHERE NOT EXISTS (SELECT FROM me)

-- name: fetch
SELECT id, vendor, event_type, dedupe_key, correlation_id, traceparent, headers::text AS headers,
       query, body, received_at
FROM gateway.events
WHERE id = $1

-- name: of_jobs
-- The events of claimed jobs; $1 their ids, $2 the largest body in bytes worth carrying along.
-- Not a join in the claim: only ids that are known while planning prune the old partitions.
SELECT id, vendor, event_type, dedupe_key, correlation_id, traceparent, headers::text AS headers,
       query, CASE WHEN octet_length(body) <= $2 THEN body END AS body, received_at
FROM gateway.events
WHERE id = ANY ($1::uuid[])

-- name: count_repeats
-- Repeats that came in one batch with their first, which alone went through accept: $1-$2 vendors
-- and keys, $3 how many more. Locked in the order of accept, so that two nodes cannot deadlock.
WITH locked AS (
    SELECT d.vendor, d.key, r.more
    FROM unnest($1::text[], $2::text[], $3::int[]) AS r (vendor, key, more)
        JOIN gateway.dedupe_keys d ON d.vendor = r.vendor AND d.key = r.key
    ORDER BY d.vendor COLLATE "C", d.key COLLATE "C"
    FOR UPDATE OF d
)
UPDATE gateway.dedupe_keys d SET duplicates = d.duplicates + locked.more
FROM locked
WHERE d.vendor = locked.vendor AND d.key = locked.key

-- name: duplicates
SELECT duplicates FROM gateway.dedupe_keys WHERE vendor = $1 AND key = $2 AND event_id = $3

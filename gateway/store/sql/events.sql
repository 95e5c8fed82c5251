-- name: accept
-- One statement takes a batch of webhooks: dedupe keys, events, jobs. Its rows tell what differs
-- from plain success: (event, original) for a duplicate, (job, null) for one that waits in line.
-- A key that is taken keeps its event until it expires. The update is what makes this exact: it
-- waits for a concurrent transaction that holds the same key, and then sees what that committed.
-- The caller sends each key once, in key order, so that two nodes cannot deadlock.
-- A job is handed off (inserted as running, held by this node) only while the node is known to
-- live: the key-share lock makes a rescuer's DELETE wait for us, and us see it. One row of nulls
-- says that we are taken for dead and that the jobs went to the backlog instead.
WITH me AS (
    SELECT node FROM gateway.nodes WHERE node = $23 FOR KEY SHARE
), incoming AS MATERIALIZED (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::text[], $9::bytea[], $10::timestamptz[], $11::float8[])
        AS e (id, vendor, event_type, dedupe_key, correlation_id, traceparent, headers,
              query, body, received_at, dedupe_window_seconds)
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
), duplicate AS MATERIALIZED (
    SELECT i.id, k.event_id AS original_id
    FROM keyed k JOIN incoming i ON i.vendor = k.vendor AND i.dedupe_key = k.key
    WHERE k.event_id <> i.id
), stored AS (
    INSERT INTO gateway.events (id, vendor, event_type, dedupe_key, correlation_id, traceparent,
                                headers, query, body, received_at)
    SELECT id, vendor, event_type, dedupe_key, correlation_id, traceparent,
           headers::jsonb, query, body, received_at
    FROM incoming
    WHERE id NOT IN (SELECT id FROM duplicate)
), queued AS (
    INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                              holds_key, run_at, max_attempts, node, claim_no, correlation_id)
    SELECT id, event_id, route, vendor, kind,
           CASE WHEN state = 'running' AND me.node IS NULL THEN 'available' ELSE state END
               ::gateway.job_state,
           priority, ordering_key, holds_key,
           now() + make_interval(secs => least(delay_seconds, 3e9)), max_attempts,
           CASE state WHEN 'running' THEN me.node END,
           CASE WHEN state = 'running' AND me.node IS NOT NULL THEN 1 ELSE 0 END,
           correlation_id
    FROM unnest($12::uuid[], $13::uuid[], $14::text[], $15::text[], $16::text[], $17::text[],
                $18::int[], $19::text[], $20::float8[], $21::int[], $22::text[], $24::boolean[])
        AS j (id, event_id, route, vendor, kind, state,
              priority, ordering_key, delay_seconds, max_attempts, correlation_id, holds_key)
        LEFT JOIN me ON true
    WHERE event_id NOT IN (SELECT id FROM duplicate)
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

-- name: duplicates
SELECT duplicates FROM gateway.dedupe_keys WHERE vendor = $1 AND key = $2 AND event_id = $3

-- name: park
INSERT INTO gateway.vendor_state AS s (vendor, parked_until)
SELECT vendor, now() + make_interval(secs => seconds)
FROM unnest($1::text[], $2::float8[]) AS wish (vendor, seconds)
ORDER BY vendor
ON CONFLICT (vendor) DO UPDATE SET parked_until = excluded.parked_until, updated_at = now()
WHERE s.parked_until IS NULL OR s.parked_until < excluded.parked_until

-- name: move_breakers
-- The first that opens it probes; its word counts until its time is over. A success ends it.
INSERT INTO gateway.vendor_state AS s (vendor, breaker, breaker_until, breaker_node)
SELECT vendor, state, now() + make_interval(secs => seconds), node
FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[]) AS news (vendor, state, seconds, node)
ORDER BY vendor
ON CONFLICT (vendor) DO UPDATE
SET breaker = excluded.breaker, breaker_until = excluded.breaker_until,
    breaker_node = excluded.breaker_node, updated_at = now()
WHERE excluded.breaker = 'closed' OR s.breaker = 'closed' OR s.breaker_node = excluded.breaker_node
   OR s.breaker_until IS NULL OR s.breaker_until < now()

-- name: states
SELECT vendor, greatest(coalesce(extract(epoch FROM parked_until - now()), 0), 0)::float8 AS parked_seconds,
       breaker, coalesce(extract(epoch FROM breaker_until - now()), 0)::float8 AS breaker_seconds, breaker_node
FROM gateway.vendor_state

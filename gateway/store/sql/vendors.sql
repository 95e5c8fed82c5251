-- name: park
-- A wish from before the vendor was resumed counts no more: $3 is how often it was as the node knows.
INSERT INTO gateway.vendor_state AS s (vendor, parked_until, resumes)
SELECT vendor, now() + make_interval(secs => seconds), resumes
FROM unnest($1::text[], $2::float8[], $3::bigint[]) AS wish (vendor, seconds, resumes)
ORDER BY vendor
ON CONFLICT (vendor) DO UPDATE SET parked_until = excluded.parked_until, updated_at = now()
WHERE (s.parked_until IS NULL OR s.parked_until < excluded.parked_until)
  AND s.resumes <= excluded.resumes

-- name: move_breakers
-- The first that opens it probes; its word counts until its time is over. A success ends it. What
-- was found before the vendor was resumed counts no more ($5).
INSERT INTO gateway.vendor_state AS s (vendor, breaker, breaker_until, breaker_node, resumes)
SELECT vendor, state, now() + make_interval(secs => seconds), node, resumes
FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::bigint[])
    AS news (vendor, state, seconds, node, resumes)
ORDER BY vendor
ON CONFLICT (vendor) DO UPDATE
SET breaker = excluded.breaker, breaker_until = excluded.breaker_until,
    breaker_node = excluded.breaker_node, updated_at = now()
WHERE (excluded.breaker = 'closed' OR s.breaker = 'closed' OR s.breaker_node = excluded.breaker_node
       OR s.breaker_until IS NULL OR s.breaker_until < now())
  AND s.resumes <= excluded.resumes

-- name: states
SELECT vendor, greatest(coalesce(extract(epoch FROM parked_until - now()), 0), 0)::float8 AS parked_seconds,
       breaker, coalesce(extract(epoch FROM breaker_until - now()), 0)::float8 AS breaker_seconds, breaker_node,
       resumes
FROM gateway.vendor_state

-- name: save_limits
INSERT INTO gateway.vendor_state AS s (vendor, limiter)
SELECT * FROM unnest($1::text[], $2::jsonb[])
ON CONFLICT (vendor) DO UPDATE SET limiter = excluded.limiter, updated_at = now()

-- name: load_limits
SELECT vendor, limiter::text AS limiter, extract(epoch FROM now() - updated_at)::float8 AS age_seconds
FROM gateway.vendor_state
WHERE limiter IS NOT NULL

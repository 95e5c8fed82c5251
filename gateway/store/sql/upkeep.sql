-- name: make_partitions
-- One node at a time; the others find the partitions made. $1 days ahead.
SELECT gateway.make_partitions((now() AT TIME ZONE 'UTC')::date + day) AS made
FROM generate_series(-1, $1::int) AS day
WHERE pg_try_advisory_xact_lock(7305808869232150017)

-- name: unsealed_days
-- Days whose partition is two days old and may still have unfinished jobs.
SELECT day
FROM (SELECT to_date(substr(c.relname, 6), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'gateway.jobs'::regclass AND c.relname ~ '^jobs_\d{8}$') d
WHERE day < (now() AT TIME ZONE 'UTC')::date - 1
  AND NOT EXISTS (SELECT FROM gateway.sealed_days s WHERE s.day = d.day)
ORDER BY day

-- name: seal_day
-- Finished for good unless some job is not; $1 the day, $2 and $3 the bounds of its ids.
INSERT INTO gateway.sealed_days (day)
SELECT $1::date
WHERE NOT EXISTS (SELECT FROM gateway.jobs
                  WHERE id >= $2 AND id < $3
                    AND state IN ('scheduled', 'available', 'running', 'blocked'))
ON CONFLICT DO NOTHING
RETURNING day

-- name: day_bounds
SELECT gateway.uuid7_floor($1::date::timestamp AT TIME ZONE 'UTC') AS low,
       gateway.uuid7_floor(($1::date + 1)::timestamp AT TIME ZONE 'UTC') AS high

-- name: oldest_unsealed
-- The first id that an unfinished job can have: the start of the first day that is not sealed.
-- Ids before every partition are in the default one, which is as good as always empty.
SELECT CASE WHEN EXISTS (SELECT FROM gateway.jobs_default) THEN '00000000-0000-0000-0000-000000000000'::uuid
       ELSE gateway.uuid7_floor(coalesce(min(day), (now() AT TIME ZONE 'UTC')::date - 1)::timestamp
                                AT TIME ZONE 'UTC') END AS floor
FROM (SELECT to_date(substr(c.relname, 6), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'gateway.jobs'::regclass AND c.relname ~ '^jobs_\d{8}$') d
WHERE NOT EXISTS (SELECT FROM gateway.sealed_days s WHERE s.day = d.day)

-- name: expired_days
-- Sealed days past the retention; $1 seconds.
SELECT day FROM gateway.sealed_days
WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' < now() - make_interval(secs => $1)
ORDER BY day

-- name: prune_dedupe_keys
DELETE FROM gateway.dedupe_keys
WHERE (vendor, key) IN (SELECT vendor, key FROM gateway.dedupe_keys
                        WHERE expires_at < now() - interval '1 minute'
                        ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING 1

-- name: forget_day
DELETE FROM gateway.sealed_days WHERE day = $1

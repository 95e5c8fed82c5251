-- name: tables
-- What each table that changes much weighs: its dead rows, by the statistics that autovacuum goes by,
-- and its bytes with indexes, by the age of the partition. $1 the node that asks: of those that live
-- only the eldest is answered, so that the others need not look.
WITH eldest AS (
    SELECT node FROM gateway.nodes WHERE seen_at + lease >= now() ORDER BY started_at, node LIMIT 1
), today AS (
    SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') AS today,
           to_char((now() AT TIME ZONE 'UTC') - interval '1 day', 'YYYYMMDD') AS yesterday
), leaves AS (
    SELECT p.relname AS table, c.oid, substr(c.relname, length(p.relname) + 2) AS day
    FROM pg_class p
        JOIN pg_inherits i ON i.inhparent = p.oid
        JOIN pg_class c ON c.oid = i.inhrelid
    WHERE p.oid IN ('gateway.events'::regclass, 'gateway.jobs'::regclass, 'gateway.attempts'::regclass)
    UNION ALL
    SELECT relname, oid, '' FROM pg_class
    WHERE oid IN ('gateway.dedupe_keys'::regclass, 'gateway.ordering_keys'::regclass,
                  'gateway.nodes'::regclass, 'gateway.vendor_state'::regclass,
                  'gateway.rate_books'::regclass, 'gateway.rate_use'::regclass,
                  'gateway.rate_shares'::regclass)
)
SELECT l.table,
       CASE WHEN l.day = '' THEN 'whole' WHEN l.day = 'default' THEN 'default'
            WHEN l.day = t.today THEN 'today' WHEN l.day = t.yesterday THEN 'yesterday'
            WHEN l.day > t.today THEN 'ahead' ELSE 'older' END AS age,
       count(*) AS partitions,
       sum(pg_stat_get_dead_tuples(l.oid))::bigint AS dead_rows,
       sum(coalesce(pg_total_relation_size(l.oid), 0))::bigint AS bytes
FROM leaves l, today t, eldest e
WHERE e.node = $1
GROUP BY 1, 2

-- name: xmin_holders
-- Who keeps dead rows from being removed, the oldest first: transactions of this database, prepared
-- ones, standbys and replication slots. A vacuum does not count: others' do not wait for it. Where
-- PostgreSQL keeps no time of it, seconds is null.
SELECT *
FROM (
    SELECT 'session' AS kind, pid::text AS name, coalesce(application_name, '') AS application,
           coalesce(usename, '') AS role, coalesce(state, backend_type) AS state,
           coalesce(xact_start, backend_start) AS since,
           extract(epoch FROM now() - coalesce(xact_start, backend_start))::float8 AS seconds,
           greatest(age(backend_xmin), age(backend_xid)) AS transactions, query
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
      AND (datname = current_database() OR datname IS NULL)
      AND backend_type <> 'autovacuum worker'
      AND coalesce(query, '') !~* '^\s*vacuum\M'
    UNION ALL
    SELECT 'prepared transaction', gid, '', owner, 'prepared', prepared,
           extract(epoch FROM now() - prepared)::float8, age(transaction), NULL
    FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', slot_name, coalesce(plugin, ''), '',
           CASE WHEN active THEN 'active' ELSE 'inactive' END, NULL, NULL,
           greatest(age(xmin), age(catalog_xmin)), NULL
    FROM pg_replication_slots
    WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL AND database = current_database()
) holders
ORDER BY transactions DESC, since
LIMIT 20

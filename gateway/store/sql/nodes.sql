-- name: register
INSERT INTO gateway.nodes (node, lease, version, oldest_held)
VALUES ($1, make_interval(secs => $2), $3, $4)

-- name: renew
-- No row: somebody took this node for dead and rescued its jobs.
UPDATE gateway.nodes SET seen_at = now(), oldest_held = coalesce($2::uuid, oldest_held)
WHERE node = $1
RETURNING EXISTS (SELECT FROM gateway.nodes WHERE seen_at + lease < now() AND node <> $1) AS others_expired

-- name: resign
-- A claim or hand-off of ours that is still in flight holds the row: it is waited for.
DELETE FROM gateway.nodes WHERE node = $1 RETURNING oldest_held

-- name: bury
-- Remove the nodes whose lease has run out. Deleting the row is the lock: of several rescuers one
-- gets each node, and a node that comes back finds itself gone. A node with a claim or hand-off in
-- flight holds its row and is skipped; the next heartbeat finds it again.
DELETE FROM gateway.nodes
WHERE node IN (SELECT node FROM gateway.nodes WHERE seen_at + lease < now() FOR UPDATE SKIP LOCKED)
RETURNING node, oldest_held

-- name: rescue
-- Give the jobs of a buried node back; $1 the node, $2 its oldest_held. A statement of its own,
-- after bury in the same transaction, so that it sees what bury waited for.
-- An execution that is known to have begun counts as an attempt; a job that has used up its
-- attempts in this way is dead, so that one which kills its node cannot do so for ever.
WITH lost AS MATERIALIZED (
    SELECT id, node, started_at, attempt + 1 AS attempt, attempt + 1 >= max_attempts AS last
    FROM gateway.jobs
    WHERE id >= $2 AND node = $1 AND state = 'running'
    ORDER BY id  -- the same order as a settle's, so that the two rarely deadlock
    FOR UPDATE
), history AS (
    INSERT INTO gateway.attempts (job_id, attempt, node, started_at, duration_ms, outcome, error)
    SELECT id, attempt, node, started_at,
           greatest(extract(epoch FROM now() - started_at), 0) * 1000, 'lost', 'its node died during the attempt'
    FROM lost WHERE started_at IS NOT NULL
), dead AS (
    UPDATE gateway.jobs j
    SET state = 'dead', attempt = j.attempt + 1, finished_at = now(), claim_no = claim_no + 1,
        rescues = rescues + 1, last_error = 'its node died during the attempt'
    WHERE j.id = ANY (ARRAY (SELECT id FROM lost WHERE started_at IS NOT NULL AND last)) AND j.id >= $2
    RETURNING j.vendor
), freed AS (
    UPDATE gateway.jobs j
    SET state = 'available', node = NULL, claim_no = claim_no + 1, rescues = rescues + 1,
        attempt = j.attempt + (j.started_at IS NOT NULL)::int, started_at = NULL,
        last_error = CASE WHEN j.started_at IS NULL THEN j.last_error
                     ELSE 'its node died during the attempt' END
    WHERE j.id = ANY (ARRAY (SELECT id FROM lost WHERE started_at IS NULL OR NOT last)) AND j.id >= $2
    RETURNING j.vendor
)
SELECT vendor, count(*) AS jobs FROM (TABLE dead UNION ALL TABLE freed) r GROUP BY vendor

-- Waiting jobs that fit a filter, in whose word "waiting" is said once: what is counted before a
-- cancellation is what is cancelled. A null filters nothing; ids are from low on and below high.
-- Each of the three indexes of waiting jobs is named by its column, so that none else is looked at.
-- The planner puts it in place of its call (one SELECT, STABLE), bounds and all.
CREATE FUNCTION gateway.waiting(
    in_state gateway.job_state, of_vendor text, of_route text, correlation text, event uuid,
    fingerprint text, low uuid, high uuid
) RETURNS SETOF gateway.jobs
    LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT * FROM gateway.jobs
    WHERE id >= low AND id < high
      AND (in_state IS NULL OR state = in_state)
      AND (in_state IS DISTINCT FROM 'available' OR claimable)
      AND (in_state IS DISTINCT FROM 'scheduled' OR due_at IS NOT NULL)
      AND (in_state IS DISTINCT FROM 'blocked' OR in_line)
      AND (claimable OR due_at IS NOT NULL OR in_line)
      AND (of_vendor IS NULL OR vendor = of_vendor)
      AND (of_route IS NULL OR route = of_route)
      AND (correlation IS NULL OR correlation_id = correlation)
      AND (event IS NULL OR event_id = event)
      AND (fingerprint IS NULL OR gateway.fingerprint(last_error) = fingerprint)
$$;

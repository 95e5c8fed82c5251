-- Let the oldest of a line go, or forget a line in which nobody waits. The caller holds its row.
-- Whether it is due, the clock says, not now(): a follower that was taken in after this transaction
-- had begun would be due by a hair later than that, and would wait for the next promotion.
CREATE OR REPLACE FUNCTION gateway.advance_line(line_route text, line_key text) RETURNS uuid
    LANGUAGE plpgsql AS $$
DECLARE
    -- Those in line are about as young as that: this keeps old partitions out of the search.
    low      uuid := (SELECT gateway.uuid7_floor(gateway.uuid7_time(since) - interval '2 days')
                  FROM gateway.ordering_keys WHERE route = line_route AND key = line_key);
    follower uuid;
BEGIN
    LOOP
        SELECT id INTO follower FROM gateway.jobs
        WHERE route = line_route AND ordering_key = line_key AND in_line AND id >= low
        ORDER BY id LIMIT 1;
        IF NOT FOUND THEN
            DELETE FROM gateway.ordering_keys WHERE route = line_route AND key = line_key;
            RETURN NULL;
        END IF;
        UPDATE gateway.jobs
        SET state = CASE WHEN run_at > clock_timestamp() THEN 'scheduled'
                    ELSE 'available' END::gateway.job_state
        WHERE id = follower AND state = 'blocked';
        IF FOUND THEN
            UPDATE gateway.ordering_keys SET job_id = follower, since = follower, held = false
            WHERE route = line_route AND key = line_key;
            RETURN follower;
        END IF;
        -- Cancelled while we looked: the next one, then.
    END LOOP;
END $$;

-- Order within a key: at most one job of a route's key is in flight, the others wait in line.
--
-- Triggers keep the line, so that every way into and out of a state is covered: intake, settle,
-- rescue, replay, and an operator's psql. They cost nothing where a job has no key.

-- The front of each line: the one job of its key that is not blocked. held: that job died, and its
-- route wants somebody to decide before the next one goes. since: the id of the job whose place the
-- front has; its own, unless it is a replay, which is younger than those who waited for the decision.
CREATE TABLE gateway.ordering_keys (
    route  text NOT NULL,
    key    text NOT NULL,
    job_id uuid NOT NULL,
    since  uuid NOT NULL,
    held   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (route, key)
) WITH (fillfactor = 80);

-- A new job goes to the front of an empty line, else it waits. The update of a taken row changes
-- nothing but locks it: a job that leaves the front waits for us and then sees us in line, so no
-- job is ever left waiting behind nobody. Whoever inserts several does it in order of their keys.
CREATE FUNCTION gateway.join_line() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    front uuid;
BEGIN
    INSERT INTO gateway.ordering_keys AS k (route, key, job_id, since)
    VALUES (NEW.route, NEW.ordering_key, NEW.id, NEW.id)
    ON CONFLICT (route, key) DO UPDATE SET job_id = k.job_id
    RETURNING job_id INTO front;
    IF front <> NEW.id THEN
        NEW.state := 'blocked';
        NEW.node := NULL;
        NEW.claim_no := 0;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER jobs_join_line BEFORE INSERT ON gateway.jobs FOR EACH ROW
    WHEN (NEW.ordering_key IS NOT NULL)
    EXECUTE FUNCTION gateway.join_line();

-- Let the oldest of a line go, or forget a line in which nobody waits. The caller holds its row.
CREATE FUNCTION gateway.advance_line(line_route text, line_key text) RETURNS uuid
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
        SET state = CASE WHEN run_at > now() THEN 'scheduled' ELSE 'available' END::gateway.job_state
        WHERE id = follower AND state = 'blocked';
        IF FOUND THEN
            UPDATE gateway.ordering_keys SET job_id = follower, since = follower, held = false
            WHERE route = line_route AND key = line_key;
            RETURN follower;
        END IF;
        -- Cancelled while we looked: the next one, then.
    END LOOP;
END $$;

CREATE FUNCTION gateway.leave_line() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM gateway.ordering_keys
    WHERE route = NEW.route AND key = NEW.ordering_key AND job_id = NEW.id
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;  -- it was not at the front: cancelled while it waited
    END IF;
    IF NEW.state = 'dead' AND NEW.holds_key THEN
        UPDATE gateway.ordering_keys SET held = true
        WHERE route = NEW.route AND key = NEW.ordering_key;
    ELSE
        PERFORM gateway.advance_line(NEW.route, NEW.ordering_key);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_leave_line AFTER UPDATE OF state ON gateway.jobs FOR EACH ROW
    WHEN (NEW.ordering_key IS NOT NULL
          AND NEW.state IN ('completed', 'dead', 'cancelled') AND OLD.state <> NEW.state)
    EXECUTE FUNCTION gateway.leave_line();

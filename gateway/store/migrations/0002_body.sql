-- The acts that an operator may carry out from psql, the same as those of the command line.

-- Make a new job from a finished one; return the new job's id.
CREATE FUNCTION gateway.replay(job_id uuid) RETURNS uuid
    LANGUAGE plpgsql AS $$
DECLARE
    original gateway.jobs;
    fresh    uuid := gateway.uuid7();
BEGIN
    SELECT * INTO original FROM gateway.jobs WHERE id = job_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job %: not found', job_id USING ERRCODE = 'no_data_found';
    END IF;
    IF original.state NOT IN ('completed', 'dead', 'cancelled') THEN
        RAISE EXCEPTION 'job %: is %, only a finished job can be replayed', job_id, original.state
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Wait until it is completed, dead or cancelled; or cancel it first.';
    END IF;
    -- The replay of a dead job that holds its key takes its place at the front of the line.
    UPDATE gateway.ordering_keys SET job_id = fresh, held = false
    WHERE route = original.route AND key = original.ordering_key AND held AND ordering_keys.job_id = original.id;
    INSERT INTO gateway.jobs (id, event_id, route, vendor, kind, state, priority, ordering_key,
                              holds_key, max_attempts, correlation_id, replay_of, payload)
    VALUES (fresh, original.event_id, original.route, original.vendor, original.kind, 'available',
            original.priority, original.ordering_key, original.holds_key, original.max_attempts,
            original.correlation_id, original.id, original.payload);
    RETURN fresh;
END $$;

-- Cancel a job that is not running; return the state that it was in.
CREATE FUNCTION gateway.cancel(job_id uuid) RETURNS gateway.job_state
    LANGUAGE plpgsql AS $$
DECLARE
    before gateway.job_state;
BEGIN
    SELECT state INTO before FROM gateway.jobs WHERE id = job_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job %: not found', job_id USING ERRCODE = 'no_data_found';
    END IF;
    IF before NOT IN ('scheduled', 'available', 'blocked') THEN
        RAISE EXCEPTION 'job %: is %, only a job that waits can be cancelled', job_id, before
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = CASE before WHEN 'running' THEN 'A running job ends by itself; try again then.'
                         ELSE 'It is finished already.' END;
    END IF;
    UPDATE gateway.jobs SET state = 'cancelled', finished_at = now(), last_error = 'cancelled by an operator'
    WHERE id = job_id;
    RETURN before;
END $$;

-- The body of an event as jsonb: its JSON; else its text as a JSON string; else its base64.
-- jsonb cannot hold U+0000, which becomes U+FFFD here; events.body keeps the bytes as they came.
CREATE FUNCTION gateway.body(event_id uuid) RETURNS jsonb
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    raw  bytea;
    body text;
BEGIN
    SELECT e.body INTO raw FROM gateway.events e WHERE e.id = event_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    BEGIN
        body := convert_from(raw, 'UTF8');
    EXCEPTION WHEN OTHERS THEN
        RETURN jsonb_build_object('base64', encode(raw, 'base64'));
    END;
    BEGIN
        RETURN body::jsonb;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            -- An even number of backslashes before \u0000 is text, not an escape: left alone.
            RETURN regexp_replace(body, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb;
        EXCEPTION WHEN OTHERS THEN
            RETURN to_jsonb(body);
        END;
    END;
END $$;

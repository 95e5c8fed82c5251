-- What operators do to the flow: replay many, pause, hold, reroute; and the book of all their acts.

-- The book -----------------------------------------------------------------------------------------

-- Every act of an operator, whichever way it came. who: the caller of the API, the user of the
-- command line and the machine, or what gateway.operator() says in psql.
CREATE TABLE gateway.acts (
    id     uuid PRIMARY KEY DEFAULT gateway.uuid7(),
    at     timestamptz NOT NULL DEFAULT now(),
    who    text NOT NULL,
    act    text NOT NULL,
    target jsonb NOT NULL,
    result jsonb NOT NULL
);

CREATE TRIGGER acts_append_only BEFORE UPDATE OR DELETE ON gateway.acts
    FOR EACH ROW EXECUTE FUNCTION gateway.refuse_rewrite();
CREATE TRIGGER acts_not_emptied BEFORE TRUNCATE ON gateway.acts
    FOR EACH STATEMENT EXECUTE FUNCTION gateway.refuse_rewrite();

-- Who is at work in this session: whoever opened `gateway psql`, which says so in the one setting
-- that every pooler lets through, or else the role.
CREATE FUNCTION gateway.operator() RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN app LIKE 'gateway psql: _%' THEN substr(app, 15) ELSE current_user END
    FROM current_setting('application_name') AS app
$$;

CREATE FUNCTION gateway.record_act(who text, act text, target jsonb, result jsonb) RETURNS uuid
    LANGUAGE sql AS $$
    INSERT INTO gateway.acts (who, act, target, result) VALUES (who, act, target, result) RETURNING id
$$;


-- Replays --------------------------------------------------------------------------------------------

-- idempotency_key: what the vendor is shown instead of the job's id; a replay has that of its
-- original unless a new one was asked for. replay_id: the replay of many that made the job.
ALTER TABLE gateway.jobs
    ADD COLUMN idempotency_key uuid,
    ADD COLUMN replay_id       uuid;

-- Neither column ever changes: completing a job touches no indexed column still.
CREATE INDEX jobs_replayed ON gateway.jobs (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX jobs_of_replay ON gateway.jobs (replay_id, id) WHERE replay_id IS NOT NULL;
CREATE INDEX jobs_dead_age ON gateway.jobs (id) WHERE parked;

-- A replay of many jobs: a walk over the finished jobs, oldest first. One node has it at a time;
-- fence tells its present walker from an earlier one that comes back. What a step makes and how far
-- it came (reached) are committed together, so that no job is replayed twice.
CREATE TABLE gateway.replays (
    id            uuid PRIMARY KEY,
    state         text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'completed', 'cancelled')),
    requested_at  timestamptz NOT NULL DEFAULT now(),  -- only jobs finished before it are replayed
    requested_by  text NOT NULL,
    wanted        jsonb NOT NULL,                      -- which jobs: state, vendor, route, since, …
    rate          text NOT NULL,
    pause_seconds double precision NOT NULL CHECK (pause_seconds > 0),  -- from one job to the next
    new_key       boolean NOT NULL,
    counted       bigint NOT NULL,                     -- how many matched when it was requested
    counted_all   boolean NOT NULL,                    -- false: there may have been more
    made          bigint NOT NULL DEFAULT 0,
    reached       uuid NOT NULL,                       -- the last id looked at
    high          uuid NOT NULL,                       -- looks at no id from here on
    next_at       timestamptz NOT NULL DEFAULT now(),  -- the rate allows no job before it
    node          text,
    lease_until   timestamptz,
    fence         bigint NOT NULL DEFAULT 0,
    finished_at   timestamptz
) WITH (fillfactor = 50);

CREATE INDEX replays_running ON gateway.replays (id) WHERE state = 'running';

-- What errors of the same kind have in common: without numbers, ids and the like, but with the
-- status of HTTP.
CREATE FUNCTION gateway.fingerprint(error text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left(regexp_replace(left(coalesce(error, ''), 400), '(?<!HTTP )(?<![\w-])[\w-]*\d[\w-]*', '#', 'g'), 200);

-- Make a new job from a finished one; return the new job's id. The vendor sees the old idempotency
-- key, by which it knows what it has done already, unless a new one is asked for.
CREATE FUNCTION gateway.replay(
    job_id uuid, new_key boolean DEFAULT false, who text DEFAULT gateway.operator()
) RETURNS uuid
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
                              holds_key, max_attempts, correlation_id, replay_of, idempotency_key, payload)
    VALUES (fresh, original.event_id, original.route, original.vendor, original.kind, 'available',
            original.priority, original.ordering_key, original.holds_key, original.max_attempts,
            original.correlation_id, original.id,
            CASE WHEN NOT new_key THEN coalesce(original.idempotency_key, original.id) END, original.payload);
    PERFORM gateway.record_act(who, 'job.replay',
                               jsonb_build_object('job', job_id, 'new_key', new_key),
                               jsonb_build_object('job', fresh));
    RETURN fresh;
END $$;


-- Waiting jobs -----------------------------------------------------------------------------------------

-- Cancel a job that is not running; return the state that it was in.
CREATE FUNCTION gateway.cancel(job_id uuid, who text DEFAULT gateway.operator()) RETURNS gateway.job_state
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
    PERFORM gateway.record_act(who, 'job.cancel', jsonb_build_object('job', job_id),
                               jsonb_build_object('before', before));
    RETURN before;
END $$;

-- Change when a scheduled job runs next; return when it would have run.
CREATE FUNCTION gateway.reschedule(
    job_id uuid, moment timestamptz, who text DEFAULT gateway.operator()
) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    before gateway.jobs;
BEGIN
    SELECT * INTO before FROM gateway.jobs WHERE id = job_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job %: not found', job_id USING ERRCODE = 'no_data_found';
    END IF;
    IF before.state <> 'scheduled' THEN
        RAISE EXCEPTION 'job %: is %, only a scheduled job has a time to change', job_id, before.state
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = CASE WHEN before.state IN ('completed', 'dead', 'cancelled')
                         THEN 'It is finished; replay it.' ELSE 'It runs as soon as it can.' END;
    END IF;
    UPDATE gateway.jobs SET run_at = moment WHERE id = job_id;
    PERFORM gateway.record_act(who, 'job.reschedule',
                               jsonb_build_object('job', job_id, 'run_at', moment),
                               jsonb_build_object('before', before.run_at));
    RETURN before.run_at;
END $$;

-- Let a held key go on without its dead job; return the job that goes next, if one waits.
CREATE FUNCTION gateway.release_key(
    held_route text, held_key text, who text DEFAULT gateway.operator()
) RETURNS uuid
    LANGUAGE plpgsql AS $$
DECLARE
    follower uuid;
BEGIN
    PERFORM FROM gateway.ordering_keys
    WHERE route = held_route AND key = held_key AND held FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'route %, key %: is not held', held_route, held_key
            USING ERRCODE = 'no_data_found',
                  HINT = 'SELECT * FROM gateway.ordering_keys WHERE held lists those that are.';
    END IF;
    follower := gateway.advance_line(held_route, held_key);
    PERFORM gateway.record_act(who, 'key.release',
                               jsonb_build_object('route', held_route, 'key', held_key),
                               jsonb_build_object('next', follower));
    RETURN follower;
END $$;

CREATE INDEX ordering_keys_held ON gateway.ordering_keys (route, key) WHERE held;


-- Pauses -----------------------------------------------------------------------------------------------

-- Nodes read it, and vendor_state.paused, once a second. A paused route's jobs are set aside as
-- they come up: scheduled for the end of the year 9999, where neither a claim nor a promotion meets
-- them, however many there are. aside: there may be some; a node brings them back after the pause.
CREATE TABLE gateway.route_state (
    route      text PRIMARY KEY,
    paused     boolean NOT NULL DEFAULT false,
    aside      boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE INDEX jobs_aside ON gateway.jobs (route, id) WHERE due_at = '9999-12-31 00:00:00+00';

-- How often a vendor was resumed: nodes that see it grow forget the vendor's wish to be left alone.
ALTER TABLE gateway.vendor_state ADD COLUMN resumes bigint NOT NULL DEFAULT 0;

-- Write a pause or its end into the book; return whether it changed anything.
CREATE FUNCTION gateway.record_switch(
    who text, act text, target jsonb, changed boolean, more jsonb DEFAULT '{}'
) RETURNS boolean
    LANGUAGE sql AS $$
    SELECT gateway.record_act(who, act, target, jsonb_build_object('changed', changed) || more);
    SELECT changed
$$;

CREATE FUNCTION gateway.pause_vendor(name text, who text DEFAULT gateway.operator()) RETURNS boolean
    LANGUAGE sql AS $$
    WITH paused AS (
        INSERT INTO gateway.vendor_state AS s (vendor, paused) VALUES (name, true)
        ON CONFLICT (vendor) DO UPDATE SET paused = true, updated_at = now() WHERE NOT s.paused
        RETURNING vendor
    )
    SELECT gateway.record_switch(who, 'vendor.pause', jsonb_build_object('vendor', name),
                                 EXISTS (SELECT FROM paused))
$$;

-- Have a vendor called again, now: whoever says so knows better than its last Retry-After and than
-- the breaker. Retries that wait because of such an answer are due at once, 10,000 at the most.
CREATE FUNCTION gateway.resume_vendor(name text, who text DEFAULT gateway.operator()) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    before  gateway.vendor_state;
    parked  boolean;
    changed boolean;
    forward bigint := 0;
BEGIN
    INSERT INTO gateway.vendor_state (vendor) VALUES (name) ON CONFLICT (vendor) DO NOTHING;
    SELECT * INTO before FROM gateway.vendor_state WHERE vendor = name FOR UPDATE;
    parked := coalesce(before.parked_until > now(), false);
    changed := before.paused OR parked OR before.breaker <> 'closed';
    UPDATE gateway.vendor_state
    SET paused = false, parked_until = NULL, breaker = 'closed', breaker_until = NULL,
        breaker_node = NULL, resumes = resumes + 1, updated_at = now()
    WHERE vendor = name;
    IF parked THEN
        WITH waiting AS MATERIALIZED (
            SELECT id FROM gateway.jobs
            WHERE due_at > now() AND due_at < '9999-12-31 00:00:00+00' AND vendor = name
              AND attempt > 0 AND last_status IN (429, 503)
            ORDER BY due_at
            LIMIT 10000
            FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE gateway.jobs SET run_at = now()
            WHERE id = ANY (ARRAY (SELECT id FROM waiting)) AND state = 'scheduled'
            RETURNING id
        )
        SELECT count(*) INTO forward FROM moved;
    END IF;
    RETURN gateway.record_switch(
        who, 'vendor.resume', jsonb_build_object('vendor', name), changed,
        jsonb_build_object('was', jsonb_build_object('paused', before.paused, 'parked', parked,
                                                     'breaker', before.breaker),
                           'retries_due', forward));
END $$;

CREATE FUNCTION gateway.pause_route(name text, who text DEFAULT gateway.operator()) RETURNS boolean
    LANGUAGE sql AS $$
    WITH paused AS (
        INSERT INTO gateway.route_state AS s (route, paused, aside) VALUES (name, true, true)
        ON CONFLICT (route) DO UPDATE SET paused = true, aside = true, updated_at = now() WHERE NOT s.paused
        RETURNING route
    )
    SELECT gateway.record_switch(who, 'route.pause', jsonb_build_object('route', name),
                                 EXISTS (SELECT FROM paused))
$$;

CREATE FUNCTION gateway.resume_route(name text, who text DEFAULT gateway.operator()) RETURNS boolean
    LANGUAGE sql AS $$
    WITH resumed AS (
        UPDATE gateway.route_state SET paused = false, updated_at = now() WHERE route = name AND paused
        RETURNING route
    )
    SELECT gateway.record_switch(who, 'route.resume', jsonb_build_object('route', name),
                                 EXISTS (SELECT FROM resumed))
$$;

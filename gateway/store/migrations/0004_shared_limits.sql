-- Rate limits and vendors' own words, shared by all nodes.
--
-- The books know of every call that a vendor may still count: those that were made, and those that
-- a node has bought and may yet make. A node calls only on what it has bought. So the limit holds
-- whatever becomes of a node: what it cannot report counts as called, at the last moment at which
-- it could have been.

-- One row per vendor: the lock under which calls are bought.
CREATE TABLE gateway.rate_books (
    vendor    text PRIMARY KEY,
    next_from timestamptz NOT NULL DEFAULT '-infinity'  -- calls bought next start here: the pace
) WITH (fillfactor = 50);

-- Calls that were made. Each window has its own ring of 128 slots, two to a thirty-second of it,
-- so it needs no pruning; a slot counts as if all its calls had been made when its last one was.
CREATE TABLE gateway.rate_use (
    vendor         text NOT NULL,
    period_seconds double precision NOT NULL,
    slot           integer NOT NULL,
    calls          integer NOT NULL,
    until          timestamptz NOT NULL,
    PRIMARY KEY (vendor, period_seconds, slot)
) WITH (fillfactor = 50);

-- Calls that a node may make until then. exclusive: any number of them, as far as windows of less
-- than a minute are concerned; the node keeps those by itself, and nobody else may call meanwhile.
CREATE TABLE gateway.rate_shares (
    vendor     text NOT NULL,
    node       text NOT NULL,
    order_no   bigint NOT NULL,       -- of its last order: an older one that comes late is void
    calls      integer NOT NULL,
    until      timestamptz NOT NULL,
    exclusive  boolean NOT NULL,
    asked_at   timestamptz NOT NULL,  -- when it last wanted to call
    waits_from timestamptz,           -- since when its orders have been in vain
    PRIMARY KEY (vendor, node)
) WITH (fillfactor = 50);

-- Report the calls made, and buy some more. No row: a later order of the node came first.
--
-- A vendor with the windows counts[i] per periods[i] seconds. The node has made used_calls[j] calls
-- used_ages[j] seconds ago; of what it bought it still keeps so many, and it wants so many more.
-- The i-th call that it is granted (from 0) may start from_seconds + i * pace_seconds from now, and
-- no later than until_seconds. Nothing granted: an order in retry_seconds may have more luck. Now
-- is the database's clock, read under the lock, or the given moment.
--
-- Calls are sold up to ahead_seconds before they may start; only half of that while another node
-- has waited for longer, so that its turn comes.
--
-- The law: however calls are made, take those inside one window of t seconds, and of these the one
-- that was bought last, to start at s at the earliest. Each of the others was made after s - t, so
-- when that last one was bought, it was counted: as bought (its until is later than s - t) or as
-- called. And the sum was at most n. Windows are stretched by 5 %, at most 250 ms, since the vendor
-- counts arrivals.
--
-- exclusive_seconds > 0: a node is alone when no other has wanted to call for ten seconds, nor
-- could have called within a window of less than a minute. All calls in these windows are its own
-- then, and it keeps the limit by itself for so long, renewed with each order. When another wants
-- to call, it is told so (contended); it makes an end, reports, and orders with releases = true.
CREATE FUNCTION gateway.buy_calls(
    for_vendor text, for_node text, number bigint,
    counts integer[], periods double precision[],
    used_ages double precision[], used_calls integer[],
    kept integer, wanted integer, wants boolean, releases boolean,
    pace_seconds double precision, ahead_seconds double precision,
    valid_seconds double precision, exclusive_seconds double precision,
    moment timestamptz DEFAULT NULL
) RETURNS TABLE (
    granted integer, from_seconds double precision, until_seconds double precision,
    exclusive boolean, contended boolean, retry_seconds double precision
) LANGUAGE plpgsql
-- Planned once per connection, and well however small or large the tables are then: every access is
-- by primary key. This halves the time under the lock.
SET plan_cache_mode = 'force_generic_plan' SET enable_seqscan = 'off'
AS $$
#variable_conflict use_column
DECLARE
    now_   timestamptz;
    paced  timestamptz;
    ahead  timestamptz;
    start  timestamptz;
    until_ timestamptz;
    first  timestamptz;  -- when one more call would be free
    own    gateway.rate_shares;
    rivals boolean;      -- others want to call, or may, or just did
    taken  boolean;      -- one of them is alone
    alone  boolean;
    held   integer;
    room   integer;
BEGIN
    LOOP
        SELECT next_from INTO paced FROM gateway.rate_books WHERE vendor = for_vendor FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO gateway.rate_books (vendor) VALUES (for_vendor) ON CONFLICT DO NOTHING;
    END LOOP;
    now_ := coalesce(moment, clock_timestamp());

    SELECT * INTO own FROM gateway.rate_shares WHERE vendor = for_vendor AND node = for_node;
    IF own.order_no >= number THEN
        RETURN;
    ELSIF own.order_no IS NULL THEN
        -- A new process: forget those that ended long ago.
        DELETE FROM gateway.rate_shares
        WHERE vendor = for_vendor AND asked_at < now_ - interval '1 minute'
          AND until + make_interval(secs => (SELECT max(p) + 1 FROM unnest(periods) p)) < now_;
    END IF;

    INSERT INTO gateway.rate_use AS u (vendor, period_seconds, slot, calls, until)
    SELECT for_vendor, period,
           mod(floor(extract(epoch FROM now_ - make_interval(secs => age)) / (period / 64))::bigint, 128)::integer AS place,
           sum(called), now_ - make_interval(secs => min(age))
    FROM unnest(periods) AS period, unnest(used_ages, used_calls) AS made (age, called)
    GROUP BY period, place
    ON CONFLICT (vendor, period_seconds, slot) DO UPDATE
    SET calls = excluded.calls
            + CASE WHEN u.until + make_interval(secs => u.period_seconds * 1.05) > now_ THEN u.calls ELSE 0 END,
        until = greatest(u.until, excluded.until);

    SELECT coalesce(bool_or(asked_at > now_ - interval '10 seconds'
                            OR until + make_interval(secs => short * 1.05) > now_), false),
           coalesce(bool_or(rate_shares.exclusive AND until > now_), false)
    INTO rivals, taken
    FROM gateway.rate_shares, coalesce((SELECT max(p) FROM unnest(periods) p WHERE p < 60), 0) AS short
    WHERE vendor = for_vendor AND node <> for_node;

    held := least(coalesce(own.calls, 0), kept);
    -- Even after its time: what it called while this order was on its way is not reported yet.
    IF own.exclusive AND rivals AND NOT releases THEN
        UPDATE gateway.rate_shares
        SET order_no = number, calls = held, asked_at = CASE WHEN wants THEN now_ ELSE asked_at END
        WHERE vendor = for_vendor AND node = for_node;
        RETURN QUERY SELECT 0, 0::float8, extract(epoch FROM own.until - now_)::float8, true, true, 0::float8;
        RETURN;
    END IF;
    alone := exclusive_seconds > 0 AND NOT rivals AND NOT releases;

    ahead := now_ + make_interval(secs => ahead_seconds * CASE WHEN EXISTS (
        SELECT FROM gateway.rate_shares
        WHERE vendor = for_vendor AND node <> for_node AND asked_at > now_ - interval '6 seconds'
          AND waits_from < coalesce(own.waits_from, 'infinity')) THEN 0.5 ELSE 1 END);
    start := CASE WHEN alone THEN now_ ELSE greatest(now_, paced) END;
    -- Each charge, latest first, leaves so many calls until it is out of its window. With the calls
    -- of one order pace_seconds apart, the charge bears on the order's beginning at "free".
    WITH windows AS (
        SELECT period, min(count) AS count,
               make_interval(secs => period + least(period * 0.05, 0.25)) AS span
        FROM unnest(counts, periods) AS w (count, period)
        WHERE period >= 60 OR NOT alone
        GROUP BY period
    ), charges AS (
        SELECT period, count, u.until + span AS out_at, u.calls
        FROM windows JOIN gateway.rate_use u ON u.vendor = for_vendor AND u.period_seconds = period
        WHERE u.until + span > now_
        UNION ALL
        SELECT period, count, s.until + span, CASE WHEN s.exclusive AND period < 60 THEN count ELSE s.calls END
        FROM windows JOIN gateway.rate_shares s ON s.vendor = for_vendor AND s.node <> for_node
        WHERE s.until + span > now_
        UNION ALL
        SELECT period, count, own.until + span, held FROM windows WHERE own.until + span > now_
    ), summed AS (
        SELECT count - sum(calls) OVER (PARTITION BY period ORDER BY out_at DESC ROWS UNBOUNDED PRECEDING) AS spare,
               out_at
        FROM charges WHERE calls > 0
    ), bearing AS (
        SELECT spare, out_at,
               out_at - make_interval(secs => CASE WHEN alone THEN 0 ELSE greatest(spare, 0) * pace_seconds END) AS free
        FROM summed
    ), roomy AS (
        SELECT least(wanted, (SELECT min(count) FROM windows),
                     (SELECT min(spare) FROM bearing WHERE free > ahead)) AS room
    )
    SELECT roomy.room,
           (SELECT max(free) FROM bearing WHERE spare < roomy.room),
           (SELECT max(out_at) FROM bearing WHERE spare < 1)
    INTO room, until_, first
    FROM roomy;
    first := greatest(start, first);
    start := greatest(start, until_);
    IF start > ahead OR room < 0 THEN
        room := 0;
    END IF;

    until_ := own.until;
    IF alone THEN
        until_ := now_ + make_interval(secs => exclusive_seconds);
    ELSIF room > 0 THEN
        until_ := start + make_interval(secs => (room - 1) * pace_seconds + valid_seconds);
        IF held > 0 THEN
            until_ := greatest(until_, own.until);
        END IF;
        UPDATE gateway.rate_books SET next_from = start + make_interval(secs => room * pace_seconds)
        WHERE vendor = for_vendor;
    END IF;
    INSERT INTO gateway.rate_shares (vendor, node, order_no, calls, until, exclusive, asked_at, waits_from)
    VALUES (for_vendor, for_node, number, held + room, coalesce(until_, now_), alone,
            CASE WHEN wants THEN now_ ELSE coalesce(own.asked_at, '-infinity') END,
            CASE WHEN room > 0 OR NOT wants THEN NULL WHEN wanted > 0 THEN coalesce(own.waits_from, now_)
            ELSE own.waits_from END)
    ON CONFLICT (vendor, node) DO UPDATE
    SET order_no = excluded.order_no, calls = excluded.calls, until = excluded.until,
        exclusive = excluded.exclusive, asked_at = excluded.asked_at, waits_from = excluded.waits_from;

    RETURN QUERY SELECT room,
        extract(epoch FROM start - now_)::float8,
        extract(epoch FROM coalesce(until_, now_) - now_)::float8,
        alone, rivals,
        CASE WHEN taken THEN 0.1 ELSE greatest(extract(epoch FROM first - ahead), 0) END::float8;
END $$;

ALTER TABLE gateway.vendor_state
    ADD COLUMN breaker       text NOT NULL DEFAULT 'closed' CHECK (breaker IN ('closed', 'open', 'half-open')),
    ADD COLUMN breaker_until timestamptz,  -- open: when its node may probe
    ADD COLUMN breaker_node  text;         -- who opened it, and probes

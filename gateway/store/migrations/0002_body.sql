-- What operators see of an event in psql.

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

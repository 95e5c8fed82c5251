"""Known senders and how each signs: one table of data, read by the one generic verifier.

Each entry also names where that sender puts an event's type and the key that stays the same when
it delivers the event again.
"""

from __future__ import annotations

from gateway.webhooks.scheme import Scheme

_SCHEMES = (
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    Scheme(
        name="standard-webhooks",
        header="webhook-signature",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        signed="{id}.{timestamp}.{body}",
        timestamp="header:webhook-timestamp",
        message_id="header:webhook-id",
        key_encoding="base64",
        key_prefix="whsec_",
        event_type="body:type",
        dedupe="header:webhook-id",
    ),
    # https://docs.svix.com/receiving/verifying-payloads/how-manual: also sends the standard names
    Scheme(
        name="svix",
        header=("svix-signature", "webhook-signature"),
        encoding="base64",
        prefix="v1,",
        separator=" ",
        signed="{id}.{timestamp}.{body}",
        timestamp="header:svix-timestamp | header:webhook-timestamp",
        message_id="header:svix-id | header:webhook-id",
        key_encoding="base64",
        key_prefix="whsec_",
        event_type="body:type",
        dedupe="header:svix-id | header:webhook-id",
    ),
    # https://docs.stripe.com/webhooks/signature: the key is the whole text, "whsec_" included
    Scheme(
        name="stripe",
        header="Stripe-Signature",
        separator=",",
        signature_field="v1",
        signed="{timestamp}.{body}",
        timestamp="field:t",
        event_type="body:type",
        dedupe="body:id",
    ),
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    Scheme(
        name="github",
        header="X-Hub-Signature-256",
        prefix="sha256=",
        event_type="header:X-GitHub-Event",
        dedupe="header:X-GitHub-Delivery",
    ),
)

PRESETS: dict[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}

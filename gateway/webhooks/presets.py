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
    # https://docs.gitlab.com/user/project/integrations/webhooks/: the bare secret token; a signing
    # token of newer versions is "standard-webhooks" with this event type. X-Gitlab-Event-UUID would
    # be no dedupe key: events that webhooks set off in turn share it
    Scheme(
        name="gitlab",
        header="X-Gitlab-Token",
        algorithm="token",
        event_type="header:X-Gitlab-Event",
        dedupe="header:Idempotency-Key",
    ),
    # https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/
    Scheme(
        name="bitbucket",
        header="X-Hub-Signature",
        prefix="sha256=",
        event_type="header:X-Event-Key",
        dedupe="header:X-Request-UUID",
    ),
    # https://shopify.dev/docs/apps/build/webhooks/subscribe/https
    Scheme(
        name="shopify",
        header="X-Shopify-Hmac-Sha256",
        encoding="base64",
        event_type="header:X-Shopify-Topic",
        dedupe="header:X-Shopify-Webhook-Id",
    ),
    # https://docs.slack.dev/authentication/verifying-requests-from-slack/
    Scheme(
        name="slack",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp="header:X-Slack-Request-Timestamp",
        event_type="body:event.type | body:type",
        dedupe="body:event_id",
    ),
    # https://developers.zoom.us/docs/api/webhooks/#verify-webhook-events
    Scheme(
        name="zoom",
        header="x-zm-signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp="header:x-zm-request-timestamp",
        event_type="body:event",
    ),
    # https://developer.squareup.com/docs/webhooks/step3validate: the URL as configured at Square
    Scheme(
        name="square",
        header="x-square-hmacsha256-signature",
        encoding="base64",
        signed="{url}{body}",
        event_type="body:type",
        dedupe="body:event_id",
    ),
    # https://developer.zendesk.com/documentation/webhooks/verifying/: bodies are the customer's
    # own templates, so nothing in them is sure to name one delivery
    Scheme(
        name="zendesk",
        header="X-Zendesk-Webhook-Signature",
        encoding="base64",
        signed="{timestamp}{body}",
        timestamp="header:X-Zendesk-Webhook-Signature-Timestamp",
        timestamp_unit="iso8601",
        event_type="body:type",
        dedupe="header:X-Zendesk-Webhook-Invocation-Id",
    ),
    # https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation
    Scheme(
        name="hubspot",
        header="X-HubSpot-Signature-v3",
        encoding="base64",
        signed="{method}{url}{body}{timestamp}",
        timestamp="header:X-HubSpot-Request-Timestamp",
        timestamp_unit="ms",
        event_type="body:0.subscriptionType",
    ),
    # https://developers.intercom.com/docs/webhooks/webhook-notifications
    Scheme(
        name="intercom",
        header="X-Hub-Signature",
        algorithm="sha1",
        prefix="sha1=",
        event_type="body:topic",
        dedupe="body:id",
    ),
    # https://linear.app/developers/webhooks
    Scheme(
        name="linear",
        header="Linear-Signature",
        timestamp="body:webhookTimestamp",
        timestamp_unit="ms",
        tolerance_seconds=60.0,
        event_type="header:Linear-Event",
        dedupe="header:Linear-Delivery",
    ),
    # https://developer.paddle.com/webhooks/signature-verification
    Scheme(
        name="paddle",
        header="Paddle-Signature",
        separator=";",
        signature_field="h1",
        signed="{timestamp}:{body}",
        timestamp="field:ts",
        tolerance_seconds=5.0,
        event_type="body:event_type",
        dedupe="body:event_id",
    ),
    # https://developer.xero.com/documentation/guides/webhooks/overview/: events come in batches
    Scheme(name="xero", header="x-xero-signature", encoding="base64"),
    # https://developer.intuit.com/app/developer/qbo/docs/develop/webhooks
    Scheme(name="quickbooks", header="intuit-signature", encoding="base64"),
    # https://developers.facebook.com/docs/graph-api/webhooks/getting-started: the app's secret
    Scheme(name="meta", header="X-Hub-Signature-256", prefix="sha256=", event_type="body:object"),
    # https://www.typeform.com/developers/webhooks/secure-your-webhooks/
    Scheme(
        name="typeform",
        header="Typeform-Signature",
        encoding="base64",
        prefix="sha256=",
        event_type="body:event_type",
        dedupe="body:event_id",
    ),
    # https://developer.calendly.com/api-docs/webhook-signatures
    Scheme(
        name="calendly",
        header="Calendly-Webhook-Signature",
        separator=",",
        signature_field="v1",
        signed="{timestamp}.{body}",
        timestamp="field:t",
        tolerance_seconds=180.0,
        event_type="body:event",
    ),
    # https://developers.docusign.com/platform/webhooks/connect/hmac/: one header for each key
    Scheme(
        name="docusign",
        header=tuple(f"X-DocuSign-Signature-{number}" for number in range(1, 11)),
        encoding="base64",
        event_type="body:event",
    ),
    # https://developer.pagerduty.com/docs/verifying-webhook-signatures
    Scheme(
        name="pagerduty",
        header="X-PagerDuty-Signature",
        separator=",",
        signature_field="v1",
        event_type="body:event.event_type",
        dedupe="body:event.id",
    ),
    # https://developer.atlassian.com/cloud/jira/platform/webhooks/
    Scheme(
        name="jira",
        header="X-Hub-Signature",
        prefix="sha256=",
        event_type="body:webhookEvent",
        dedupe="header:X-Atlassian-Webhook-Identifier",
    ),
    # https://developers.notion.com/reference/webhooks
    Scheme(
        name="notion",
        header="X-Notion-Signature",
        prefix="sha256=",
        event_type="body:type",
        dedupe="body:id",
    ),
    # https://developers.asana.com/docs/webhooks-guide: events come in batches
    Scheme(name="asana", header="X-Hook-Signature"),
    # https://www.dropbox.com/developers/reference/webhooks: bodies only name accounts that changed,
    # so the next change looks just like the last one
    Scheme(name="dropbox", header="X-Dropbox-Signature", dedupe="none"),
    # https://docs.x.com/x-api/webhooks/introduction
    Scheme(name="x", header="x-twitter-webhooks-signature", encoding="base64", prefix="sha256="),
)

PRESETS: dict[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}

"""Known senders and how each signs: one table of data, read by the one generic verifier.

Each entry also names where that sender puts an event's type and the key that stays the same when
it delivers the event again.
"""

from __future__ import annotations

from gateway.webhooks.scheme import Alternative, Handshake, Scheme

_AWS_CONFIRMATION = (
    r"https://sns\.[a-z]{2}(?:-[a-z0-9]{1,12}){2,3}\.amazonaws\.com(?:\.cn)?/"
    r"\?Action=ConfirmSubscription&[A-Za-z0-9%&=:._-]{1,2000}"
)

_SCHEMES = (
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
        alternative=Alternative(algorithm="ed25519", prefix="v1a,", key_prefix="whpk_"),
        link="https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
    ),
    # also sends the standard names
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
        alternative=Alternative(algorithm="ed25519", prefix="v1a,", key_prefix="whpk_"),
        link="https://docs.svix.com/receiving/verifying-payloads/how-manual",
    ),
    # the key is the whole text, "whsec_" included
    Scheme(
        name="stripe",
        header="Stripe-Signature",
        separator=",",
        signature_field="v1",
        signed="{timestamp}.{body}",
        timestamp="field:t",
        event_type="body:type",
        dedupe="body:id",
        link="https://docs.stripe.com/webhooks/signature",
    ),
    Scheme(
        name="github",
        header="X-Hub-Signature-256",
        prefix="sha256=",
        event_type="header:X-GitHub-Event",
        dedupe="header:X-GitHub-Delivery",
        link="https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries",
    ),
    # the bare secret token; a signing token of newer versions is "standard-webhooks" with this
    # event type. X-Gitlab-Event-UUID would be no dedupe key: events that webhooks set off in turn
    # share it
    Scheme(
        name="gitlab",
        header="X-Gitlab-Token",
        algorithm="token",
        event_type="header:X-Gitlab-Event",
        dedupe="header:Idempotency-Key",
        link="https://docs.gitlab.com/user/project/integrations/webhooks/",
    ),
    Scheme(
        name="bitbucket",
        header="X-Hub-Signature",
        prefix="sha256=",
        event_type="header:X-Event-Key",
        dedupe="header:X-Request-UUID",
        link="https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
    ),
    Scheme(
        name="shopify",
        header="X-Shopify-Hmac-Sha256",
        encoding="base64",
        event_type="header:X-Shopify-Topic",
        dedupe="header:X-Shopify-Webhook-Id",
        patience_seconds=5.0,
        link="https://shopify.dev/docs/apps/build/webhooks/subscribe/https",
    ),
    Scheme(
        name="slack",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp="header:X-Slack-Request-Timestamp",
        event_type="body:event.type | body:type",
        dedupe="body:event_id",
        handshakes=(Handshake(match={"body:type": "url_verification"}, body="{body:challenge}"),),
        patience_seconds=3.0,
        link="https://docs.slack.dev/authentication/verifying-requests-from-slack/",
    ),
    Scheme(
        name="zoom",
        header="x-zm-signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp="header:x-zm-request-timestamp",
        event_type="body:event",
        # Unsigned, the answer would sign events for whoever asks: "v0:…:{…}" as the token.
        handshakes=(
            Handshake(
                match={"body:event": "endpoint.url_validation"},
                body='{"plainToken":"{body:payload.plainToken}",'
                '"encryptedToken":"{hmac-hex:body:payload.plainToken}"}',
                content_type="application/json",
            ),
        ),
        patience_seconds=3.0,
        accepted_status=200,
        link="https://developers.zoom.us/docs/api/webhooks/#verify-webhook-events",
    ),
    # the URL as configured at Square
    Scheme(
        name="square",
        header="x-square-hmacsha256-signature",
        encoding="base64",
        signed="{url}{body}",
        event_type="body:type",
        dedupe="body:event_id",
        link="https://developer.squareup.com/docs/webhooks/step3validate",
    ),
    # bodies are the customer's own templates, so nothing in them is sure to name one delivery
    Scheme(
        name="zendesk",
        header="X-Zendesk-Webhook-Signature",
        encoding="base64",
        signed="{timestamp}{body}",
        timestamp="header:X-Zendesk-Webhook-Signature-Timestamp",
        timestamp_unit="iso8601",
        event_type="body:type",
        dedupe="header:X-Zendesk-Webhook-Invocation-Id",
        link="https://developer.zendesk.com/documentation/webhooks/verifying/",
    ),
    Scheme(
        name="hubspot",
        header="X-HubSpot-Signature-v3",
        encoding="base64",
        signed="{method}{decoded_url}{body}{timestamp}",
        timestamp="header:X-HubSpot-Request-Timestamp",
        timestamp_unit="ms",
        event_type="body:0.subscriptionType",
        patience_seconds=5.0,
        link="https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation",
    ),
    Scheme(
        name="intercom",
        header="X-Hub-Signature",
        algorithm="sha1",
        prefix="sha1=",
        event_type="body:topic",
        dedupe="body:id",
        patience_seconds=5.0,
        link="https://developers.intercom.com/docs/webhooks/webhook-notifications",
    ),
    Scheme(
        name="linear",
        header="Linear-Signature",
        timestamp="body:webhookTimestamp",
        timestamp_unit="ms",
        tolerance_seconds=60.0,
        event_type="header:Linear-Event",
        dedupe="header:Linear-Delivery",
        patience_seconds=5.0,
        accepted_status=200,
        link="https://linear.app/developers/webhooks",
    ),
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
        patience_seconds=5.0,
        accepted_status=200,
        link="https://developer.paddle.com/webhooks/signature-verification",
    ),
    # events come in batches
    Scheme(
        name="xero",
        header="x-xero-signature",
        encoding="base64",
        # It sends both a good and a bad signature and wants to see both told apart.
        handshakes=(Handshake(match={"body:events": "[]"}),),
        empty_answers=True,
        patience_seconds=5.0,
        accepted_status=200,
        link="https://developer.xero.com/documentation/guides/webhooks/overview/",
    ),
    Scheme(
        name="quickbooks",
        header="intuit-signature",
        encoding="base64",
        patience_seconds=3.0,
        accepted_status=200,
        link="https://developer.intuit.com/app/developer/qbo/docs/develop/webhooks",
    ),
    # the app's secret
    Scheme(
        name="meta",
        header="X-Hub-Signature-256",
        prefix="sha256=",
        event_type="body:object",
        handshakes=(
            Handshake(
                method="GET",
                match={"query:hub.mode": "subscribe"},
                signed=False,
                proof="query:hub.verify_token",
                body="{query:hub.challenge}",
            ),
        ),
        accepted_status=200,
        link="https://developers.facebook.com/docs/graph-api/webhooks/getting-started",
    ),
    Scheme(
        name="typeform",
        header="Typeform-Signature",
        encoding="base64",
        prefix="sha256=",
        event_type="body:event_type",
        dedupe="body:event_id",
        link="https://www.typeform.com/developers/webhooks/secure-your-webhooks/",
    ),
    Scheme(
        name="calendly",
        header="Calendly-Webhook-Signature",
        separator=",",
        signature_field="v1",
        signed="{timestamp}.{body}",
        timestamp="field:t",
        tolerance_seconds=180.0,
        event_type="body:event",
        link="https://developer.calendly.com/api-docs/webhook-signatures",
    ),
    # one header for each key
    Scheme(
        name="docusign",
        header=tuple(f"X-DocuSign-Signature-{number}" for number in range(1, 11)),
        encoding="base64",
        event_type="body:event",
        link="https://developers.docusign.com/platform/webhooks/connect/hmac/",
    ),
    Scheme(
        name="pagerduty",
        header="X-PagerDuty-Signature",
        separator=",",
        signature_field="v1",
        event_type="body:event.event_type",
        dedupe="body:event.id",
        link="https://developer.pagerduty.com/docs/verifying-webhook-signatures",
    ),
    Scheme(
        name="jira",
        header="X-Hub-Signature",
        prefix="sha256=",
        event_type="body:webhookEvent",
        dedupe="header:X-Atlassian-Webhook-Identifier",
        link="https://developer.atlassian.com/cloud/jira/platform/webhooks/",
    ),
    Scheme(
        name="notion",
        header="X-Notion-Signature",
        prefix="sha256=",
        event_type="body:type",
        dedupe="body:id",
        # The token that confirms the subscription is the key of all that follows.
        handshakes=(
            Handshake(
                match={"body:verification_token": "*", "body:id": ""},
                signed=False,
                learn="body:verification_token",
            ),
        ),
        link="https://developers.notion.com/reference/webhooks",
    ),
    # events come in batches
    Scheme(
        name="asana",
        header="X-Hook-Signature",
        handshakes=(
            Handshake(
                match={"header:X-Hook-Secret": "*"},
                signed=False,
                learn="header:X-Hook-Secret",
                headers={"X-Hook-Secret": "{header:X-Hook-Secret}"},
            ),
        ),
        accepted_status=200,
        link="https://developers.asana.com/docs/webhooks-guide",
    ),
    # bodies only name accounts that changed, so the next change looks just like the last one
    Scheme(
        name="dropbox",
        header="X-Dropbox-Signature",
        dedupe="none",
        handshakes=(
            Handshake(
                method="GET",
                match={"query:challenge": "*"},
                signed=False,
                body="{query:challenge}",
            ),
        ),
        link="https://www.dropbox.com/developers/reference/webhooks",
    ),
    Scheme(
        name="x",
        header="x-twitter-webhooks-signature",
        encoding="base64",
        prefix="sha256=",
        handshakes=(
            Handshake(
                method="GET",
                match={"query:crc_token": "*"},
                signed=False,
                body='{"response_token":"sha256={hmac-base64:query:crc_token}"}',
                content_type="application/json",
            ),
        ),
        patience_seconds=3.0,
        accepted_status=200,
        link="https://docs.x.com/x-api/webhooks/introduction",
    ),
    # Public keys ----------------------------------------------------------------------
    # interactions and webhook events alike; it probes that bad signatures get 401
    Scheme(
        name="discord",
        header="X-Signature-Ed25519",
        algorithm="ed25519",
        signed="{timestamp}{body}",
        timestamp="header:X-Signature-Timestamp",
        key_encoding="hex",
        event_type="body:event.type | body:data.name | body:type",
        dedupe="body:id",
        handshakes=(
            # An interaction's PING, but not a webhook event, which has the same number.
            Handshake(
                match={"body:type": "1", "body:event": ""},
                body='{"type":1}',
                content_type="application/json",
            ),
            Handshake(match={"body:type": "0", "body:event": ""}, status=204),
        ),
        patience_seconds=3.0,
        link="https://docs.discord.com/developers/interactions/overview",
    ),
    # events come in batches
    Scheme(
        name="sendgrid",
        header="X-Twilio-Email-Event-Webhook-Signature",
        algorithm="ecdsa-sha256",
        encoding="base64",
        signed="{timestamp}{body}",
        timestamp="header:X-Twilio-Email-Event-Webhook-Timestamp",
        key_encoding="base64",
        event_type="body:0.event",
        link="https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features",
    ),
    # Verified by a function of their own ----------------------------------------------
    Scheme(
        name="twilio",
        check="twilio",
        header="X-Twilio-Signature",
        algorithm="sha1",
        encoding="base64",
        message="the URL and the sorted form fields; JSON: the URL with `bodySHA256`",
        event_type="body:MessageStatus | body:CallStatus",
        dedupe="header:I-Twilio-Idempotency-Token",
        link="https://www.twilio.com/docs/usage/webhooks/webhooks-security",
    ),
    # It signs no more than a time and a token, so what protects the rest is that the token passes
    # once; and it tries again for 8 hours with the same ones.
    Scheme(
        name="mailgun",
        check="mailgun",
        header=(),
        message="`timestamp` and `token` of the body",
        tolerance_seconds=8 * 3600.0 + 300.0,
        event_type="body:event-data.event | body:event",
        dedupe="body:signature.token | body:token",
        accepted_status=200,
        link="https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks",
    ),
    # The signature covers what tells two events apart, and so names them.
    Scheme(
        name="adyen",
        check="adyen",
        header=(),
        encoding="base64",
        key_encoding="hex",
        message="eight fields of each item",
        event_type="body:notificationItems.0.NotificationRequestItem.eventCode",
        dedupe="body:notificationItems.0.NotificationRequestItem.additionalData.hmacSignature",
        link="https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures/",
    ),
    # its secret is the webhook's id
    Scheme(
        name="paypal",
        check="paypal",
        header="PAYPAL-TRANSMISSION-SIG",
        algorithm="rsa-sha256",
        encoding="base64",
        message="`id|time|webhook id|crc32(body)`",
        event_type="body:event_type",
        dedupe="body:id",
        link="https://developer.paypal.com/api/rest/webhooks/rest/",
    ),
    # AWS signs for everybody's topics alike: its secret is the ARN of the topic
    Scheme(
        name="aws-sns",
        check="aws-sns",
        header=(),
        algorithm="rsa-sha256",
        encoding="base64",
        message="the body's fields as `name\\nvalue\\n`",
        event_type="body:Type",
        dedupe="body:MessageId",
        handshakes=(
            Handshake(
                match={"body:Type": "SubscriptionConfirmation"},
                confirm="body:SubscribeURL",
                confirm_url=_AWS_CONFIRMATION,
            ),
        ),
        link="https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html",
    ),
    # its secret is "client_id:secret", with which the key is asked for
    Scheme(
        name="plaid",
        check="plaid",
        header="Plaid-Verification",
        algorithm="ecdsa-sha256",
        encoding="base64url",
        message="a JWT with `iat` and the body's SHA-256",
        keys_url="https://production.plaid.com/webhook_verification_key/get",
        event_type="body:webhook_code",
        link="https://plaid.com/docs/api/webhooks/webhook-verification/",
    ),
    # Nothing signed, but a secret shown -----------------------------------------------
    Scheme(
        name="microsoft-graph",
        check="microsoft-graph",
        header=(),
        message="nothing; each notification shows `clientState`",
        event_type="body:value.0.changeType | body:value.0.lifecycleEvent",
        handshakes=(
            Handshake(
                match={"query:validationToken": "*"},
                signed=False,
                body="{query:validationToken}",
            ),
        ),
        link="https://learn.microsoft.com/en-us/graph/change-notifications-delivery-webhooks",
    ),
    Scheme(
        name="okta",
        header="Authorization",
        algorithm="token",
        event_type="body:data.events.0.eventType",
        dedupe="body:data.events.0.uuid",
        handshakes=(
            Handshake(
                method="GET",
                match={"header:X-Okta-Verification-Challenge": "*"},
                signed=False,
                body='{"verification":"{header:X-Okta-Verification-Challenge}"}',
                content_type="application/json",
            ),
        ),
        patience_seconds=3.0,
        accepted_status=200,
        link="https://developer.okta.com/docs/concepts/event-hooks/",
    ),
    Scheme(
        name="token",
        header="Authorization",
        algorithm="token",
        prefix="Bearer ",
        link="https://www.rfc-editor.org/rfc/rfc6750#section-2.1",
    ),
    # HS256 by the secret; another algorithm, keys_url, issuer and audience are told in a table
    Scheme(
        name="jwt",
        check="jwt",
        header="Authorization",
        encoding="base64url",
        prefix="Bearer ",
        message="a JWT with `exp`; the body only with `body_hash`",
        tolerance_seconds=60.0,
        link="https://www.rfc-editor.org/rfc/rfc7519",
    ),
    # its secret is "user:password"
    Scheme(
        name="basic",
        check="basic",
        header="Authorization",
        message="nothing; user and password are shown",
        link="https://www.rfc-editor.org/rfc/rfc7617",
    ),
    # who may call is told by allow_ips
    Scheme(name="ip", check="ip", header=(), message="nothing; only `allow_ips` is checked"),
)

PRESETS: dict[str, Scheme] = {scheme.name: scheme for scheme in _SCHEMES}

"""Any scheme, ready to verify requests: by the generic verifier, or by a function of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from gateway.webhooks.scheme import Scheme
from gateway.webhooks.verify import RequestVerifier, Verifier, require_secrets


def verifier_for(scheme: Scheme, secrets: Sequence[str]) -> RequestVerifier:
    """Return what verifies requests by *scheme* with any of *secrets*.

    ``ValueError`` says what is wrong with either. A check is imported only when it is asked for,
    so that who does not use it does not pay for it.
    """
    if scheme.check == "":
        return Verifier(scheme, secrets)
    if scheme.needs_secret:
        require_secrets(secrets)
    match scheme.check:
        case "twilio":
            from gateway.webhooks.checks.twilio import TwilioVerifier

            return TwilioVerifier(scheme, secrets)
        case "mailgun":
            from gateway.webhooks.checks.mailgun import MailgunVerifier

            return MailgunVerifier(scheme, secrets)
        case "adyen":
            from gateway.webhooks.checks.adyen import AdyenVerifier

            return AdyenVerifier(scheme, secrets)
        case "paypal":
            from gateway.webhooks.checks.paypal import PaypalVerifier

            return PaypalVerifier(secrets)
        case "aws-sns":
            from gateway.webhooks.checks.aws_sns import SnsVerifier

            return SnsVerifier(secrets)
        case "plaid":
            from gateway.webhooks.checks.plaid import PlaidVerifier

            return PlaidVerifier(scheme, secrets)
        case "jwt":
            from gateway.webhooks.checks.jwt import JwtVerifier

            return JwtVerifier(scheme, secrets)
        case "microsoft-graph" | "basic" | "ip":
            from gateway.webhooks.checks.shown import BasicVerifier, GraphVerifier, IpVerifier

            match scheme.check:
                case "microsoft-graph":
                    return GraphVerifier(secrets)
                case "basic":
                    return BasicVerifier(secrets)
                case "ip":
                    return IpVerifier()
        case _:
            assert_never(scheme.check)

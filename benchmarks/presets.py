"""What each sender's scheme costs: ``python -m benchmarks.presets``, which fails above 30 µs.

One verification of a body of 700 bytes, the fastest of many short runs in turns, so that what else
the machine does is not counted. Those that only their senders can sign are left out.
"""

from __future__ import annotations

import json
import math
import sys
import time
import timeit

from gateway.webhooks.compile import verifier_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC, Scheme
from gateway.webhooks.sign import sign, sign_body
from gateway.webhooks.signed import SignedRequest

MAX_MICROSECONDS = 30.0
RUNS, CALLS = 100, 30
URL = "https://hooks.example.com/webhooks/x?a=1"
SECRETS = {"adyen": "44782DEF547AAA06C910C43932B1EB0C", "basic": "user:word"}
ADYEN = {"notificationItems": [{"NotificationRequestItem": {"pspReference": "1" * 500}}]}


def main() -> None:
    """Measure every preset that can be signed here."""
    timers = {name: timer(scheme) for name, scheme in PRESETS.items() if _signable(scheme)}
    spent = dict.fromkeys(timers, math.inf)
    for _ in range(RUNS):
        for name, one in timers.items():
            spent[name] = min(spent[name], one.timeit(CALLS) / CALLS * 1e6)
    for name, each in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:<20}{each:6.1f} µs")
    over = [name for name, each in spent.items() if each > MAX_MICROSECONDS]
    if over:
        sys.exit(f"benchmarks: over {MAX_MICROSECONDS:g} µs: {', '.join(over)}")


def timer(scheme: Scheme) -> timeit.Timer:
    """Return what measures one verification."""
    secret = SECRETS.get(scheme.name, "c2VjcmV0LW9mLXRoZS1iZW5jaG1hcms=")
    now = time.time()
    body = json.dumps({"webhookTimestamp": int(now * 1000), "text": "x" * 660}).encode()
    if scheme.check == "adyen":
        body = json.dumps(ADYEN).encode()
    elif scheme.check == "twilio":
        body = b"Body=" + b"x" * 690
    body = sign_body(scheme, secret, body, now=now, message_id="m" * 50)
    headers = sign(scheme, secret, body=body, now=now, message_id="m" * 50, url=URL)
    if scheme.check == "twilio":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    lowered = {name.lower(): text for name, text in headers.items()}
    request = SignedRequest("POST", URL, lowered, body, URL.partition("?")[2])
    verifier = verifier_for(scheme, [secret])
    verifier.verify(request, now)
    return timeit.Timer(lambda: verifier.verify(request, now))


def _signable(scheme: Scheme) -> bool:
    return scheme.algorithm not in ASYMMETRIC and scheme.check not in ("paypal", "aws-sns", "plaid")


if __name__ == "__main__":
    main()

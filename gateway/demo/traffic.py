"""What the demo's senders send: some three hundred webhooks, signed like the real thing.

Most are new; some come twice, some are forged, one is no JSON. Which and how many is the same in
every run; their ids are not, so that a second run on the same data is no run of duplicates.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Literal

import msgspec

from gateway.config.model import Config, Secret
from gateway.demo.standin import CLOSED_CUSTOMER
from gateway.errors import GatewayError
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.sign import sign

REPEATED_EVERY = 25  # one webhook of so many is delivered twice
REPEATED_AFTER = 12  # … with so many others in between
FORGED_EVERY = 60

Meant = Literal["new", "repeated", "forged"]
Body = tuple[str, dict[str, object] | bytes]  # the event's type, and JSON or what is none


class Sender(msgspec.Struct, frozen=True):
    """A vendor of the configuration that sends, and how it signs."""

    vendor: str
    scheme: Scheme
    secret: Secret


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook to be sent."""

    sender: Sender
    event_type: str
    message_id: str
    body: bytes
    meant: Meant = "new"

    def headers(self, now: float) -> dict[str, str]:
        """Return the sender's own headers, signed at Unix time *now*."""
        signed = self.body + b" " if self.meant == "forged" else self.body
        return sign(
            self.sender.scheme,
            self.sender.secret.value,
            body=signed,
            now=now,
            message_id=self.message_id,
            event_type=self.event_type,
        )


def plan(config: Config) -> list[Delivery]:
    """Return what the senders of *config* send; :class:`GatewayError` if there is none."""
    run = secrets.token_hex(3)
    random = Random(7)  # noqa: S311  # amounts and names, not secrets
    new: list[Delivery] = []
    for name, vendor in config.vendors.items():
        webhook = vendor.webhook
        if webhook is None or webhook.verify is None or not webhook.secrets:
            continue
        if (bodies := _BODIES.get(webhook.verify.name)) is not None:
            sender = Sender(name, webhook.verify, webhook.secrets[0])
            for number, (event_type, body) in enumerate(bodies(run, random)):
                new.append(_delivery(sender, event_type, body, f"{run}-{name}-{number:04d}"))
    if not new:
        raise GatewayError(
            f"{config.source}: no vendor sends as any of {', '.join(_BODIES)} does, with a secret;"
            " the demo knows no other; the shipped config.toml has all of them"
        )
    Random(7).shuffle(new)  # noqa: S311  # the same order in each run
    return _with_trouble(new)


def _delivery(
    sender: Sender, event_type: str, body: dict[str, object] | bytes, message_id: str
) -> Delivery:
    raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return Delivery(sender=sender, event_type=event_type, message_id=message_id, body=raw)


def _with_trouble(new: list[Delivery]) -> list[Delivery]:
    """Put repeated and forged deliveries between the new ones."""
    order: list[tuple[float, Delivery]] = []
    for place, delivery in enumerate(new):
        order.append((place, delivery))
        if place % REPEATED_EVERY == 3:
            repeated = msgspec.structs.replace(delivery, meant="repeated")
            order.append((place + REPEATED_AFTER + 0.5, repeated))
        if place % FORGED_EVERY == 20:
            forged = msgspec.structs.replace(
                delivery, meant="forged", message_id=delivery.message_id + "-forged"
            )
            order.append((place + 0.25, forged))
    return [delivery for _, delivery in sorted(order, key=lambda item: item[0])]


# A shop, in the envelope of https://www.standardwebhooks.com --------------------------------------


def _shop_bodies(run: str, random: Random) -> Iterator[Body]:
    goods = (("Gold plan", 4900), ("Espresso cups, 6", 3450), ("Desk lamp", 8990), ("Gift", 1500))
    for number in range(1, 141):
        event_type = ("order.created", "order.paid", "order.shipped")[number % 3]
        description, cents = goods[number % len(goods)]
        quantity = random.randint(1, 4)
        data = {
            "id": f"{run}-{number:04d}",
            "number": number,
            "currency": "EUR",
            "total": cents * quantity,
            "customer": {"id": f"c-{random.randint(100, 999)}", "email": "mia@example.com"},
            "lines": [{"description": description, "quantity": quantity, "unit_price": cents}],
            "shipping": {"city": "Gießen", "country": "DE", "zip": "35390"},
        }
        yield event_type, {"type": event_type, "timestamp": _now(), "data": data}
    for number in range(1, 11):
        data = {"id": f"c-{number}", "email": f"c{number}@example.com", "newsletter": number % 2}
        yield (
            "customer.updated",
            {"type": "customer.updated", "timestamp": _now(), "data": data},
        )
    yield "order.created", b'{"type": "order.created", "data": {"id": "cut in the middle'


# Payments, in the envelope of https://docs.stripe.com/api/events ----------------------------------


def _payments_bodies(run: str, random: Random) -> Iterator[Body]:
    for number in range(1, 101):
        event_type = ("invoice.paid", "invoice.paid", "invoice.payment_failed", "charge.refunded")[
            number % 4
        ]
        customer = f"{CLOSED_CUSTOMER}{run}{number}" if number in (24, 64) else f"cus_{run}{number}"
        amount = 0 if number % 20 == 1 else random.randint(500, 50_000)  # 0: a trial's invoice
        invoice = {
            "id": f"in_{run}{number:04d}",
            "object": "invoice",
            "customer": customer,
            "currency": "eur",
            "amount_due": amount,
            "amount_paid": amount if event_type == "invoice.paid" else 0,
            "billing_reason": "subscription_cycle",
            "status": "paid" if event_type == "invoice.paid" else "open",
            "subscription": f"sub_{run}{number:04d}",
        }
        yield (
            event_type,
            {
                "id": f"evt_{run}{number:04d}",
                "object": "event",
                "api_version": "2025-03-31.basil",
                "created": int(datetime.now(UTC).timestamp()),
                "livemode": False,
                "pending_webhooks": 1,
                "type": event_type,
                "data": {"object": invoice},
            },
        )


# Code, as https://docs.github.com/en/webhooks/webhook-events-and-payloads has it ------------------


def _code_bodies(run: str, random: Random) -> Iterator[Body]:
    repository = {"id": 186853002, "name": "shop", "full_name": "example/shop", "private": True}
    sender = {"login": "mia", "id": 21031067, "type": "User"}
    for number in range(1, 61):
        about: dict[str, object] = {"repository": repository, "sender": sender}
        match number % 5:
            case 0:
                issue = {"number": number, "title": "The cart forgets", "state": "open"}
                yield "issues", {"action": "opened", "issue": issue, **about}
            case 1:
                head = {"ref": f"fix-{number}", "sha": f"{random.getrandbits(160):040x}"}
                request = {"number": number, "title": "Remember the cart", "head": head}
                yield "pull_request", {"action": "opened", "pull_request": request, **about}
            case 2:  # no route wants it: stored, and no job
                yield "star", {"action": "created", "starred_at": _now(), **about}
            case _:
                commit = f"{random.getrandbits(160):040x}"
                commits = [{"id": commit, "message": f"Mend {run}", "author": {"name": "Mia"}}]
                yield (
                    "push",
                    {"ref": "refs/heads/main", "after": commit, "commits": commits, **about},
                )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


_BODIES: dict[str, Callable[[str, Random], Iterator[Body]]] = {
    "standard-webhooks": _shop_bodies,
    "stripe": _payments_bodies,
    "github": _code_bodies,
}

"""What a sender is told: receipts, refusals, and how either looks on the wire."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.model import Receipt
from gateway.store.ids import new_id
from gateway.web.doors import Door
from gateway.web.written import written
from gateway.webhooks.handshakes import Answer

RETRY_AFTER_SECONDS = 5

_encode = msgspec.json.Encoder().encode


class Refusal(Exception):  # an answer, not a failure
    """Ends a request early with an answer that is no success."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        result: str = "refused",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status = status
        self.error = error
        self.result = result
        self.headers = headers or {}
        super().__init__(error)


def wrong_method(door: Door) -> Refusal:
    """Return the refusal of a method that means nothing at this door."""
    allowed = ", ".join(sorted(door.methods))
    return Refusal(405, f"only {allowed} is answered here", headers={"Allow": allowed})


def unavailable(error: str, *, result: str = "unavailable") -> Refusal:
    """Return a refusal that asks its sender to come again soon."""
    retry_after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refusal(503, error, result=result, headers=retry_after)


class Said(msgspec.Struct, frozen=True, gc=False):
    """An answer before it is put into bytes; ``correlation_id`` and headers are fit for headers."""

    status: int
    body: bytes
    content_type: str
    correlation_id: str
    headers: Mapping[str, str] = {}

    def written(self) -> bytes:
        """Return it as it goes over a connection that is kept."""
        return written(
            self.status,
            self.body,
            content_type=self.content_type,
            correlation_id=self.correlation_id,
            headers=self.headers,
        )

    def response(self) -> web.Response:
        """Return it as aiohttp sends it."""
        return web.Response(
            status=self.status,
            body=self.body,
            headers={
                "Content-Type": self.content_type,
                "X-Correlation-ID": self.correlation_id,
                "Server": "gateway",
                **self.headers,
            },
        )


def receipt_said(door: Door, receipt: Receipt, correlation_id: str) -> Said:
    """Return the answer to a webhook that is committed."""
    override = door.config.response
    status = 200 if receipt.duplicate else 202
    if override.status != 202:
        status = override.status
    if override.body is not None:
        return Said(status, override.body.encode(), "text/plain; charset=utf-8", correlation_id)
    if _is_terse(door):
        return Said(status, b"", "text/plain", correlation_id)
    body = b'{"event_id": "%s", "jobs": %d, "duplicate": %s}' % (
        str(receipt.event_id).encode(),
        receipt.jobs,
        b"true" if receipt.duplicate else b"false",
    )
    return Said(status, body, "application/json", correlation_id)


def refusal_said(door: Door | None, refusal: Refusal, correlation_id: str) -> Said:
    """Return the answer to a request that is refused; *door* is where it came to, if to any."""
    correlation_id = correlation_id or str(new_id())
    if door is not None and _is_terse(door):
        return Said(refusal.status, b"", "text/plain", correlation_id, refusal.headers)
    body = _encode({"error": refusal.error})
    return Said(refusal.status, body, "application/json", correlation_id, refusal.headers)


def failure_said(status: int, error: str, correlation_id: str) -> Said:
    """Return the answer where neither the sender nor a limit is to blame."""
    body = _encode({"error": error})
    return Said(status, body, "application/json", correlation_id or str(new_id()))


def handshake_said(answer: Answer, correlation_id: str) -> Said:
    """Return the answer that a handshake's sender expects."""
    headers = dict(answer.headers)
    content_type = headers.pop("Content-Type", "text/plain; charset=utf-8")
    correlation_id = correlation_id or str(new_id())
    return Said(answer.status, answer.body, content_type, correlation_id, headers)


def _is_terse(door: Door) -> bool:
    """Whether the sender wants a status and no word more."""
    return door.config.verify is not None and door.config.verify.empty_answers

"""The few bytes of HTTP/1.1 and of Standard Webhooks that load and stub exchange with subjects.

Raw on purpose: a measuring instrument must cost little beside what it measures.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from uuid import uuid4

HEAD_END = b"\r\n\r\n"
SEQ_DIGITS = 10
_SEQ_KEY = b'"seq":"'

# An event of ordinary size (about 670 bytes), with a number that finds it again at the other end.
_BODY_BEFORE = b'{"type":"invoice.paid","timestamp":"2026-01-01T00:00:00Z",' + _SEQ_KEY
_BODY_AFTER = (
    b'","data":{"object":{"id":"in_1MtHbELkdIwHu7ixl4OzzPMv","object":"invoice","currency":"usd",'
    b'"customer":"cus_NeZwdNtLEOXuvB","customer_email":"jenny.rosen@example.com","amount_due":1999,'
    b'"amount_paid":1999,"attempt_count":1,"attempted":true,"billing_reason":"subscription_cycle",'
    b'"collection_method":"charge_automatically","lines":{"data":[{"id":"il_1MtHbE","amount":1999,'
    b'"description":"1 x Gold plan (at $19.99 / month)","quantity":1,"price":"price_1MtHbE",'
    b'"period":{"start":1680644467,"end":1683236467}}],"has_more":false},"metadata":{"order":"6735",'
    b'"region":"eu-central-1"},"status":"paid","subscription":"sub_1MtHbE"}}}'
)
BODY_BYTES = len(_BODY_BEFORE) + SEQ_DIGITS + len(_BODY_AFTER)


def message_bytes(data: bytes) -> int | None:
    """Return the length of the first HTTP message in *data*, or None while it is incomplete."""
    head = data.find(HEAD_END)
    if head < 0:
        return None
    at = data.find(b"ontent-Length:", 0, head)
    if at < 0:
        at = data.lower().find(b"ontent-length:", 0, head)
    body = int(data[at + 14 : data.index(b"\r\n", at)]) if at >= 0 else 0
    end = head + 4 + body
    return end if len(data) >= end else None


def seq_of(message: bytes) -> int:
    """Return the number that :class:`Requests` gave the event which *message* carries."""
    at = message.index(_SEQ_KEY) + len(_SEQ_KEY)
    return int(message[at : at + SEQ_DIGITS])


class Requests:
    """Signed webhooks by number. Signatures are made ahead of time; the rest is put together."""

    def __init__(self, *, path: str, secret: str) -> None:
        self._key = base64.b64decode(secret.removeprefix("whsec_"))
        self._path = path
        self._run = uuid4().hex
        self._signed: list[bytes] = []
        self._before = b""

    def prepare(self, count: int) -> None:
        """Sign the next *count* events, as of now (a receiver tolerates minutes)."""
        timestamp = str(int(time.time())).encode()
        for seq in range(len(self._signed), len(self._signed) + count):
            number = b"%010d" % seq
            message_id = f"msg_{self._run}{seq}".encode()
            signed = b".".join((message_id, timestamp, _BODY_BEFORE + number + _BODY_AFTER))
            signature = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256))
            self._signed.append(
                b"webhook-id: %b\r\nwebhook-timestamp: %b\r\nwebhook-signature: v1,%b\r\n\r\n"
                % (message_id, timestamp, signature)
            )
        self._before = (
            f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\n"
            f"Content-Type: application/json\r\nContent-Length: {BODY_BYTES}\r\n"
        ).encode()

    def request(self, seq: int) -> bytes:
        """Return request number *seq*; signs more when those made ahead are used up."""
        if seq >= len(self._signed):
            self.prepare(10)  # more at once would be a pause
        return b"%b%b%b%010d%b" % (
            self._before,
            self._signed[seq],
            _BODY_BEFORE,
            seq,
            _BODY_AFTER,
        )

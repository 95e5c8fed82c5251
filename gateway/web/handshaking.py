"""What the intake needs to know its senders: verifiers, handshakes, secrets told in handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from gateway.config.model import Secret, Webhook
from gateway.errors import SignatureRefused
from gateway.vendors.fetch import FetchFailed
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.handshakes import Handshakes
from gateway.webhooks.signed import Need, SignedRequest
from gateway.webhooks.verify import RequestVerifier

Fetch = Callable[[Need], Awaitable[bytes]]


class Unpaired:
    """The verifier of a sender that has not told its secret yet: it refuses everything."""

    fetches = False

    def needs(self, request: SignedRequest) -> Need | None:  # noqa: ARG002
        """See RequestVerifier."""
        return None

    def verify(self, request: SignedRequest, now: float, fetched: bytes = b"") -> int:  # noqa: ARG002
        """See RequestVerifier."""
        raise SignatureRefused("the sender has not told its secret in a handshake yet")

    def message_of(self, request: SignedRequest) -> bytes:  # noqa: ARG002
        """See RequestVerifier."""
        raise SignatureRefused("the sender has not told its secret in a handshake yet")


def verifier_of(config: Webhook) -> RequestVerifier | None:
    """Return what verifies this vendor's webhooks; None where the file says ``"none"``.

    ``ValueError`` says what is wrong with its scheme or secrets.
    """
    scheme = config.verify
    if scheme is None:
        return None
    if not config.secrets and config.learn_secret is not None:
        return Unpaired()
    return verifier_for(scheme, [secret.value for secret in config.secrets])


def handshakes_of(config: Webhook) -> Handshakes | None:
    """Return this vendor's handshakes, its own before its scheme's; None where there are none."""
    scheme = config.verify
    handshakes = (*config.handshakes, *(scheme.handshakes if scheme else ()))
    if not handshakes:
        return None
    return Handshakes(
        handshakes,
        scheme=scheme,
        secrets=[secret.value for secret in config.secrets],
        verify_token=config.verify_token.value if config.verify_token else None,
    )


async def fetch_nothing(need: Need) -> bytes:
    """Stand in for a fetcher where there is none."""
    raise FetchFailed(f"nothing can be fetched here: {need.key[:200]}")


async def learn(config: Webhook, secret: str) -> Webhook | None:
    """Keep the *secret* that a handshake told; return the settings that hold it from now on.

    None if it is known already. Raises SignatureRefused where it cannot be believed: no file is
    configured, or one secret was told before. ``OSError`` if the file cannot be written.
    """
    told = secret.encode()
    if any(hmac.compare_digest(told, known.value.encode()) for known in config.secrets):
        return None
    learning = config.learn_secret
    if learning is None:
        raise SignatureRefused(
            "the handshake told a secret, and there is no learn_secret to keep it; "
            'write learn_secret = "FILE", reload, and create the webhook again'
        )
    try:
        await asyncio.to_thread(_write_once, learning.path, told)
    except FileExistsError:
        raise SignatureRefused(
            f"the handshake told a secret, and {learning.path} holds one already; to believe it, "
            "name that file in secrets and another in learn_secret, reload, create it again"
        ) from None
    learnt = Secret(f"file:{learning.path}", secret)
    return msgspec.structs.replace(
        config,
        secrets=(*config.secrets, learnt),
        learn_secret=msgspec.structs.replace(learning, secret=learnt),
    )


def _write_once(path: Path, content: bytes) -> None:
    """Make *path* with *content*, readable for us only; FileExistsError if it is there.

    It appears whole and durable or not at all, and of several that try only one can.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()

"""The W3C trace context (Trace Context, section 3.2): taken from senders, continued to vendors."""

from __future__ import annotations

import re
from random import Random

MAX_CHARS = 255

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-[!-~]*)?"
).fullmatch


def well_formed(traceparent: str | None) -> str | None:
    """Return *traceparent* if it can be kept and continued."""
    if traceparent is None or len(traceparent) > MAX_CHARS or not _TRACEPARENT(traceparent):
        return None
    return traceparent


def continued(traceparent: str | None, *, random: Random) -> str:
    """Return the same trace with a span of our own; a new trace where there is no usable one."""
    span = f"{random.getrandbits(64) or 1:016x}"  # all zeros would be no span
    if traceparent and (match := _TRACEPARENT(traceparent)):
        return f"00-{match[1]}-{span}-{match[2]}"
    return f"00-{random.getrandbits(128) or 1:032x}-{span}-00"

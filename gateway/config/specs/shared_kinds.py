"""Kinds of values that several sections share."""

from __future__ import annotations

from typing import Any

from gateway.config import values
from gateway.config.kinds import Text
from gateway.config.model import ServerSection, Webhook
from gateway.config.walker import Key, ListOf

PLAIN = Text("string", values.plain_text)
NETWORKS = ListOf(Text("network", values.network, expected='"10.0.0.0/8"'))
RATE = Text("rate", values.rate, values.rate_text, expected='"10/s"', pattern="^[0-9]+/[smhd]$")
ADDRESS = Text("address", values.address, values.address_text, expected='"127.0.0.1:8080"')
HEADER_NAME = Text("header name", values.header_name)
STATUSES = ListOf(Text("status", values.status, pattern="^[2-5](xx|[0-9]{2})$"), min_items=1)
RETRY_REASONS = ListOf(Text("status", values.retry_reason, expected='"timeout", "429" or "5xx"'))
VENDORS = "the called vendor's"


def take_burst(section: Webhook | ServerSection, key: Key) -> Any:
    """Return what *section* says of *key*; without a rate there is no burst."""
    if key.name == "burst":
        return section.burst or None
    return getattr(section, key.target)

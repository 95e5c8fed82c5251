"""What is read from a value's text and written back is the same; all else is refused kindly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import values
from gateway.config.model import Address, Rate


@given(st.integers(0, 36_500 * 86_400_000))
def test_every_duration_in_milliseconds_survives_the_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert values.duration_seconds(values.duration_text(seconds)) == seconds


@given(st.integers(0, 1 << 40))
def test_every_size_survives_the_round_trip(size: int) -> None:
    assert values.size_bytes(values.size_text(size)) == size


@given(st.integers(1, 10**9 - 1), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))
def test_every_rate_survives_the_round_trip(count: int, period_seconds: float) -> None:
    rate = Rate(count, period_seconds)
    assert values.rate(values.rate_text(rate)) == rate


@given(st.one_of(st.ip_addresses().map(str), st.just("localhost")), st.integers(0, 65535))
def test_every_address_survives_the_round_trip(host: str, port: int) -> None:
    address = Address(host, port)
    assert values.address(values.address_text(address)) == address


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("5m", 300), ("24h", 86400), ("7d", 604800), ("0s", 0)],
)
def test_durations_of_the_contract(text: str, seconds: float) -> None:
    assert values.duration_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "written"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("203.0.113.7", "203.0.113.7/32"), ("::1", "::1/128")],
)
def test_a_single_address_is_a_network_of_one(text: str, written: str) -> None:
    assert values.network(text) == written


READERS: list[Callable[[str], object]] = [
    values.duration_seconds,
    values.size_bytes,
    values.rate,
    values.address,
    values.network,
    values.base_url,
    values.url,
    values.header_name,
    values.sent_header_name,
    values.header_value,
    values.source,
    values.dedupe_source,
    values.scheme_source,
    values.event_type_source,
    values.status,
    values.retry_reason,
    values.handler_reference,
    values.vendor_name,
    values.route_name,
    values.plain_text,
    values.username,
    values.database_url,
]
_TEXTS = st.one_of(
    st.text(),
    st.text("0123456789smhdBKiMG/.:[]%@?#{}| ", max_size=12),
    st.text("httpshp:/[]@%.0a", max_size=16).map("http://".__add__),
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(text=_TEXTS)
def test_readers_raise_nothing_but_a_value_error(
    reader: Callable[[str], object], text: str
) -> None:
    try:
        reader(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either is fine, but a refusal says something


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (values.duration_seconds, "10"),
        (values.duration_seconds, "1.5s"),
        (values.duration_seconds, "-1s"),
        (values.duration_seconds, "10 s"),
        (values.duration_seconds, "1h30m"),
        (values.duration_seconds, "99999d"),
        (values.duration_seconds, "१s"),
        (values.size_bytes, "1MB"),
        (values.size_bytes, "1kib"),
        (values.rate, "10"),
        (values.rate, "0/s"),
        (values.rate, "10/w"),
        (values.address, "8080"),
        (values.address, ":8080"),
        (values.address, "::1:8080"),
        (values.address, "localhost:70000"),
        (values.network, "10.0.0.1/8"),
        (values.network, "10.0.0.0/33"),
        (values.base_url, "ftp://x.example"),
        (values.base_url, "https://"),
        (values.base_url, "https://user@x.example"),
        (values.base_url, "https://:pw@x.example"),
        (values.base_url, "https://x.example/?"),
        (values.base_url, "https://x.example/#a"),
        (values.base_url, "https://x.example:99999"),
        (values.base_url, "https://x.example/a b"),
        (values.header_name, "X Key"),
        (values.header_name, ""),
        (values.sent_header_name, "Content-Length"),
        (values.sent_header_name, "authorization"),
        (values.header_value, "a\r\nX: 1"),
        (values.source, "hash"),
        (values.source, "header:"),
        (values.source, "body:a..b"),
        (values.status, "200 "),
        (values.status, "1xx"),
        (values.status, "999"),
        (values.handler_reference, "my_company.handlers"),
        (values.handler_reference, "my-company:run"),
        (values.vendor_name, "local"),
        (values.vendor_name, "-a"),
        (values.vendor_name, "a" * 64),
        (values.database_url, "mysql://x"),
    ],
)
def test_refused(reader: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        reader(text)


def test_a_base_url_loses_its_last_slash_so_that_paths_can_follow() -> None:
    assert values.base_url("https://x.example/v1/") == "https://x.example/v1"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (
            "postgresql://u:secret@h:5/db?sslmode=require",
            "postgresql://u:****@h:5/db?sslmode=require",
        ),
        ("postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u&password=****"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("embedded", "embedded"),
    ],
)
def test_a_shown_database_url_never_holds_its_password(url: str, masked: str) -> None:
    assert values.masked_url(url) == masked
    assert values.embedded_password(url) == ("secret" in url)

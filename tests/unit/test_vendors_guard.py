from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.vendors.guard import AddressRefused, host_refusal, refusal, socket_factory

ALWAYS = """
169.254.169.254 169.254.170.2 169.254.0.1 169.254.255.255 0.0.0.0 0.1.2.3 255.255.255.255
224.0.0.1 239.255.255.255 240.0.0.1 100.100.100.200 168.63.129.16 192.0.0.192
:: fe80::1 fe80::1%lo febf::1 ff02::1 fd00:ec2::254 fd00:ec2::23 fd20:ce::254
::ffff:169.254.169.254 ::169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1
::ffff:0:169.254.169.254 2001:db8::5efe:a9fe:a9fe 2001:0:102:304:0:0:5601:5601
""".split()  # noqa: SIM905 (a table)

PRIVATE = """
127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1
100.127.255.255 192.0.0.1 192.88.99.1 198.18.0.1 198.19.255.255 192.0.2.1 198.51.100.1 203.0.113.1
::1 fc00::1 fdff::1 fec0::1 100::1 2001:db8::1 2001:1::1 3fff::1 5f00::1 64:ff9b:1::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2002:c0a8:101::1
2606:4700::5efe:a00:1 2606:4700::200:5efe:a00:1
""".split()  # noqa: SIM905 (a table)

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 128.0.0.1 169.253.255.255
169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.167.255.255 198.17.255.255
198.20.0.0 223.255.255.255 2606:4700::1111 2a00:1450::1 2001:4860:4860::8888
::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""".split()  # noqa: SIM905 (a table)


@pytest.mark.parametrize("address", ALWAYS)
def test_metadata_and_link_local_are_refused_whatever_is_allowed(address: str) -> None:
    assert "never called" in str(refusal(address, allow_private=True))
    assert "never called" in str(refusal(address, allow_private=False))


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_unless_allowed(address: str) -> None:
    assert "allow_private = true" in str(refusal(address, allow_private=False))
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert refusal(address, allow_private=False) is None


@pytest.mark.parametrize("address", ["", "localhost", "2130706433", "127.1", "0x7f.0.0.1", "1.2.3"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert refusal(address, allow_private=True) is not None


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_what_python_knows_as_not_global_is_refused_by_us_too(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert refusal(str(address), allow_private=False) is not None


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_the_same_holds_for_ipv6(address: IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert refusal(str(address), allow_private=False) is not None


@given(st.integers(0, 2**32 - 1).map(IPv4Address), st.booleans())
def test_carrying_an_address_in_ipv6_never_allows_more(
    inner: IPv4Address, allow_private: bool
) -> None:
    number = int(inner)
    for carrier in (
        0xFFFF << 32 | number,
        0x64_FF9B << 96 | number,
        0x2002 << 112 | number << 80 | 1,
        0x2606_4700 << 96 | 0x5EFE << 32 | number,
    ):
        if refusal(str(inner), allow_private=allow_private):
            assert refusal(str(ip_address(carrier)), allow_private=allow_private)


def test_the_socket_factory_refuses_before_there_is_a_socket() -> None:
    make = socket_factory(allow_private=False)
    with pytest.raises(AddressRefused):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
    with make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))) as made:
        assert made.family == socket.AF_INET


@pytest.mark.parametrize("address", [*ALWAYS, *PRIVATE])
def test_a_host_behind_a_proxy_is_judged_like_an_address(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert host_refusal(host, allow_private=False) is not None


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.GOOGLE.INTERNAL.", "2852039166", "0xa9fea9fe"]
)
def test_no_name_or_spelling_of_metadata_is_asked_of_a_proxy(host: str) -> None:
    assert "never called" in str(host_refusal(host, allow_private=True))


@pytest.mark.parametrize("host", ["localhost", "x.localhost.", "2130706433", "127.1", "0177.1"])
def test_no_name_or_spelling_of_loopback_is_asked_of_a_proxy_unless_allowed(host: str) -> None:
    assert host_refusal(host, allow_private=False) is not None
    assert host_refusal(host, allow_private=True) is None


@pytest.mark.parametrize("host", ["crm.example", "fade.cafe", "1.1.1.1", "a.b.c.d", "134744072"])
def test_other_hosts_are_the_proxys_matter(host: str) -> None:
    assert host_refusal(host, allow_private=False) is None


@given(st.text(max_size=40))
def test_judging_a_host_never_fails(host: str) -> None:
    host_refusal(host, allow_private=False)

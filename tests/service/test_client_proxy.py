"""Calls through a proxy: what it sees, what it must not see, and what it is never asked for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from scripted import (
    Request,
    ScriptedVendor,
    api,
    failure_of,
    says,
    scripted_vendor,
    send,
)

from gateway.config.model import BearerAuth, OAuth2Auth, Proxy, Secret, Tls

LOGIN = "Basic cHJveHktdXNlcjpwcm94eS1wdw=="
BEARER = BearerAuth(Secret("env:T", "vendor-t0ken"))


@pytest.fixture
async def vendor() -> AsyncIterator[ScriptedVendor]:
    async with scripted_vendor() as scripted:
        yield scripted


def through(port: int, **changes: Any) -> Proxy:
    login = {"username": "proxy-user", "password": Secret("env:P", "proxy-pw")}
    return Proxy(url=f"http://127.0.0.1:{port}", **(login | changes))


async def tunnels(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer CONNECT, then carry bytes to and fro until one side ends."""
    host, _, port = request.line.split(" ")[1].rpartition(":")
    there_reader, there_writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

    async def carry(reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                to.write(piece)
                await to.drain()
        except ConnectionError:
            pass
        finally:
            to.close()

    await asyncio.gather(carry(request.reader, there_writer), carry(there_reader, writer))
    raise ConnectionResetError  # the connection is used up


@asynccontextmanager
async def tls_vendor(authority: Authority, folder: Path) -> AsyncIterator[ScriptedVendor]:
    certificate, key = authority.issue("vendor")
    (folder / "chain.pem").write_text(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "chain.pem")
    async with scripted_vendor(context) as scripted:
        yield scripted


async def test_plain_http_is_asked_of_the_proxy_with_its_login(vendor: ScriptedVendor) -> None:
    reply = await send(
        api("http://crm.example/v1", auth=BEARER, proxy=through(vendor.port)),
        body=b"body",
        headers={"proxy-authorization": "evil"},
    )
    [request] = vendor.requests
    assert reply.status == 200
    assert request.line == "POST http://crm.example/v1/deals HTTP/1.1"
    assert request.header("Host") == "crm.example"
    assert request.header("Proxy-Authorization") == LOGIN
    assert request.header("Authorization") == "Bearer vendor-t0ken"
    assert request.body == b"body"


async def test_https_is_tunnelled_and_each_side_sees_only_its_own_secret(
    vendor: ScriptedVendor, tmp_path: Path
) -> None:
    authority = Authority()
    vendor.answer = tunnels
    async with tls_vendor(authority, tmp_path) as target:
        reply = await send(
            api(
                f"https://127.0.0.1:{target.port}",
                auth=BEARER,
                headers={"X-Team": "vendor-only"},
                tls=Tls(ca=Secret("env:CA", authority.pem)),
                proxy=through(vendor.port),
            ),
            body=b"body",
        )
    [connect], [request] = vendor.requests, target.requests
    assert reply.status == 200
    assert connect.line == f"CONNECT 127.0.0.1:{target.port} HTTP/1.1"
    assert connect.header("Proxy-Authorization") == LOGIN
    assert connect.header("Authorization") is None
    assert "vendor-" not in str(connect.headers)
    assert request.header("Authorization") == "Bearer vendor-t0ken"
    assert request.header("Proxy-Authorization") is None
    assert request.header("X-Team") == "vendor-only"
    assert request.body == b"body"


async def test_the_proxys_own_address_is_guarded(vendor: ScriptedVendor) -> None:
    closed = {"allow_private": False, "proxy": through(vendor.port)}
    failure = await failure_of(api("http://crm.example", **closed))
    assert failure.kind == "refused-address"
    assert "the proxy of http://crm.example" in failure.text
    assert vendor.connections == 0
    opened = closed | {"proxy": through(vendor.port, allow_private=True)}
    assert (await send(api("http://crm.example", **opened))).status == 200
    metadata = Proxy(url="http://169.254.169.254:3128", allow_private=True)
    failure = await failure_of(api("http://crm.example", proxy=metadata))
    assert failure.kind == "refused-address"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "localhost", "a.localhost", "LOCALHOST.", "[::1]"),
        *("[::ffff:10.0.0.1]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1"),
    ],
)
async def test_a_private_target_behind_the_proxy_needs_permission(
    vendor: ScriptedVendor, host: str
) -> None:
    proxy = through(vendor.port, allow_private=True)
    failure = await failure_of(api(f"http://{host}/", allow_private=False, proxy=proxy))
    assert failure.kind == "refused-address"
    assert vendor.connections == 0


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "2852039166"]
)
async def test_metadata_is_not_asked_of_the_proxy_either(vendor: ScriptedVendor, host: str) -> None:
    failure = await failure_of(api(f"http://{host}/", proxy=through(vendor.port)))
    assert failure.kind == "refused-address"
    assert "never called" in failure.text
    vendor.answer = says(
        f"HTTP/1.1 307 Moved\r\nLocation: http://{host}/\r\nContent-Length: 0\r\n\r\n".encode()
    )
    failure = await failure_of(api("http://crm.example", proxy=through(vendor.port), redirects=3))
    assert failure.kind == "refused-address"
    assert len(vendor.requests) == 1


async def test_a_redirect_from_http_to_https_takes_the_proxys_login_out_of_the_request(
    vendor: ScriptedVendor, tmp_path: Path
) -> None:
    authority = Authority()
    async with tls_vendor(authority, tmp_path) as target:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: https://127.0.0.1:{target.port}/\r\n"

        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            if request.line.startswith("CONNECT"):
                await tunnels(request, writer)
            writer.write(moved.encode() + b"Content-Length: 0\r\n\r\n")

        vendor.answer = answer
        reply = await send(
            api(
                "http://crm.example",
                auth=BEARER,
                tls=Tls(ca=Secret("env:CA", authority.pem)),
                proxy=through(vendor.port),
                redirects=1,
            )
        )
    assert reply.status == 200
    [request] = target.requests
    assert request.header("Proxy-Authorization") is None
    assert request.header("Authorization") is None


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses_is_a_connect_failure_without_secrets(
    vendor: ScriptedVendor, status: int
) -> None:
    vendor.answer = says(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
    failure = await failure_of(api("https://crm.example", auth=BEARER, proxy=through(vendor.port)))
    assert failure.kind == "connect"
    assert f"the proxy of https://crm.example answered HTTP {status}" in failure.text
    assert "proxy-pw" not in str(failure)


async def test_a_proxy_that_is_away_is_a_connect_failure(vendor: ScriptedVendor) -> None:
    failure = await failure_of(api("http://crm.example", proxy=through(1)))
    assert failure.kind == "connect"
    assert "the proxy of" in failure.text


async def test_tokens_are_fetched_through_the_proxy_too(vendor: ScriptedVendor) -> None:
    token = b'{"access_token": "t1"}'
    vendor.answer = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(token) + token)
    auth = OAuth2Auth("http://login.example/token", "id", Secret("env:S", "s"))
    await send(api("http://crm.example", auth=auth, proxy=through(vendor.port)))
    asked, call = vendor.requests
    assert asked.line == "POST http://login.example/token HTTP/1.1"
    assert asked.header("Proxy-Authorization") == LOGIN
    assert call.header("Authorization") == "Bearer t1"
    auth = OAuth2Auth("http://169.254.169.254/token", "id", Secret("env:S", "s"))
    failure = await failure_of(api("http://crm.example", auth=auth, proxy=through(vendor.port)))
    assert "never called" in failure.text
    assert len(vendor.requests) == 2

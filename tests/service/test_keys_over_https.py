"""A bearer JWT is verified by keys that come over real https, from a server of the test's own."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import ec
from doorstep import serving

from gateway.vendors.fetch import SenderFetcher

HOST = "sender.example"
KEYS_URL = f"https://{HOST}/jwks.json"
VERIFY = (
    f'preset = "jwt", algorithm = "ecdsa-sha256", audience = "gateway", keys_url = "{KEYS_URL}"'
)
SENDER = f"[vendors.sender.webhook]\nverify = {{ {VERIFY} }}\n"
FIRST, SECOND, FORGED = (ec.derive_private_key(number, ec.SECP256R1()) for number in (11, 22, 33))


class Keys:
    """The sender's JWKS, and how often it was asked for."""

    def __init__(self) -> None:
        self.published: dict[str, ec.EllipticCurvePrivateKey] = {"1": FIRST}
        self.asked = 0
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.Response:
        assert (request.host, request.path, request.scheme) == (HOST, "/jwks.json", "https")
        self.asked += 1
        keys = [
            json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) | {"kid": kid}
            for kid, key in self.published.items()
        ]
        return web.json_response({"keys": keys})


class AllHosts(AbstractResolver):
    """Leads every name to the server of the test."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=self.port,
                family=family,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def published(tmp_path: Path, authority: Authority, host: str = HOST) -> AsyncIterator[Keys]:
    certificate, key = authority.issue(host, host=host)
    pem = tmp_path / "server.pem"
    pem.write_text(certificate + key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    keys = Keys()
    runner = web.ServerRunner(web.Server(keys.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    keys.port = runner.addresses[0][1]
    try:
        yield keys
    finally:
        await runner.cleanup()


def fetcher(keys: Keys, trusted: Authority) -> SenderFetcher:
    tls = ssl.create_default_context(cadata=trusted.pem)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=tls, resolver=AllHosts(keys.port))
        return aiohttp.ClientSession(connector=connector)

    return SenderFetcher(session=session)


def bearer(kid: str, key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    claims = {"exp": time.time() + 60, "aud": "gateway"}
    return {"Authorization": "Bearer " + jwt.encode(claims, key, "ES256", {"kid": kid})}


async def test_the_keys_come_over_https_and_are_kept(tmp_path: Path) -> None:
    authority = Authority()
    async with published(tmp_path, authority) as keys:
        fetching = fetcher(keys, authority)
        async with serving(tmp_path, SENDER, fetch=fetching.fetch) as place:
            calls = [place.call("sender", b"{}", bearer("1", FIRST)) for _ in range(8)]
            assert [answer[0] for answer in await asyncio.gather(*calls)] == [202] * 8
            assert (await place.call("sender", b"{}", bearer("1", FORGED)))[0] == 401
            assert (await place.call("sender", b"{}", bearer("2", SECOND)))[0] == 401
            assert keys.asked == 1
            assert len(place.desk.stored) == 8
        await fetching.close()


async def test_a_new_key_counts_once_the_old_answer_is_too_old(tmp_path: Path) -> None:
    authority = Authority()
    async with published(tmp_path, authority) as keys:
        fetching = fetcher(keys, authority)
        now = 0.0
        fetching._clock = lambda: now
        async with serving(tmp_path, SENDER, fetch=fetching.fetch) as place:
            assert (await place.call("sender", b"{}", bearer("1", FIRST)))[0] == 202
            keys.published = {"2": SECOND}
            now = 3600.0
            assert (await place.call("sender", b"{}", bearer("2", SECOND)))[0] == 202
            assert (await place.call("sender", b"{}", bearer("1", FIRST)))[0] == 401
            assert keys.asked == 2
        await fetching.close()


async def test_keys_of_a_server_that_is_not_the_senders_count_for_nothing(tmp_path: Path) -> None:
    """Whose certificate is nobody's that we trust, or is for another host."""
    authority, stranger = Authority(), Authority("stranger")
    for issuer, host in ((stranger, HOST), (authority, "other.example")):
        async with published(tmp_path, issuer, host) as keys:
            fetching = fetcher(keys, authority)
            async with serving(tmp_path, SENDER, fetch=fetching.fetch) as place:
                answer = await place.call("sender", b"{}", bearer("1", FIRST))
                assert (answer[0], keys.asked, place.desk.stored) == (503, 0, [])
            await fetching.close()

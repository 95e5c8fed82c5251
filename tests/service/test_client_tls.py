"""Client certificates and private authorities, against servers that insist on them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from scripted import Request, ScriptedVendor, api, failure_of, says, scripted_vendor, send

from gateway.config.model import Secret, Tls
from gateway.config.tls import tls_context
from gateway.errors import ConfigInvalid
from gateway.vendors.client import VendorClient

OURS, THEIRS = Authority("our clients"), Authority("their servers")


def secret(text: str) -> Secret:
    return Secret("env:PEM", text)


def settings(name: str = "gateway", **changes: Any) -> Tls:
    certificate, key = OURS.issue(name)
    fields = {"certificate": secret(certificate), "key": secret(key), "ca": secret(THEIRS.pem)}
    return Tls(**(fields | changes))


@asynccontextmanager
async def server(
    folder: Path, *, verify: ssl.VerifyMode = ssl.CERT_REQUIRED, **issued: Any
) -> AsyncIterator[tuple[ScriptedVendor, list[Any]]]:
    """A vendor that asks for a certificate of ours, and the names that it was shown."""
    certificate, key = THEIRS.issue("vendor", **issued)
    chain = folder / f"chain-{verify}.pem"
    chain.write_text(certificate + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=OURS.pem)
    context.verify_mode = verify
    context.load_cert_chain(chain)
    shown: list[Any] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peercert")
        shown.append(peer["subject"][0][0][1] if peer else None)
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(request, writer)

    async with scripted_vendor(context) as scripted:
        scripted.answer = answer
        yield scripted, shown


async def test_the_certificate_is_shown_and_the_private_authority_trusted(tmp_path: Path) -> None:
    async with server(tmp_path) as (vendor, shown):
        reply = await send(api(f"https://127.0.0.1:{vendor.port}", tls=settings()))
    assert reply.status == 200
    assert shown == ["gateway"]


@pytest.mark.parametrize("together", [False, True])
async def test_an_encrypted_key_and_one_beside_its_certificate_are_read(
    together: bool, tmp_path: Path
) -> None:
    certificate, key = OURS.issue("gateway", password="pässword")
    tls = (
        settings(certificate=secret(certificate + key), key=None, password=secret("pässword"))
        if together
        else settings(certificate=secret(certificate), key=secret(key), password=secret("pässword"))
    )
    async with server(tmp_path) as (vendor, shown):
        await send(api(f"https://127.0.0.1:{vendor.port}", tls=tls))
    assert shown == ["gateway"]


async def test_without_a_certificate_or_trust_there_is_no_call(tmp_path: Path) -> None:
    async with server(tmp_path) as (vendor, _):
        url = f"https://127.0.0.1:{vendor.port}"
        unshown = Tls(ca=secret(THEIRS.pem))
        assert (await failure_of(api(url, tls=unshown))).kind in ("tls", "reset")
        assert (await failure_of(api(url, tls=settings(ca=secret(OURS.pem))))).kind == "tls"
        assert (await failure_of(api(url, tls=settings(ca=None)))).kind == "tls"
        assert (await failure_of(api(url))).kind == "tls"
        assert vendor.requests == []


@pytest.mark.parametrize(
    ("issued", "words"), [({"days": -1}, "expired"), ({"address": "127.0.0.2"}, "127.0.0.1")]
)
async def test_an_expired_or_foreign_certificate_gets_no_call(
    tmp_path: Path, issued: dict[str, Any], words: str
) -> None:
    async with server(tmp_path, **issued) as (vendor, _):
        failure = await failure_of(api(f"https://127.0.0.1:{vendor.port}", tls=settings()))
        assert failure.kind == "tls"
        assert words in failure.text
        assert vendor.requests == []


async def test_another_origin_is_not_shown_the_certificate(tmp_path: Path) -> None:
    async with (
        server(tmp_path) as (vendor, shown),
        server(tmp_path, verify=ssl.CERT_OPTIONAL) as (other, others),
    ):
        moved = f"HTTP/1.1 307 Moved\r\nLocation: https://127.0.0.1:{other.port}/\r\n".encode()
        answers = [moved + b"Content-Length: 0\r\n\r\n"]
        usual = vendor.answer

        async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
            await (says(answers.pop()) if answers else usual)(request, writer)

        vendor.answer = answer
        url = f"https://127.0.0.1:{vendor.port}"
        reply = await send(api(url, tls=settings(), redirects=2))
        assert reply.status == 200
        assert (shown, others) == ([], [None])
        assert (await send(api(url, tls=settings()))).status == 200
        assert shown == ["gateway"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": secret("no PEM")}, "ca: no certificates"),
        ({"ca": secret(OURS.issue("x")[1])}, "ca: no certificates"),
        ({"certificate": secret("no PEM")}, "certificate: it and its key"),
        ({"key": secret(OURS.issue("other")[1])}, "KEY_VALUES_MISMATCH"),
        ({"key": None}, "certificate: it and its key"),
        ({"key": secret(OURS.issue("x", password="pw")[1])}, "encrypted key needs its password"),
        (
            {"key": secret(OURS.issue("x", password="pw")[1]), "password": secret("wrong")},
            "needs its password",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start_without_a_question(
    changes: dict[str, Any], words: str
) -> None:
    tls = settings(**changes)
    with pytest.raises(ValueError, match=words):
        tls_context(tls)
    with pytest.raises(ConfigInvalid, match=r"vendors\.stub\.api\.tls"):
        VendorClient(api("https://x.example", tls=tls), user_agent="gateway/test")

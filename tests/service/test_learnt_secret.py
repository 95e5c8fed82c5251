"""A secret told in a handshake: one file, whole or not at all, ours alone, and shown nowhere."""

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from doorstep import serving
from harness import Gateway, Records, configure, get

from gateway.config.model import Learning, Webhook
from gateway.errors import SignatureRefused
from gateway.web import handshaking
from gateway.web.handshaking import learn
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.sign import sign

TOLD = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
EVENT = b'{"events":[{"action":"changed"}]}'
LEARNING = '[vendors.asana.webhook]\nverify = "asana"\nlearn_secret = "{path}"\n'


def unpaired(path: Path) -> Webhook:
    return Webhook(vendor="asana", verify=PRESETS["asana"], learn_secret=Learning(path))


async def test_it_is_durable_before_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's content, then its name, then the folder that holds the name."""
    acts: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def act(*args: Any, **more: Any) -> Any:
            if name == "fsync":
                kind = "folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "file"
                acts.append(f"fsync {kind}")
            else:
                acts.append(name)
            return real(*args, **more)

        monkeypatch.setattr(handshaking.os, name, act)

    watch("fsync")
    watch("link")
    path = tmp_path / "asana.secret"
    assert await learn(unpaired(path), TOLD) is not None
    assert acts == ["fsync file", "link", "fsync folder"]
    assert path.read_text() == TOLD + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_open_umask_opens_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await learn(unpaired(tmp_path / "asana.secret"), TOLD)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "asana.secret").stat().st_mode) == 0o600


async def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handshaking.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await learn(unpaired(tmp_path / "asana.secret"), TOLD)
    assert _names_in(tmp_path) == []


async def test_a_link_in_its_place_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = tmp_path / "asana.secret"
    for target in (elsewhere, tmp_path / "precious"):
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(target)
        with pytest.raises(SignatureRefused, match="holds one already"):
            await learn(unpaired(path), TOLD)
        assert path.is_symlink()
        assert not elsewhere.exists()
        assert (tmp_path / "precious").read_text() == "precious"
        path.unlink()


async def test_of_many_that_tell_one_at_the_same_time_one_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "asana.secret"
    told = [f"{number:04d}-a-secret-of-somebody" for number in range(20)]
    answers = await asyncio.gather(
        *(learn(unpaired(path), one) for one in told), return_exceptions=True
    )
    believed = [
        one for one, answer in zip(told, answers, strict=True) if isinstance(answer, Webhook)
    ]
    assert len(believed) == 1
    assert path.read_text() == believed[0] + "\n"
    assert sum(isinstance(answer, SignatureRefused) for answer in answers) == 19
    assert _names_in(tmp_path) == ["asana.secret"]


async def test_a_folder_that_is_gone_makes_the_sender_try_again(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    toml = LEARNING.format(path=folder / "asana.secret")
    async with serving(tmp_path, toml) as place:
        folder.rmdir()
        status, text, _ = await place.call("asana", b"{}", {"X-Hook-Secret": TOLD})
        assert (status, TOLD in text) == (503, False)
        folder.mkdir()
        assert (await place.call("asana", b"{}", {"X-Hook-Secret": TOLD}))[0] == 200


async def test_a_real_node_keeps_it_through_sigkill_and_shows_it_nowhere(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    path = tmp_path / "asana.secret"
    config = configure(tmp_path, database_url, vendors=LEARNING.format(path=path))
    async with Gateway(config) as gateway, aiohttp.ClientSession() as session:

        async def post(body: bytes, headers: dict[str, str]) -> int:
            url = f"{gateway.public}/webhooks/asana"
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        signed = sign(PRESETS["asana"], TOLD, body=EVENT, now=0, message_id="m")
        assert await post(EVENT, signed) == 401
        assert await post(b"{}", {"X-Hook-Secret": TOLD}) == 200
        await gateway.kill()  # at once: whoever was told 200 must be able to rely on it
        await gateway.start()
        assert await post(EVENT, signed) == 200
        assert await post(EVENT[:-1] + b" }", signed) == 401
        await _reloaded(gateway)
        assert await post(EVENT, signed) == 200, "the same again"

        shown = [json.dumps(gateway.log), await _all_pages(gateway.admin)]
        shown.append(await _output("config", "show", "--config", str(config)))
        shown.append(await _output("config", "check", "--config", str(config)))
        stored = await records.rows("SELECT headers::text, body FROM gateway.events")
        shown.append(str(stored))
        assert all(TOLD not in text for text in shown)
        assert f'"{path}"' in shown[2], "config show names the file"


def _names_in(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir()]


async def _reloaded(gateway: Gateway) -> None:
    mark = len(gateway.log)
    gateway.signal(signal.SIGHUP)
    await gateway.logged("config_reloaded", since=mark)


async def _all_pages(admin: str) -> str:
    pages = ("/metrics", "/", "/api/v1/vendors", "/api/v1/stats", "/api/v1/jobs")
    return "".join([(await get(admin + page))[1] for page in pages])


async def _output(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        env={**os.environ, "SHOP_SECRET": "whsec_" + "A" * 32},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()

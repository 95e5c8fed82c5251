"""How many webhooks come in: per time and at once, of one sender and of all together."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

from doorstep import Place, serving, vendor
from harness import eventually
from structlog.testing import capture_logs

from gateway.web.doors import Door
from gateway.web.sparing import LINES_AT_ONCE, LINES_PER_SECOND

EVENT = b'{"a":%d}'


class NoDoor:
    """Nobody may ask it for anything."""


async def _until_stored(place: Place, webhooks: int) -> None:
    async def reached() -> bool:
        return len(place.desk.stored) >= webhooks

    await eventually(reached)


async def test_requests_beyond_the_cap_get_503_and_those_under_way_are_answered(
    tmp_path: Path,
) -> None:
    toml = "[server]\nconcurrency = 3\n" + vendor("github", more="concurrency = 3")
    async with serving(tmp_path, toml) as place:
        place.desk.gate.clear()
        under_way = [asyncio.create_task(place.signed("github", EVENT % n)) for n in range(3)]
        await _until_stored(place, 3)
        for number in range(3, 6):
            status, text, headers = await place.signed("github", EVENT % number)
            assert (status, headers["Retry-After"]) == (503, "5")
            assert "too many requests at once" in text
        assert place.count("github", "overloaded") == 3
        assert not any(task.done() for task in under_way)
        place.desk.gate.set()
        assert [answer[0] for answer in await asyncio.gather(*under_way)] == [202, 202, 202]
        assert (await place.signed("github", EVENT % 9))[0] == 202
        assert len(place.desk.stored) == 4


async def test_one_sender_takes_no_more_than_half_of_the_room(tmp_path: Path) -> None:
    toml = "[server]\nconcurrency = 4\n" + vendor("github") + vendor("shopify")
    async with serving(tmp_path, toml) as place:
        place.desk.gate.clear()
        flood = [asyncio.create_task(place.signed("github", EVENT % n)) for n in range(10)]

        async def decided() -> bool:
            return len(place.desk.stored) + place.count("github", "overloaded") == len(flood)

        await eventually(decided)
        assert len(place.desk.stored) == 2
        others = [asyncio.create_task(place.signed("shopify", EVENT % n)) for n in range(2)]
        await _until_stored(place, 4)
        place.desk.gate.set()
        assert [answer[0] for answer in await asyncio.gather(*others)] == [202, 202]
        statuses = sorted([answer[0] for answer in await asyncio.gather(*flood)])
        assert statuses.count(202) == place.count("github", "accepted")
        assert statuses.count(503) == place.count("github", "overloaded")
        assert place.count("shopify", "overloaded") == 0


async def test_room_is_given_back_whatever_became_of_the_request(tmp_path: Path) -> None:
    toml = "[server]\nconcurrency = 1\n" + vendor(
        "github", more='concurrency = 1\nmax_body = "1KiB"'
    )
    async with serving(tmp_path, toml) as place:
        for _ in range(3):
            assert (await place.call("github", b"{}"))[0] == 401
            assert (await place.call("github", b"x" * 2000))[0] == 413
            assert (await place.signed("github", b"{}"))[0] == 202


async def test_the_rate_of_all_is_for_those_that_are_within_their_own(tmp_path: Path) -> None:
    toml = '[server]\nrate = "2/h"\nburst = 4\n' + vendor("github", more='rate = "1/h"')
    async with serving(tmp_path, toml + vendor("shopify") + vendor("slack")) as place:
        assert (await place.signed("github", EVENT % 1))[0] == 202
        for number in range(20):  # stopped by its own rate, and so none of the others' is used up
            status, _, headers = await place.signed("github", EVENT % number)
            assert (status, int(headers["Retry-After"]) > 1800) == (429, True)
        for name in ("shopify", "slack", "shopify"):
            assert (await place.signed(name, EVENT % 1))[0] == 202
        status, _, headers = await place.signed("slack", EVENT % 2)
        assert (status, 0 < int(headers["Retry-After"]) <= 1800) == (429, True)
        assert place.count("slack", "throttled") == 1


async def test_each_sender_is_answered_before_it_gives_up(tmp_path: Path) -> None:
    toml = vendor("github") + vendor("slack") + vendor("own", "github", 'answer_within = "300ms"')
    async with serving(tmp_path, toml) as place:
        for name, seconds in (("github", 8.0), ("slack", 2.4), ("own", 0.3)):
            assert (await place.signed(name, b'{"type":"x"}'))[0] == 202
            assert seconds - 0.2 < place.desk.patience[-1] <= seconds, name


async def test_a_sender_is_told_what_it_takes_for_a_success(tmp_path: Path) -> None:
    """Linear sends again whatever is not answered with 200."""
    told = "response = { status = 204 }"
    toml = vendor("github") + vendor("linear") + vendor("own", "linear", told) + vendor("xero")
    async with serving(tmp_path, toml) as place:
        for name, status in (("github", 202), ("linear", 200), ("own", 204), ("xero", 200)):
            body = b'{"webhookTimestamp":%d}' % (time.time() * 1000)
            assert (await place.signed(name, body))[0] == status, name
        assert len(place.desk.stored) == 4


async def test_headers_are_bounded_one_by_one_and_together(tmp_path: Path) -> None:
    async with serving(tmp_path, '[vendors.any.webhook]\nverify = "none"\n') as place:
        few = {f"X-{number}": "v" * 7000 for number in range(8)}
        assert (await place.call("any", b"{}", few))[0] == 202
        many = {f"X-{number}": "v" * 7000 for number in range(12)}
        assert (await place.call("any", b"{}", many))[0] == 431
        assert (await place.call("any", b"{}", {"X-Long": "v" * 9000}))[0] == 400
        assert (await place.call("any", b"{}", {f"X-{n}": "v" for n in range(120)}))[0] == 400
        assert len(place.desk.stored) == 1


async def test_refusals_beyond_a_rate_are_counted_and_not_logged(tmp_path: Path) -> None:
    toml = '[server]\ntrusted_proxies = ["127.0.0.1"]\n' + vendor("github")
    toml += vendor("asana") + vendor("shopify", more='allow_ips = ["192.0.2.1"]')
    async with serving(tmp_path, toml) as place:
        for name, status in (("github", 401), ("asana", 403), ("shopify", 403)):
            hook = {"X-Hook-Secret": "somebody's-secret-1"} if name == "asana" else {}
            with capture_logs() as lines:
                before = time.monotonic()
                for _ in range(200):
                    assert (await place.call(name, b"{}", hook))[0] == status
                seconds = time.monotonic() - before
            assert LINES_AT_ONCE <= len(lines) <= LINES_AT_ONCE + LINES_PER_SECOND * seconds + 1
            assert place.count(name, "unverified") == 200


async def test_refusals_that_are_a_flood_are_held_back_and_nobody_else(tmp_path: Path) -> None:
    """Neither another sender's, nor what the flooded sender itself sends in good order."""
    async with serving(tmp_path, vendor("github") + vendor("shopify")) as place:
        brake = place.intake.doors["github"].brake
        assert (await place.call("github", b"{}"))[0] == 401
        assert brake.held == 0
        over = asyncio.Event()

        async def flood() -> None:
            while not over.is_set():
                assert (await place.call("github", b"{}"))[0] == 401

        senders = [asyncio.create_task(flood()) for _ in range(40)]

        async def held() -> bool:
            return brake.held >= 20

        await eventually(held)
        for name in ("shopify", "github", "shopify"):
            assert (await place.signed(name, b"{}"))[0] == 202
        assert (await place.call("shopify", b"{}"))[0] == 401
        assert place.intake.doors["shopify"].brake.held == 0
        over.set()
        await asyncio.gather(*senders)
        assert brake.held == 0


async def test_a_webhook_meets_its_own_door_and_no_other(tmp_path: Path) -> None:
    """However many senders there are, and whatever their schemes would cost."""
    names = ["github", "stripe", "slack", "zoom", "xero", "asana", "mailgun", "jwt", "okta"]
    async with serving(tmp_path, "".join(vendor(name) for name in names)) as place:
        doors = place.intake.doors
        for name in names[1:]:
            doors[name] = cast(Door, NoDoor())
        assert (await place.signed("github", b"{}"))[0] == 202


def test_the_code_of_a_sender_that_nobody_configured_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(vendor("github"))
    program = f"""
import sys
from gateway.config import loader
from gateway.web.doors import open_doors
from pathlib import Path
config = loader.load(Path({str(tmp_path / "gateway.toml")!r}), environ={{"S": "secret"}})
open_doors({{"github": config.vendors["github"].webhook}})
print(*(name.rpartition(".")[2] for name in sys.modules if ".checks." in name))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) <= {"base", "jws", "jwt"}  # which the settings' checks need

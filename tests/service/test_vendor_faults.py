"""What vendors do on the wire, through the whole gateway: each fault is one attempt, well named."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

from certificates import Authority
from harness import Gateway, Records, Sender, Vendor, api, configure, refusing, route
from scripted import OK, Answer, Request, hangs, resets, says, scripted_vendor, then_ends

HEAD = b"HTTP/1.1 200 OK\r\n"
METADATA = "http://169.254.169.254/latest/meta-data"
SETTINGS = """
timeout = "700ms"
retry = { attempts = 2, base = "10ms", cap = "10ms" }
"""


async def drips(_request: Request, writer: asyncio.StreamWriter) -> None:
    """A slow loris: there is always one more byte, and never an end."""
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(0.01)


# name → what happens to the first call, and how the error of its attempt begins
ONCE: dict[str, tuple[Answer, str]] = {
    "drips": (drips, "timeout: no whole answer"),
    "hangs": (hangs, "timeout: no whole answer"),
    "resets": (resets, "reset: "),
    "silent": (then_ends(b""), "reset: "),
    "half_a_head": (then_ends(HEAD + b"Content-Le"), "reset: "),
    "half_a_body": (then_ends(HEAD + b"Content-Length: 100\r\n\r\nhalf"), "reset: "),
    "half_a_chunk": (then_ends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe"), "reset: "),
    "two_lengths": (says(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "protocol: "),
    "no_length": (says(HEAD + b"Content-Length: many\r\n\r\n"), "protocol: "),
    "no_http": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "protocol: "),
}


def first(fault: Answer) -> Answer:
    """Answer the first call as *fault* does, and every other one well."""
    calls: list[Request] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        calls.append(request)
        await (fault if len(calls) == 1 else says(OK))(request, writer)

    return answer


async def test_whatever_happens_on_the_wire_once_the_next_attempt_completes(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        scripted = {}
        for name, (fault, _) in ONCE.items():
            scripted[name] = await stack.enter_async_context(scripted_vendor())
            scripted[name].answer = first(fault)
        good = await stack.enter_async_context(Vendor())
        urls = {name: vendor.url for name, vendor in scripted.items()} | {"good": good.url}
        gateway, sender = await _serve(stack, tmp_path, database_url, urls)
        for name in (*ONCE, "good", "good"):
            assert (await sender.send(name)).status == 202
        await records.until_states({"completed": len(ONCE) + 2})
        for name, (_, error) in ONCE.items():
            (job,) = await records.jobs(name)
            history = await records.attempts(job["id"])
            assert [row["outcome"] for row in history] == ["retry", "completed"], name
            assert history[0]["error"].startswith(error), (name, history[0]["error"])
            requests = scripted[name].requests
            assert len(requests) == 2, name
            assert {request.header("Idempotency-Key") for request in requests} == {str(job["id"])}
        assert {job["attempt"] for job in await records.jobs("good")} == {1}
        assert not gateway.faults(), gateway.faults()[0]


async def test_who_cannot_be_reached_or_trusted_or_leads_to_metadata_gets_no_call(
    database_url: str, records: Records, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(Vendor())
        untrusted = await stack.enter_async_context(scripted_vendor(_stranger(tmp_path)))
        leading = await stack.enter_async_context(scripted_vendor())
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {METADATA}\r\nContent-Length: 0\r\n\r\n".encode()
        leading.answer = says(moved)
        # name → where it is, how its job's error begins, and how many attempts there are
        lasting: dict[str, tuple[str, str, int]] = {
            "refuses": (stack.enter_context(refusing()), "connect: ", 2),
            "nowhere": ("https://vendor.invalid", "dns: ", 2),
            "plain": (plain.url.replace("http:", "https:"), "tls: ", 2),
            "untrusted": (f"https://127.0.0.1:{untrusted.port}", "tls: ", 2),
            "metadata": (METADATA, "refused-address: ", 1),
            "leading": (leading.url, "refused-address: ", 1),
        }
        urls = {name: url for name, (url, _, _) in lasting.items()}
        gateway, sender = await _serve(stack, tmp_path, database_url, urls, more="redirects = 3")
        for name in lasting:
            assert (await sender.send(name)).status == 202
        await records.until_states({"dead": len(lasting)})
        for name, (_, error, attempts) in lasting.items():
            (job,) = await records.jobs(name)
            assert job["attempt"] == attempts, name
            assert job["last_error"].startswith(error), (name, job["last_error"])
        assert (plain.calls, untrusted.requests) == ([], [])
        assert len(leading.requests) == 1
        assert not gateway.faults(), gateway.faults()[0]


async def _serve(
    stack: AsyncExitStack, directory: Path, database_url: str, urls: dict[str, str], more: str = ""
) -> tuple[Gateway, Sender]:
    """Start a gateway with a vendor and a route for each of *urls*, and a sender to it."""
    vendors = "".join(
        api(name, url, SETTINGS + more) + route(name, f'call = "POST {name}:/orders"')
        for name, url in urls.items()
    )
    config = configure(directory, database_url, vendors=vendors)
    gateway = await stack.enter_async_context(Gateway(config))
    return gateway, await stack.enter_async_context(Sender(lambda: gateway.public))


def _stranger(directory: Path) -> ssl.SSLContext:
    """Return the TLS of a server whose authority nobody knows."""
    chain = directory / "stranger.pem"
    chain.write_text("".join(Authority("nobody").issue("vendor")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context

"""Fuzz the public listener of a real ``gateway serve``: ``make fuzz MINUTES=5``.

Two kinds of load at once. *Wire*: raw connections that break HTTP's framing: wrong lengths, bad
chunks, huge and odd heads, pipelines, half requests, resets. *Requests*: well-formed ones, made by
hypothesis, for every preset's path: odd JSON, forms and bytes, odd headers and queries, most of
them rightly signed, so that they get past the verifier. After each slice an ordinary webhook must
still get in. What counts as found: an answer of 500, a traceback in the log, a process that ended,
memory that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from harness import SECRET, Gateway, Sender
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import ASYMMETRIC
from gateway.webhooks.sign import sign, sign_body

WIRES = 24  # raw connections at once
EXAMPLES = 150  # of hypothesis in one slice
HEADS = 20  # huge heads in one slice whose answer is waited for
PATIENCE_SECONDS = 0.05  # for the answer to what may be half a request
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

# What an ordinary secret is not good for, and what is.
KEYS = {
    "adyen": "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
    "aws-sns": "arn:aws:sns:eu-central-1:123456789012:orders",
    "basic": "user:password",
    "discord": "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
    "paypal": "1JE4291016473214C",
    "plaid": "client:secret",
    "sendgrid": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP"
    "40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==",
}
SIGNABLE = [
    name
    for name, scheme in PRESETS.items()
    if scheme.algorithm not in ASYMMETRIC and name not in ("plaid", "ip")
]


def key_of(name: str) -> str:
    return KEYS.get(name, SECRET)


def configure(directory: Path, database_url: str) -> Path:
    """Write a configuration in which every preset has a path, and each a route that reads it."""
    parts = [
        (
            f'[gateway]\nstate_dir = "{directory / "state"}"\n[database]\nurl = "{database_url}"\n'
            '[server]\nlisten = "127.0.0.1:0"\nmax_body = "64KiB"\n'
            '[admin]\nlisten = "127.0.0.1:0"\n'
            '[vendors.stub.api]\nbase_url = "http://127.0.0.1:9"\nallow_private = true\n'
            '[vendors.shop.webhook]\nverify = "standard-webhooks"\nsecrets = ["env:SHOP_SECRET"]\n'
            '[vendors.any.webhook]\nverify = "none"\nevent_type = "body:type | header:X-Type"\n'
            'dedupe = "body:data.id | header:X-Id"\n'
            '[[vendors.any.webhook.handshakes]]\nmatch = { "body:hello" = "*" }\n'
            'headers = { "X-Echo" = "{body:hello}" }\nbody = "{body:hello}{query:a}"\n'
        )
    ]
    for name, scheme in PRESETS.items():
        parts.append(f'[vendors.{name}.webhook]\nverify = "{name}"\n')
        if scheme.needs_secret:
            key = directory / f"{name}.key"
            key.write_text(key_of(name))
            key.chmod(0o600)
            parts.append(f'secrets = ["file:{key}"]\n')
        if scheme.check == "ip":
            parts.append('allow_ips = ["127.0.0.1"]\n')
        if scheme.signs_url:
            parts.append(f'url = "https://hooks.example.com/webhooks/{name}"\n')
        if any(shake.learn for shake in scheme.handshakes):
            parts.append(f'learn_secret = "{directory / name}.learnt"\n')
        if any(shake.proof for shake in scheme.handshakes):
            parts.append("verify_token = 'env:SHOP_SECRET'\n")
    parts += [
        f'[[routes]]\nname = "{name}"\nfrom = "{name}"\ndelay = "1h"\n'
        "where = \"event.amount > 1 or event.data.list[0] == headers['x-a'] or query.a\"\n"
        'ordering_key = "{{ event.id }}"\ncall = "POST stub:/{{ event.id }}"\n'
        for name in ("any", "shop", *PRESETS)
    ]
    path = directory / "fuzz.toml"
    path.write_text("".join(parts))
    return path


class Fuzz:
    """One fuzzed gateway: counts of what was sent and answered, and what was found."""

    def __init__(self, gateway: Gateway, number: int) -> None:
        self.gateway = gateway
        self.random = random.Random(number)
        self.number = number
        self.sent: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        # Of those that were waited for: the same for the same seed, however slow the machine is.
        self.awaited: collections.Counter[int] = collections.Counter()
        self.found: list[str] = []
        self.rss_mib: list[float] = []
        address = urlsplit(gateway.public)
        self.address = (str(address.hostname), int(address.port or 0))

    async def slice(self, *, wires: int) -> None:
        """Send *wires* raw requests and EXAMPLES of hypothesis; then look whether all is well."""
        requests = asyncio.create_task(asyncio.to_thread(self._requests))
        left = iter(range(wires))
        async with asyncio.TaskGroup() as group:
            for _ in range(WIRES):
                group.create_task(self._wires(left))
        await requests
        await self._look()

    async def _look(self) -> None:
        gateway = self.gateway
        if not gateway.runs:
            self.found.append(f"the process ended: {gateway.tail()}")
            return
        async with Sender(lambda: gateway.public) as sender:
            status = (await sender.send("plain", message_id=f"fuzz-{time.monotonic_ns()}")).status
            if status != 202:
                self.found.append(f"an ordinary webhook got {status}")
        self.found += [json.dumps(line)[:2000] for line in gateway.faults()]
        gateway.log.clear()
        self.rss_mib.append(_rss_mib(gateway.pid))

    def note(self, answer: bytes, raw: bytes) -> None:
        for status in map(int, STATUS.findall(answer)):
            self.statuses[status] += 1
            if status >= 500 and status != 503:
                self.found.append(f"{status} for {raw[:600]!r}")

    # On the wire ---------------------------------------------------------------------------------

    async def _wires(self, left: object) -> None:
        for _ in left:  # type: ignore[attr-defined]
            kind = self.random.choice(KINDS)
            raw = kind(self.random)
            self.sent[kind.__name__] += 1
            with contextlib.suppress(OSError):
                await self._exchange(raw)

    async def _exchange(self, raw: bytes) -> None:
        loop, dice = asyncio.get_running_loop(), self.random
        with socket.socket() as wire:
            wire.setblocking(False)
            await loop.sock_connect(wire, self.address)
            cut = dice.randrange(len(raw) + 1)
            pieces = (raw,) if dice.random() < 0.7 else (raw[:cut], raw[cut:])
            for piece in pieces:
                async with asyncio.timeout(5):
                    await loop.sock_sendall(wire, piece)
            how = dice.random()
            if how < 0.15:  # a reset: what is unread is dropped
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            if how < 0.3:
                wire.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        data = await loop.sock_recv(wire, 65536)
                    if not data:
                        break
                    answer += data
            self.note(answer, raw)

    # Well-formed requests ------------------------------------------------------------------------

    def _requests(self) -> None:
        self.number += 1

        @seed(self.number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(requests)
        def send(raw: bytes) -> None:
            self.sent["request"] += 1
            if not self._ask(raw):
                self.found.append(f"no answer to {raw[:600]!r}")

        send()
        dice = random.Random(self.number)
        for _ in range(HEADS):
            self._ask(huge_head(dice).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    def _ask(self, raw: bytes) -> bytes:
        """Send a request that ends its connection; return all that is answered."""
        answer = b""
        with (
            socket.create_connection(self.address, timeout=20) as wire,
            contextlib.suppress(ConnectionError),  # refused before all of it was read
        ):
            wire.sendall(raw)
            while data := wire.recv(65536):
                answer += data
        self.note(answer, raw)
        self.awaited.update(map(int, STATUS.findall(answer)))
        return answer


def _rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


# HTTP that is broken -----------------------------------------------------------------------------

Dice = random.Random


def plain(dice: Dice) -> bytes:
    """Return an ordinary request, most often rightly signed."""
    name = dice.choice(SIGNABLE)
    body = json.dumps({"id": f"{dice.random()}", "type": "x", "amount": dice.randrange(5)}).encode()
    return encode(name, "POST", "", {}, body, signed=dice.random() < 0.8, close=False)


def flipped(dice: Dice) -> bytes:
    raw = bytearray(plain(dice))
    for _ in range(dice.randrange(1, 12)):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(raw)


def spliced(dice: Dice) -> bytes:
    raw = plain(dice)
    at, width = dice.randrange(len(raw)), dice.randrange(1, 40)
    put = dice.choice([b"", b"\0", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b":", b" ", raw[:width]])
    return raw[:at] + put * dice.choice([1, 1, 3, 500]) + raw[at + dice.randrange(width) :]


def cut_short(dice: Dice) -> bytes:
    raw = plain(dice)
    return raw[: dice.randrange(len(raw))]


def wrong_length(dice: Dice) -> bytes:
    length = dice.choice(
        ["-1", "0", "1", "99999", "9" * 30, "0x10", "1 2", "+3", "1,1", "", "\u0661", "1e3", " 7"]
    )
    raw = re.sub(rb"Content-Length: \d+", f"Content-Length: {length}".encode(), plain(dice))
    if dice.random() < 0.3:
        raw = raw.replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1)
    return raw


CODINGS = (b"chunked", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, chunked", b"xchunked")
SIZES = (b"%X", b"0%x", b"%x;a=b", b"%x ", b"-%x", b"%xg", b"fffffffff%x")
ENDS = (b"0\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n", b"0\r\n" + b"T: 1\r\n" * 200, b"")


def chunked(dice: Dice) -> bytes:
    head, _, body = plain(dice).partition(b"\r\n\r\n")
    head = re.sub(rb"\r\nContent-Length: \d+", b"", head)
    raw = head + b"\r\nTransfer-Encoding: " + dice.choice(CODINGS) + b"\r\n\r\n"
    while body:
        width = dice.randrange(1, 40)
        size = b"%x" if dice.random() < 0.9 else dice.choice(SIZES)
        raw += size % len(body[:width]) + b"\r\n" + body[:width]
        raw += b"\r\n" if dice.random() < 0.95 else b"\n"
        body = body[width:]
    return raw + dice.choice(ENDS)


def pipelined(dice: Dice) -> bytes:
    kinds = (plain, plain, flipped, chunked, cut_short)
    return b"".join(dice.choice(kinds)(dice) for _ in range(dice.randrange(2, 60)))


def huge_head(dice: Dice) -> bytes:
    field = dice.choice(
        [
            b"X-Long: " + b"v" * dice.choice([8000, 8190, 9000, 200_000]) + b"\r\n",
            b"".join(b"X-%d: v\r\n" % n for n in range(dice.choice([90, 110, 5000]))),
            b"X-" + b"n" * dice.choice([8000, 100_000]) + b": v\r\n",
            b"".join(b"X-%d: %b\r\n" % (n, b"v" * 7900) for n in range(dice.choice([8, 12, 60]))),
            b"Cookie: " + b"a=b; " * 1500 + b"\r\n",
        ]
    )
    return plain(dice).replace(b"\r\n", b"\r\n" + field, 1)


def odd_head(dice: Dice) -> bytes:
    field = dice.choice(
        [
            b"X-Null: a\0b",
            b" folded: yes",
            b"No colon",
            b": no name",
            b"Host: again",
            b"Upgrade: websocket\r\nConnection: Upgrade",
            b"Connection: keep-alive, close, x",
            b"Expect: 100-continue",
            b"Expect: something else",
            b"Content-Encoding: " + dice.choice([b"gzip", b"br", b"zstd", b"deflate", b"x\xff"]),
            b"Content-Type: "
            + dice.choice([b"\xff\xfe", b"a/b; charset=\0", b"multipart/form-data"]),
            b"X-Forwarded-For: " + b"1," * 500,
            b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
            b"X-Correlation-ID: " + bytes(dice.randrange(32, 256) for _ in range(20)),
        ]
    )
    return plain(dice).replace(b"\r\n", b"\r\n" + field + b"\r\n", 1)


def odd_line(dice: Dice) -> bytes:
    line = dice.choice(
        [
            b"GET http://[::1 HTTP/1.1",
            b"POST /webhooks/%s%%00 HTTP/1.1",
            b"POST /webhooks/\xff\xfe HTTP/1.1",
            b"POST //x/webhooks/shop HTTP/1.1",
            b"POST http://x/webhooks/shop?a=%ff HTTP/1.1",
            b"CONNECT x:1 HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"POST /webhooks/shop HTTP/1.0",
            b"POST /webhooks/shop HTTP/1.1 x",
            b"POST /webhooks/shop?" + b"a=b&" * 3000 + b" HTTP/1.1",
            b"po\x01st /webhooks/shop HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"POST /webhooks/shop#fragment HTTP/1.1",
            b"POST ?a=b HTTP/1.1",
            b"POST * HTTP/1.1",
            b"POST /webhooks/../admin HTTP/1.1",
        ]
    )
    return line + b"\r\n" + plain(dice).partition(b"\r\n")[2]


def noise(dice: Dice) -> bytes:
    return dice.randbytes(dice.choice([1, 10, 300, 20_000]))


KINDS = (
    plain, flipped, spliced, cut_short, wrong_length, chunked, pipelined, huge_head, odd_head,
    odd_line, noise,
)  # fmt: skip


# Requests that are whole -------------------------------------------------------------------------


def encode(
    name: str,
    method: str,
    query: str,
    headers: dict[str, str],
    body: bytes,
    *,
    signed: bool,
    close: bool = True,
) -> bytes:
    """Return a request to preset *name*'s path, with its sender's signature where *signed*."""
    fields = {"Host": "gateway", "Content-Type": "application/json"}
    if signed and name in SIGNABLE:
        scheme, now = PRESETS[name], time.time()
        with contextlib.suppress(ValueError):  # a body in which no signature has a place
            body = sign_body(scheme, key_of(name), body, now=now, message_id=f"m{now}")
            url = f"https://hooks.example.com/webhooks/{name}" + (f"?{query}" if query else "")
            fields |= sign(scheme, key_of(name), body=body, now=now, message_id=f"m{now}", url=url)
    fields |= headers
    fields["Content-Length"] = str(len(body))
    if close:
        fields["Connection"] = "close"
    head = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
    target = f"/webhooks/{name}" + (f"?{query}" if query else "")
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


_texts = st.one_of(st.text(max_size=30), st.sampled_from(["", "0", "nan", "a\0b", "\ud800", "*"]))
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)
    ),
    max_leaves=12,
)
# Names that somebody reads, so that what stands there is read.
_READ = """
id type event events data list amount challenge payload plainToken value clientState items
notificationItems NotificationRequestItem additionalData hmacSignature signature token timestamp
Type TopicArn SigningCertURL SubscribeURL Message verification_token hello webhookTimestamp object
event_id
"""
_names = st.sampled_from(_READ.split())
_objects = st.dictionaries(
    _names, st.one_of(_json, st.dictionaries(_names, _json, max_size=4)), max_size=6
)
_bodies = st.one_of(
    _objects.map(lambda value: json.dumps(value).encode()),
    st.lists(_objects, max_size=3).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_names, st.text(max_size=10), max_size=5).map(
        lambda form: urlencode(form, errors="replace").encode()
    ),
    st.binary(max_size=300),
    st.sampled_from([b"", b"[" * 3000, b'{"a":' * 3000, b'"', b"null", b"\xef\xbb\xbf{}"]),
)
_visible = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=60)
_read_headers = sorted(
    {
        name
        for scheme in PRESETS.values()
        for name in ((scheme.header,) if isinstance(scheme.header, str) else scheme.header)
    }
    | {"X-Hook-Secret", "X-Okta-Verification-Challenge", "Content-Type", "Content-Encoding",
       "X-Correlation-ID", "traceparent", "webhook-id", "webhook-timestamp", "X-Type", "X-Id",
       "paypal-cert-url", "paypal-transmission-id", "paypal-auth-algo", "X-A"}
)  # fmt: skip
_headers = st.dictionaries(st.sampled_from(_read_headers), _visible, max_size=3)
_queries = st.dictionaries(
    st.sampled_from(["challenge", "crc_token", "validationToken", "hub.mode", "bodySHA256", "a"]),
    st.text(max_size=20),
    max_size=3,
).map(lambda query: urlencode(query, errors="replace"))
requests = st.builds(
    encode,
    st.sampled_from(["any", *PRESETS]),
    st.sampled_from(["POST"] * 8 + ["GET", "PUT"]),
    st.one_of(st.just(""), _queries, st.binary(max_size=20).map(quote)),
    _headers,
    _bodies,
    signed=st.sampled_from([True, True, False]),
)


async def run(config: Path, minutes: float, number: int) -> Fuzz:
    """Fuzz for that long, or until something is found."""
    async with Gateway(config) as gateway:
        fuzz = Fuzz(gateway, number)
        deadline = time.monotonic() + minutes * 60
        while time.monotonic() < deadline and not fuzz.found:
            await fuzz.slice(wires=1000)
    return fuzz


def main(minutes: float, number: int) -> int:
    """Fuzz; print what was sent, answered and found."""
    with tempfile.TemporaryDirectory(prefix="gateway-fuzz-") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL runs as another user that must get through
        fuzz = asyncio.run(run(configure(Path(folder), "embedded"), minutes, number))
    quarter = len(fuzz.rss_mib) // 4 + 1
    early, late = fuzz.rss_mib[:quarter], fuzz.rss_mib[-quarter:]
    print(f"seed {number}: sent {fuzz.sent.total()}: {dict(fuzz.sent.most_common())}")
    print(f"answers: {dict(sorted(fuzz.statuses.items()))}")
    print(
        f"memory, MiB: {fuzz.rss_mib[0]:.1f} after the first slice, at most {max(early):.1f} in the"
        f" first quarter, at most {max(late):.1f} in the last; {len(fuzz.rss_mib)} slices"
    )
    for what in fuzz.found[:10]:
        print(f"FOUND {what}")
    return 1 if fuzz.found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given_arguments = parser.parse_args()
    sys.exit(main(given_arguments.minutes, given_arguments.seed))

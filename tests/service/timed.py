"""A vendor that knows when calls came, however late it gets to read them: the kernel stamps them.

On loopback a segment is stamped within the sender's own system call, so neither this process nor
its event loop has any part in the time; nor has how busy the machine is, once the call is written.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from typing import Any

from harness import BOUND_SECONDS

_SO_TIMESTAMPNS = 35  # Linux; the module socket does not name it
_TIMESPEC = struct.Struct("@qq")
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class TimedVendor:
    """Answers 200 from threads of its own; ``arrivals`` are monotonic, in seconds and in order."""

    def __init__(self) -> None:
        self._arrivals: list[float] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._since_epoch = _monotonic_zero()
        self._listener = socket.socket()

    def __enter__(self) -> "TimedVendor":
        # Accepted connections inherit it, so that no first segment goes without a stamp.
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def arrivals(self) -> list[float]:
        return sorted(self._arrivals)

    async def called(self, times: int, *, seconds: float = BOUND_SECONDS) -> None:
        """Wait until there were that many calls."""
        try:
            async with asyncio.timeout(seconds):
                while len(self._arrivals) < times:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self._arrivals)} calls of {times} in {seconds} s") from None

    def _start(self, act: Any, *args: Any) -> None:
        thread = threading.Thread(target=act, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while (arrived := self._read(connection)) is not None:
                self._arrivals.append(arrived)
                self._loop.call_soon_threadsafe(self._news.set)
                connection.sendall(_ANSWER)

    def _read(self, connection: socket.socket) -> float | None:
        """Read one request; return when its first segment came, or None at the end."""
        data = b""
        stamp: float | None = None
        while not _whole(data):
            piece, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(_TIMESPEC.size))
            if not piece:
                return None
            data += piece
            if stamp is None:
                stamp = self._stamp_of(control)
        return stamp

    def _stamp_of(self, control: list[tuple[int, int, bytes]]) -> float:
        for level, kind, value in control:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                return float(seconds - self._since_epoch + nanoseconds / 1e9)
        raise AssertionError("the kernel stamped no segment; these tests need Linux")


def _whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return True


def _monotonic_zero() -> float:
    """Return when the monotonic clock began, by the clock of the stamps.

    Taken once, so that it shifts all stamps alike; the narrowest of a few looks is the best.
    """
    looks = []
    for _ in range(20):
        before, real, after = time.monotonic(), time.time(), time.monotonic()
        looks.append((after - before, real - (before + after) / 2))
    return min(looks)[1]

"""A PostgreSQL of the peers' own: ``python -m benchmarks.postgres FOLDER``.

It is the gateway's embedded server, with the same settings (fsync and synchronous_commit on), so
that all PostgreSQL queues stand on the same ground. Its DSN is in ``FOLDER/dsn`` once it is up.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from gateway.store.embedded import EmbeddedPostgres


async def serve(folder: Path) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = EmbeddedPostgres(folder / "state")
    async with server as dsn:
        written = folder / "state" / "dsn.new"
        written.touch(mode=0o600)
        written.write_text(dsn)
        written.rename(folder / "dsn")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))

"""TLS settings of one vendor, as a context: a private CA, a client certificate.

The texts are PEM and stay in memory: OpenSSL reads certificates from files only, so it is given
one that has no name.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.config.model import Tls


def tls_context(tls: Tls, *, certificate: bool = True) -> ssl.SSLContext:
    """Return a client's context; without *certificate* it trusts alike but shows nothing.

    ValueError tells which of the texts is unfit, and repeats none of them.
    """
    try:
        context = ssl.create_default_context(cadata=tls.ca.value if tls.ca else None)
    except (ssl.SSLError, ValueError):
        raise ValueError("ca: no certificates in PEM can be read from it") from None
    if tls.certificate is None or not certificate:
        return context
    chain = tls.certificate.value + "\n" + (tls.key.value if tls.key else "")
    password = tls.password.value if tls.password else ""
    with _nameless_file(chain.encode()) as path:
        try:
            # Without a password of our own, OpenSSL would ask on the terminal.
            context.load_cert_chain(path, password=lambda: password)
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = getattr(error, "reason", None) or "unreadable"
            raise ValueError(
                f"certificate: it and its key cannot be used together ({reason}): both are PEM, "
                "and an encrypted key needs its password"
            ) from None
    return context


@contextmanager
def _nameless_file(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        with os.fdopen(os.memfd_create("chain"), "wb") as memory:
            memory.write(content)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:  # readable by us alone
        file.write(content)
        file.flush()
        yield file.name

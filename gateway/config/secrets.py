"""Resolves references to secrets: ``env:NAME``, ``file:/path``, ``credential:NAME``.

No message here ever holds a secret's value.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from gateway.config.model import Secret
from gateway.config.place import Bad, Place

REMEDY = 'write "env:NAME", "file:/path" or "credential:NAME"'
SCHEMA_PATTERN = "^(env|file|credential):."

_REFERENCE = re.compile(r"(env|file|credential):(.*)", re.DOTALL)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_SECRET_BYTES = 64 << 10


def is_reference(text: str) -> bool:
    """Tell whether *text* names a secret rather than being one."""
    return _REFERENCE.fullmatch(text) is not None


def resolve(reference: str, place: Place, *, public: bool = False) -> Secret | Bad:
    """Return the secret that *reference* names; report at *place* why there is none.

    A file that everybody may read is worth a warning, unless what it holds is *public*.
    """
    kind, _, name = reference.partition(":")
    match kind:
        case "env":
            value = _from_environment(name, place)
        case "credential":
            value = _from_credential(name, place)
        case _:
            value = _from_file(name, place, public=public)
    if isinstance(value, Bad):
        return value
    if not value.strip():
        return place.fault(f"the value of {reference} is empty", "an empty secret protects nothing")
    return Secret(reference, value)


def _from_environment(name: str, place: Place) -> str | Bad:
    if not _ENVIRONMENT_NAME.fullmatch(name):
        # What follows "env:" may be the secret itself, so it is not repeated.
        return place.fault('"env:" is not followed by a variable\'s name', 'write "env:NAME"')
    value = place.report.environ.get(name)
    if value is None:
        return place.fault(
            f"environment variable {name} is not set", f"set {name}, or refer to another place"
        )
    return value


def _from_credential(name: str, place: Place) -> str | Bad:
    if not _CREDENTIAL_NAME.fullmatch(name):
        problem = '"credential:" is not followed by a plain file name'
        return place.fault(problem, 'write "credential:NAME"')
    folder = place.report.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return place.fault(
            f"credential {name}: CREDENTIALS_DIRECTORY is not set",
            f"run under systemd with LoadCredential={name}:/path, or set it",
        )
    remedy = f"LoadCredential={name}:/path puts it there"
    return _read(Path(folder) / name, place, remedy=remedy, private=False)


def _from_file(name: str, place: Place, *, public: bool) -> str | Bad:
    if not name or "\0" in name:
        return place.fault('"file:" is not followed by a path', 'write "file:/path"')
    # A relative path belongs to the file's own folder, as in the demo; secrets of a real
    # installation have absolute paths, and nobody else should read those.
    private = Path(name).is_absolute() and not public
    remedy = "create it, or correct the path"
    return _read(place.report.folder / name, place, remedy=remedy, private=private)


def _read(path: Path, place: Place, *, remedy: str, private: bool) -> str | Bad:
    try:
        if not path.is_file():
            return place.fault(f"file {path} does not exist or is no plain file", remedy)
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        return place.fault(f"file {path} cannot be read: {error.strerror}", remedy)
    if len(content) > _MAX_SECRET_BYTES:
        return place.fault(f"file {path} has over {_MAX_SECRET_BYTES} bytes", "is it the secret?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return place.fault(f"file {path} is no UTF-8 text", "store the secret as text")
    if private and mode & stat.S_IROTH:
        place.warn(f"{path} is readable by every user of this machine; chmod o-r it")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")

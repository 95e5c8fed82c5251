"""The SQL of the hot paths, in files: ``-- name: claim`` begins the query ``jobs.claim``."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources


@lru_cache(maxsize=256)  # all there are, and some days
def query(name: str, partition: str | None = None) -> str:
    """Return the text of the query *name*, such as ``jobs.claim``; KeyError if there is none.

    One that updates jobs does it in that *partition* alone, if one is named.
    """
    file, _, label = name.partition(".")
    text = _file(file)[label]
    if partition is None:
        return text
    return text.replace("UPDATE gateway.jobs ", f"UPDATE gateway.{partition} ")


@cache
def names() -> list[str]:
    """Return the name of every query of every file."""
    files = [e.name[:-4] for e in resources.files(__name__).iterdir() if e.name.endswith(".sql")]
    return sorted(f"{file}.{label}" for file in files for label in _file(file))


@cache
def _file(file: str) -> dict[str, str]:
    text = (resources.files(__name__) / f"{file}.sql").read_text("utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))

"""The SQL of the hot paths, in files: ``-- name: claim`` begins the query ``jobs.claim``."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib import resources


@cache
def query(name: str) -> str:
    """Return the text of the query *name*, such as ``jobs.claim``; KeyError if there is none."""
    file, _, label = name.partition(".")
    return _file(file)[label]


@lru_cache(maxsize=64)
def query_of(name: str, partition: str) -> str:
    """Return the query *name*, which updates jobs, for those of that *partition* alone."""
    return query(name).replace("UPDATE gateway.jobs ", f"UPDATE gateway.{partition} ")


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

"""What was promised, and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

import msgspec


class Target(msgspec.Struct, frozen=True):
    """One promise: ``value`` against ``limit``, of which more is better unless ``at_most``.

    ``form`` is how both are printed.
    """

    name: str
    value: float
    limit: float
    form: str = ".2f"
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise holds in this run."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def bound(self) -> str:
        """The limit, and on which side of it one should be."""
        return f"{'≤' if self.at_most else '≥'} {self.limit:{self.form}}"


def print_targets(targets: Iterable[Target], *, file: TextIO) -> None:
    """Print each with its verdict."""
    for target in targets:
        verdict = "met" if target.met else "missed"
        file.write(f"{target.name}: {target.value:{target.form}} ({target.bound}) {verdict}\n")

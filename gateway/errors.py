"""What can go wrong, by who can do something about it. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass


class GatewayError(Exception):
    """Base of every error that the gateway raises on purpose; its text is fit to be shown."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the configuration: where it is, what is wrong, and what to write instead."""

    path: str
    line: int | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.path} (line {self.line})" if self.line else self.path
        return f"{place}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


class ConfigInvalid(GatewayError):
    """The configuration cannot be used; carries every fault, not only the first."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        self.source = source
        self.faults = faults
        super().__init__(f"{source}: " + "; ".join(str(fault) for fault in faults))


class ExpressionInvalid(GatewayError):
    """An expression or template of the configuration does not compile."""


class RenderFailed(GatewayError):
    """A template could not be rendered for this event: trying again gives the same result."""


class SignatureRefused(GatewayError):
    """A webhook is not shown to be its sender's; ``reason`` is for our log, not for a forger."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class DatabaseUnavailable(GatewayError):
    """PostgreSQL cannot be reached, or the fate of a transaction is unknown; try again later."""


class EmbeddedFailed(GatewayError):
    """The embedded PostgreSQL cannot run here; the text names the cause and the remedy."""


class NotMigrated(GatewayError):
    """The database lacks migrations that this version needs, or has ones it does not know."""


class NotFound(GatewayError):
    """The named job, event, vendor or route does not exist."""


class Refused(GatewayError):
    """The act is not allowed in the present state (e.g. cancelling a running job)."""


class TooWide(GatewayError):
    """A question about the records takes too long to answer; a narrower one does not."""

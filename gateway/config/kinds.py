"""The kinds of single values: texts, numbers, choices, secrets, templates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import secrets, values
from gateway.config.model import Secret
from gateway.config.place import BAD, Place, echo, nearest, type_text
from gateway.config.walker import Kind, Table
from gateway.errors import ExpressionInvalid
from gateway.expressions import (
    EVENT_NAMES,
    JOB_NAMES,
    RESPONSE_NAMES,
    Expression,
    Template,
    parse_call,
)


@dataclass(frozen=True)
class Text(Kind):
    """A string with a meaning. *parse* raises ValueError with what is wrong or how to write it."""

    label: str  # becomes the form
    parse: Callable[[str], Any]
    write: Callable[[Any], Any] = str
    expected: str = ""  # in faults; default: the label
    may_echo: bool = True  # False where a careless hand might have put a secret
    pattern: str = ""  # for the JSON Schema

    @property
    def form(self) -> str:
        """See Kind."""
        return self.label

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        expected = self.expected or f"a {self.label}"
        if not isinstance(raw, str):
            got = echo(raw) if self.may_echo else type_text(raw)
            return place.fault(f"expected {expected}, got {got}", "write a string, in quotes")
        try:
            return self.parse(raw)
        except ValueError as error:
            if self.may_echo:
                return place.unfit(expected, raw, str(error))
            return place.fault(f"expected {expected}", str(error))

    def spell(self, value: Any) -> Any:
        """See Kind."""
        return self.write(value)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": "string"} | ({"pattern": self.pattern} if self.pattern else {})


def duration(*, least: str = "1ms", most: str = "36500d") -> Text:
    """Return the kind of a duration between two others, read as seconds."""
    bounds = values.duration_seconds(least), values.duration_seconds(most)

    def parse(text: str) -> float:
        seconds = values.duration_seconds(text)
        if not bounds[0] <= seconds <= bounds[1]:
            raise ValueError(f'it must be from "{least}" to "{most}"')
        return seconds

    return Text(
        "duration",
        parse,
        values.duration_text,
        expected='"10s"',
        pattern="^[0-9]{1,15}(ms|s|m|h|d)$",
    )


def size(*, least: int = 1, most: int = 1 << 30) -> Text:
    """Return the kind of a number of bytes within bounds."""

    def parse(text: str) -> int:
        count = values.size_bytes(text)
        if not least <= count <= most:
            bounds = f'"{values.size_text(least)}" to "{values.size_text(most)}"'
            raise ValueError(f"it must be from {bounds}")
        return count

    return Text(
        "size",
        parse,
        values.size_text,
        expected='"64KiB"',
        pattern="^[0-9]{1,15}(B|KiB|MiB|GiB)$",
    )


def expression(*, names: frozenset[str] = EVENT_NAMES, example: str = "event.amount > 0") -> Text:
    """Return the kind of a condition over *names*; read as its text, which compiles."""

    def parse(text: str) -> str:
        try:
            Expression.compile(text, names=names)
        except ExpressionInvalid as error:
            raise ValueError(str(error)) from None
        return text

    return Text("expression", parse, expected=f'an expression such as "{example}"')


def response_expression() -> Text:
    """Return the kind of a condition over a vendor's answer."""
    return expression(names=RESPONSE_NAMES, example="response.ok == false")


def template(
    *, names: frozenset[str] = JOB_NAMES, check: Callable[[str], object] | None = None
) -> Text:
    """Return the kind of a string that may hold ``{{ … }}``; read as its text, which compiles."""

    def parse(text: str) -> str:
        if check is not None:
            check(text)
        try:
            Template.compile(text, names=names)
        except ExpressionInvalid as error:
            raise ValueError(str(error)) from None
        return text

    return Text("template", parse, expected='a template such as "{{ event.id }}"')


def intake_template() -> Text:
    """Return the kind of a template that is rendered before there is a job."""
    return template(names=EVENT_NAMES)


def call() -> Text:
    """Return the kind of a route's call; read as its text, whose path compiles."""

    def parse(text: str) -> str:
        try:
            parse_call(text)
        except ExpressionInvalid as error:
            raise ValueError(str(error)) from None
        return text

    return Text('"METHOD vendor:/path"', parse, expected='"POST crm:/deals"')


@dataclass(frozen=True)
class Number(Kind):
    """A whole number, or with *whole* off any number, within bounds."""

    least: float
    most: float
    whole: bool = True

    @property
    def form(self) -> str:
        """See Kind."""
        return f"{'whole ' if self.whole else ''}number, {self.least} to {self.most}"

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        if isinstance(raw, bool) or not isinstance(raw, int if self.whole else int | float):
            remedy = "write it without quotes" if isinstance(raw, str) else ""
            return place.unfit(f"a {self.form}", raw, remedy)
        if not self.least <= raw <= self.most:  # also refuses NaN
            return place.unfit(f"a {self.form}", raw)
        return raw if self.whole else float(raw)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        kind = "integer" if self.whole else "number"
        return {"type": kind, "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    @property
    def form(self) -> str:
        """See Kind."""
        return "true or false"

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        if isinstance(raw, bool):
            return raw
        return place.unfit(self.form, raw, "write it without quotes")

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]
    label: str = ""  # in place of the words, where there are many

    @property
    def form(self) -> str:
        """See Kind."""
        return self.label or " or ".join(f'"{word}"' for word in self.words)

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        if isinstance(raw, str) and raw in self.words:
            return raw
        remedy = nearest(raw, self.words, what="choices") if isinstance(raw, str) else ""
        return place.unfit(self.form, raw, remedy)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Folder(Kind):
    """A path, made absolute: relative ones start at the TOML file's folder."""

    @property
    def form(self) -> str:
        """See Kind."""
        return "path"

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        if not isinstance(raw, str) or not raw or "\0" in raw:
            return place.unfit("a path", raw)
        return (place.report.folder / raw).absolute()

    def spell(self, value: Path) -> str:
        """See Kind."""
        return str(value)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class SecretReference(Kind):
    """A secret, always by reference. What stands here is never repeated in a message."""

    one_line: bool = False  # it becomes a header's value
    public: bool = False  # as certificates are: everybody may read the file

    @property
    def form(self) -> str:
        """See Kind."""
        return "secret reference"

    def read(self, raw: object, place: Place) -> Any:
        """Return the Secret with its value."""
        if not isinstance(raw, str):
            return place.fault(f"expected a reference, got {type_text(raw)}", secrets.REMEDY)
        if not secrets.is_reference(raw):
            return place.fault("a secret must not be written into the file", secrets.REMEDY)
        secret = secrets.resolve(raw, place, public=self.public)
        if secret is not BAD and self.one_line:
            try:
                values.header_value(secret.value)
            except ValueError:
                return place.fault(
                    f"the value of {raw} holds a line break or control character",
                    "it is sent in a header: store it as one line",
                )
        return secret

    def spell(self, value: Secret) -> str:
        """See Kind."""
        return value.reference

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": "string", "pattern": secrets.SCHEMA_PATTERN}


@dataclass(frozen=True)
class UrlOrTable(Table):
    """A table, or for one that holds nothing else its ``url``."""

    @property
    def form(self) -> str:
        """See Kind."""
        return "URL or table"

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        return super().read({"url": raw} if isinstance(raw, str) else raw, place)

    def spell(self, value: Any) -> Any:
        """See Kind."""
        spelled = super().spell(value)
        return spelled["url"] if set(spelled) == {"url"} else spelled

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"anyOf": [{"type": "string"}, super().schema()]}


@dataclass(frozen=True)
class TableOrFalse(Table):
    """A table, or ``false`` for none at all; leaving it out means the table with its defaults."""

    absent: Any = False

    @property
    def form(self) -> str:
        """See Kind."""
        return "table or false"

    def read(self, raw: object, place: Place) -> Any:
        """See Kind."""
        if raw is False:
            return None
        if not isinstance(raw, dict):
            return place.unfit("a table or false", raw, "leave it out for its defaults")
        return super().read(raw, place)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"anyOf": [{"const": False}, super().schema()]}


@dataclass(frozen=True)
class DatabaseUrl(Kind):
    """``embedded``, a PostgreSQL URL, or a reference to one."""

    @property
    def form(self) -> str:
        """See Kind."""
        return '"embedded", "postgresql://…" or a secret reference'

    def read(self, raw: object, place: Place) -> Any:
        """Return a Secret; one that is written out has the reference ``config``."""
        if not isinstance(raw, str):
            return place.fault(f"expected {self.form}, got {type_text(raw)}")
        secret = Secret("config", raw)
        if secrets.is_reference(raw):
            resolved = secrets.resolve(raw, place)
            if resolved is BAD:
                return BAD
            secret = resolved
        try:
            values.database_url(secret.value)
        except ValueError as error:
            what = "this" if secret.reference == "config" else f"the value of {raw}"
            return place.fault(f"{what} is no PostgreSQL URL", str(error))
        if secret.reference == "config" and values.embedded_password(raw):
            place.warn(
                "the password is readable in the file; "
                'write "env:DATABASE_URL" or "credential:database-url" instead'
            )
        return secret

    def spell(self, value: Secret) -> str:
        """Return the reference, or the URL with its password masked."""
        if value.reference != "config":
            return value.reference
        return values.masked_url(value.value)

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": "string"}


@dataclass(frozen=True)
class Body(Kind):
    """A JSON body: any TOML value but dates, with templates in its strings."""

    @property
    def form(self) -> str:
        """See Kind."""
        return "string, table or list of templates"

    def read(self, raw: object, place: Place) -> Any:
        """Return the value as it stands; every template in it compiles."""
        match raw:
            case str():
                return template().read(raw, place)
            case dict():
                for name, item in raw.items():
                    if "{{" in name:
                        place.at(name).fault("a key cannot be a template", "write it out")
                    self.read(item, place.at(name))
            case list():
                for index, item in enumerate(raw):
                    self.read(item, place.at(index))
            case bool():
                pass
            case int() if raw.bit_length() <= 63:
                pass
            case float() if math.isfinite(raw):
                pass
            case _:
                return place.unfit("what JSON can hold", raw, "write it as a string, in quotes")
        return raw

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        return {"type": ["string", "object", "array", "number", "boolean"]}

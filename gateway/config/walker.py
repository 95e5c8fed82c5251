"""Walks decoded TOML by declarative specs: sections of keys, lists and maps of values.

A *kind* reads one raw value, reporting faults at its place and returning ``BAD`` for what cannot be
used; the others go on being read, so that all faults of the file are found in one pass. The same
kind spells a value back (``config show``) and describes itself (``config schema``, the docs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from gateway.config.place import BAD, Place, echo, nearest, type_text


class Kind(ABC):
    """How one sort of value is read, written and described."""

    absent: Any = None  # what TOML says for a None; None: the key is left out

    @property
    @abstractmethod
    def form(self) -> str:
        """What is to be written, in a few words: the docs' "value" column."""

    @abstractmethod
    def read(self, raw: object, place: Place) -> Any:
        """Return the value of *raw*, or BAD once its faults are reported."""

    def spell(self, value: Any) -> Any:
        """Return what TOML says for *value*; None if nothing need be said."""
        return value

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the raw value."""


class Default(Enum):
    """What an absent key means when it has no default value."""

    REQUIRED = "required"
    UNSET = "unset"  # nothing is passed on; ``Key.unset`` says what that means


REQUIRED = Default.REQUIRED
UNSET = Default.UNSET


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a section. *default* is written as in TOML; *field* names the struct's field."""

    name: str
    kind: Kind
    doc: str
    default: Any = UNSET
    unset: str = "none"  # what leaving it out means, for the docs
    field: str = ""

    @property
    def target(self) -> str:
        """The field of the struct that takes this key's value."""
        return self.field or self.name


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the file: its keys and the struct that they make."""

    doc: str
    make: Callable[..., Any]
    keys: tuple[Key, ...]
    one_of: bool = False  # exactly one key must be given
    take: Callable[[Any, Key], Any] = lambda struct, key: getattr(struct, key.target)  # undoes make

    @property
    def by_name(self) -> dict[str, Key]:
        """The keys by their names."""
        return {key.name: key for key in self.keys}


class Values(dict[str, Any]):
    """What was read of a section, by key name, lacking what is bad; ``given``: the keys written."""

    def __init__(self, section: Section, given: frozenset[str], place: Place) -> None:
        super().__init__()
        self.section = section
        self.given = given
        self.place = place


def build(value: Any, **extra: Any) -> Any:
    """Make the structs of what was read without fault; *extra* fields go to the outermost."""
    if isinstance(value, Values):
        by_name = value.section.by_name
        fields = {by_name[name].target: build(item) for name, item in value.items()}
        return value.section.make(**(fields | extra))
    if isinstance(value, tuple):
        return tuple(build(item) for item in value)
    return value


@dataclass(frozen=True)
class Table(Kind):
    """A section as a value."""

    section: Section

    @property
    def form(self) -> str:
        """See Kind."""
        return "table"

    def read(self, raw: object, place: Place) -> Any:
        """Return the Values of a table; whatever is bad within is left out of them."""
        if not isinstance(raw, dict):
            return place.fault(f"expected a table, got {type_text(raw)}", self._example())
        section = self.section
        by_name = section.by_name
        values = Values(section, frozenset(raw), place)
        for name in raw:
            if name not in by_name:
                place.at(name).fault("unknown key", nearest(name, by_name, what="known keys"))
        for key in section.keys:
            if key.name in raw:
                value = key.kind.read(raw[key.name], place.at(key.name))
            elif key.default is REQUIRED:
                value = place.at(key.name).fault("is missing", f"write {key.kind.form}: {key.doc}")
            elif key.default is UNSET:
                continue
            else:
                value = key.kind.read(key.default, place.at(key.name))
            if value is not BAD:
                values[key.name] = value
        if section.one_of:
            self._check_one_of(values.given & set(by_name), place)
        return values

    def _check_one_of(self, given: frozenset[str], place: Place) -> None:
        if len(given) != 1:
            what = "none" if not given else " and ".join(sorted(given))
            names = ", ".join(key.name for key in self.section.keys)
            place.fault(f"expected exactly one key, got {what}", f"choose one of {names}")

    def _example(self) -> str:
        return "its keys are " + ", ".join(key.name for key in self.section.keys)

    def spell(self, value: Any) -> dict[str, Any]:
        """Return the table with every default written out."""
        spelled = {}
        for key in self.section.keys:
            held = self.section.take(value, key)
            written = held is not None and held is not msgspec.UNSET
            text = key.kind.spell(held) if written else key.kind.absent
            if text is not None:
                spelled[key.name] = text
        return spelled

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        properties = {}
        for key in self.section.keys:
            described = {"description": key.doc} | key.kind.schema()
            if not isinstance(key.default, Default):
                described["default"] = key.default
            properties[key.name] = described
        schema: dict[str, Any] = {
            "type": "object",
            "description": self.section.doc,
            "properties": properties,
            "additionalProperties": False,
        }
        required = [key.name for key in self.section.keys if key.default is REQUIRED]
        if required:
            schema["required"] = required
        if self.section.one_of:
            schema |= {"minProperties": 1, "maxProperties": 1}
        return schema


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind of value, read as a tuple."""

    item: Kind
    or_single: bool = False  # a single value may stand for a list of one
    min_items: int = 0

    @property
    def form(self) -> str:
        """See Kind."""
        item = self.item.form
        several = f"list of {item}{'es' if item.endswith('s') else 's'}"
        return f"{self.item.form}, or a {several}" if self.or_single else several

    def read(self, raw: object, place: Place) -> Any:
        """Return a tuple of the good items; BAD if all are bad."""
        if not isinstance(raw, list):
            if self.or_single:
                value = self.item.read(raw, place)
                return value if value is BAD else (value,)
            return place.fault(f"expected a list, got {type_text(raw)}", f"write a {self.form}")
        if len(raw) < self.min_items:
            return place.fault("the list is empty", f"write a {self.form}, or leave the key out")
        items = [self.item.read(item, place.at(index)) for index, item in enumerate(raw)]
        good = tuple(item for item in items if item is not BAD)
        return good if good or not raw else BAD

    def spell(self, value: Any) -> Any:
        """See Kind."""
        spelled = [self.item.spell(item) for item in value]
        return spelled[0] if self.or_single and len(spelled) == 1 else spelled

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        item = self.item.schema()
        several: dict[str, Any] = {"type": "array", "items": item}
        if self.min_items:
            several["minItems"] = self.min_items
        return {"anyOf": [item, several]} if self.or_single else several


@dataclass(frozen=True)
class MapOf(Kind):
    """A table whose keys the user names; read as a dict that lacks the bad entries."""

    item: Kind
    name: Callable[[str], str]  # checks a key; ValueError says what is wrong with it
    what: str  # what the keys are, in the singular
    fold_case: bool = False  # names that differ only in case are the same
    name_pattern: str = ""

    @property
    def form(self) -> str:
        """See Kind."""
        return f"table of {self.what} = {self.item.form}"

    def read(self, raw: object, place: Place) -> Any:
        """Return a dict of the good entries."""
        if not isinstance(raw, dict):
            return place.fault(f"expected a table, got {type_text(raw)}", f"write a {self.form}")
        values: dict[str, Any] = {}
        seen: dict[str, str] = {}
        for name, item in raw.items():
            here = place.at(name)
            folded = name.lower() if self.fold_case else name
            try:
                self.name(name)
            except ValueError as error:
                here.fault(f"{echo(name)} is no {self.what}", str(error))
            if folded in seen:
                here.fault(f'the same {self.what} as "{seen[folded]}"', "write it once")
            seen[folded] = name
            value = self.item.read(item, here)
            if value is not BAD:
                values[name] = value
        return values

    def spell(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """See Kind."""
        return {name: self.item.spell(item) for name, item in value.items()}

    def schema(self) -> dict[str, Any]:
        """See Kind."""
        schema: dict[str, Any] = {"type": "object", "additionalProperties": self.item.schema()}
        if self.name_pattern:
            schema["propertyNames"] = {"pattern": self.name_pattern}
        return schema

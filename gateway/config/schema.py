"""The JSON Schema of the TOML file, for editors."""

from __future__ import annotations

from typing import Any

from gateway.config.specs.root import ROOT
from gateway.config.walker import Table


def json_schema() -> dict[str, Any]:
    """Return the schema, in the draft that TOML editors (taplo) understand."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "integration gateway",
    } | Table(ROOT).schema()

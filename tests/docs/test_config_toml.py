"""The shipped config.toml serves the demo with nothing set; the docs tell its every key."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config.loader import check
from gateway.config.model import Config
from gateway.config.reference import markdown
from gateway.config.schema import json_schema

ROOT = Path(__file__).parents[2]


def shipped() -> Config:
    config, faults, warnings = check(ROOT / "config.toml", environ={}, hostname="host-1")
    assert (faults, warnings) == ([], [])
    assert config is not None
    return config


def test_the_shipped_file_loads_with_nothing_set() -> None:
    config = shipped()
    assert config.database.embedded
    assert (config.server.listen.host, config.admin.listen.host) == ("127.0.0.1", "127.0.0.1")


def test_every_demo_vendor_has_a_use() -> None:
    config = shipped()
    sending = {name for name, vendor in config.vendors.items() if vendor.webhook}
    called = {name for name, vendor in config.vendors.items() if vendor.api}
    assert {route.source for route in config.routes} == sending
    assert {route.lane for route in config.routes} == called


def test_the_demo_ships_only_secrets_that_say_they_are_public() -> None:
    files = {path.name for path in (ROOT / "docs" / "demo").glob("*.secret")}
    used = set(re.findall(r'"file:docs/demo/([a-z]+\.secret)"', (ROOT / "config.toml").read_text()))
    assert files == used
    assert "public" in (ROOT / "docs" / "demo" / "README.md").read_text()


def test_the_configuration_page_has_the_tables_of_the_schema() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    tables = page.partition("<!-- keys: begin -->\n")[2].partition("<!-- keys: end -->")[0]
    assert tables == markdown(), "put in what `gateway config schema --markdown` prints"


def test_the_configuration_page_names_every_key_of_the_schema() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name in _key_names(json_schema()):
        assert f"`{name}`" in page or f".{name}" in page or f"[{name}" in page, name


def _key_names(schema: dict) -> set[str]:
    names = set(schema.get("properties", {}))
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema[word] for word in ("items", "additionalProperties") if schema.get(word)]
    for each in inner:
        if isinstance(each, dict):
            names |= _key_names(each)
    return names

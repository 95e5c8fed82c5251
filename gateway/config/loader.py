"""Reads the TOML file: the whole of it, or every fault in it."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.backoff import RetryPolicy
from gateway.config.checks import check_all
from gateway.config.lines import key_lines
from gateway.config.model import Api, Config, Route, ServerSection, Vendor, Webhook
from gateway.config.place import Place, Report
from gateway.config.retries import completed
from gateway.config.specs.root import ROOT
from gateway.config.walker import Table, Values, build
from gateway.errors import ConfigInvalid, Fault
from gateway.expressions import split_call
from gateway.webhooks.scheme import PATIENCE_SECONDS

_MAX_FILE_BYTES = 16 << 20
_TOML_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def load(
    path: Path, *, environ: Mapping[str, str] = os.environ, hostname: str | None = None
) -> Config:
    """Return the configuration of the file at *path*, secrets and all.

    Raises :class:`ConfigInvalid`, which carries every fault. *hostname* is the node's name if the
    file gives none; default: this machine's.
    """
    config, faults, _ = check(path, environ=environ, hostname=hostname)
    if config is None:
        raise ConfigInvalid(str(path), faults)
    return config


def check(
    path: Path, *, environ: Mapping[str, str] = os.environ, hostname: str | None = None
) -> tuple[Config | None, list[Fault], list[str]]:
    """Return the configuration (None if it has faults), all faults by line, and warnings."""
    report = Report(environ=environ, folder=path.absolute().parent)
    raw = _read(path, report)
    if raw is None:
        return None, report.faults, report.warnings
    root: Values = Table(ROOT).read(raw, Place(report))
    check_all(root)
    if report.faults:
        report.faults.sort(key=lambda fault: fault.line or 0)
        return None, report.faults, report.warnings
    return _config(root, path, hostname or socket.gethostname()), [], report.warnings


def _read(path: Path, report: Report) -> dict[str, Any] | None:
    """Return the decoded file and note its lines; None if it is no TOML."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "name another with --config or GATEWAY_CONFIG"
        report.faults.append(Fault("file", None, f"cannot be read: {reason}", remedy))
        return None
    if len(content) > _MAX_FILE_BYTES:
        problem = f"has over {_MAX_FILE_BYTES} bytes"
        report.faults.append(Fault("file", None, problem, "is it the configuration?"))
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.faults.append(Fault("TOML", line, "is not UTF-8", "save the file as UTF-8"))
        return None
    try:
        raw = tomllib.loads(text)
        report.lines = key_lines(text)
    except RecursionError:
        report.faults.append(Fault("TOML", None, "is nested too deeply", "nothing needs that"))
        return None
    except ValueError as error:
        report.faults.append(_syntax_fault(str(error), text))
        return None
    return raw


def _syntax_fault(message: str, text: str) -> Fault:
    position = _TOML_POSITION.search(message)
    if position is not None:
        problem = f"{message[: position.start()]} (column {position[2]})"
        return Fault("TOML", int(position[1]), problem, "texts stand in quotes, tables in [ ]")
    line = text.count("\n") + (not text.endswith("\n"))
    at_end = message.endswith("(at end of document)")
    return Fault("TOML", line if at_end else None, message, "")


def _config(root: Values, path: Path, hostname: str) -> Config:
    """Make the structs of what was read without fault, and fill in what depends on the rest."""
    gateway = build(root["gateway"])
    server: ServerSection = build(root["server"])
    server = msgspec.structs.replace(server, burst=_burst(server))
    vendors = {name: _vendor(name, values, server) for name, values in root["vendors"].items()}
    return Config(
        source=path.absolute(),
        gateway=msgspec.structs.replace(gateway, node=gateway.node or hostname),
        database=build(root["database"]),
        server=server,
        admin=build(root["admin"]),
        queue=build(root["queue"]),
        vendors=vendors,
        routes=tuple(_route(values, vendors) for values in root["routes"]),
    )


def _vendor(name: str, values: Values, server: ServerSection) -> Vendor:
    webhook = None
    if "webhook" in values:
        webhook = _webhook(build(values["webhook"], vendor=name))
        patience = webhook.verify.patience_seconds if webhook.verify else PATIENCE_SECONDS
        inherited = {
            "max_body": ("max_body_bytes", server.max_body_bytes),
            "concurrency": ("concurrency", max(1, server.concurrency // 2)),
            "answer_within": ("answer_within_seconds", patience * 4 / 5),
        }
        given = values["webhook"].given
        if webhook.verify and "status" not in values["webhook"]["response"].given:
            status = webhook.verify.accepted_status
            response = msgspec.structs.replace(webhook.response, status=status)
            webhook = msgspec.structs.replace(webhook, response=response)
        fields = {field: value for key, (field, value) in inherited.items() if key not in given}
        webhook = msgspec.structs.replace(webhook, **fields)
    api = _api(name, values["api"]) if "api" in values else None
    return Vendor(name=name, webhook=webhook, api=api)


def _api(name: str, values: Values) -> Api:
    api: Api = build(values, vendor=name)
    breaker = api.breaker
    if breaker is not None:
        # Neither one bad moment of all calls under way nor a slow timeout decides it.
        derived = {
            "failures": ("failures", max(10, 2 * api.concurrency)),
            "window": ("window_seconds", max(60.0, 3 * api.timeout_seconds)),
        }
        given = values["breaker"].given
        fields = {field: value for key, (field, value) in derived.items() if key not in given}
        breaker = msgspec.structs.replace(breaker, **fields)
    return msgspec.structs.replace(
        api, retry=completed(api.retry, values["retry"].given), breaker=breaker
    )


def _webhook(webhook: Webhook) -> Webhook:
    scheme = webhook.verify
    learnt = webhook.learn_secret.secret if webhook.learn_secret else None
    known = {secret.reference for secret in webhook.secrets}
    return msgspec.structs.replace(
        webhook,
        secrets=(*webhook.secrets, *([learnt] if learnt and learnt.reference not in known else [])),
        burst=_burst(webhook),
        event_type=webhook.event_type or (scheme.event_type if scheme else "") or "none",
        dedupe=webhook.dedupe or (scheme.dedupe if scheme else "hash"),
    )


def _burst(section: Webhook | ServerSection) -> int:
    return section.burst or (section.rate.count if section.rate else 0)


def _route(values: Values, vendors: Mapping[str, Vendor]) -> Route:
    lane = split_call(values["call"]).vendor if "call" in values else values.get("lane", "local")
    fields: dict[str, Any] = {"lane": lane}
    if "retry" in values:
        vendor = vendors.get(lane)
        policy = vendor.api.retry if vendor and vendor.api else RetryPolicy()
        policy = msgspec.structs.replace(policy, **build(values["retry"]))
        fields["retry"] = completed(policy, values["retry"].given)
    if "*" in values["events"]:
        fields["events"] = ()
    route: Route = build(values, **fields)
    return route

"""The shipped unit: systemd itself finds nothing to say, and the directives that matter hold."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "gateway.service"
TEMPLATE = SYSTEMD / "gateway@.service"
SOCKETS = ("gateway-public.socket", "gateway-admin@.socket")
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")

HARDENING = {
    "CapabilityBoundingSet": [""],
    "AmbientCapabilities": [""],
    "DynamicUser": ["yes"],
    "LimitCORE": ["0"],
    "LockPersonality": ["yes"],
    "MemoryDenyWriteExecute": ["yes"],
    "NoNewPrivileges": ["yes"],
    "PrivateDevices": ["yes"],
    "PrivateTmp": ["yes"],
    "PrivateUsers": ["yes"],
    "ProtectControlGroups": ["yes"],
    "ProtectHome": ["yes"],
    "ProtectKernelModules": ["yes"],
    "ProtectKernelTunables": ["yes"],
    "ProtectSystem": ["strict"],
    "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6"],
    "RestrictNamespaces": ["yes"],
    "RestrictSUIDSGID": ["yes"],
    "SystemCallArchitectures": ["native"],
    "UMask": ["0077"],
}


def directives(section: str, unit: Path = UNIT) -> dict[str, list[str]]:
    """Parse one section; a key may come several times."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[unit]


def test_the_unit_reports_readiness_and_feeds_a_watchdog() -> None:
    service = directives("Service")
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert seconds(service["WatchdogSec"][0]) >= 10
    assert "PYTHONFAULTHANDLER=1" in service["Environment"][0].split()


def test_the_unit_starts_the_installed_command() -> None:
    (command,) = directives("Service")["ExecStart"]
    assert command == "/opt/gateway/.venv/bin/gateway serve --config /etc/gateway/config.toml"


def test_a_stop_leaves_time_for_the_drain_and_signals_the_gateway_alone() -> None:
    from gateway.config.model import GatewaySection

    service = directives("Service")
    assert service["KillMode"] == ["mixed"]
    assert seconds(service["TimeoutStopSec"][0]) >= 2 * GatewaySection().drain_seconds


def test_a_bad_configuration_is_not_tried_again_and_everything_else_is() -> None:
    service = directives("Service")
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["78"]
    assert directives("Unit")["StartLimitIntervalSec"] == ["0"]


def test_state_is_private() -> None:
    service = directives("Service")
    assert service["StateDirectory"] == ["gateway"]
    assert service["StateDirectoryMode"] == ["0700"]


def test_no_secret_is_loaded_by_default() -> None:
    assert not [key for key in directives("Service") if key.startswith("LoadCredential")]
    assert "#LoadCredential=" in UNIT.read_text()


def test_the_sandbox_holds_every_directive() -> None:
    service = directives("Service")
    assert {key: service.get(key) for key in HARDENING} == HARDENING
    assert service["SystemCallFilter"][0] == "@system-service"
    assert int(service["LimitNOFILE"][0]) >= 16384


def test_nothing_is_used_that_debian_12_would_ignore() -> None:
    text = UNIT.read_text()
    assert "notify-reload" not in text
    assert "ImportCredential" not in text


def test_several_processes_differ_from_one_in_their_sockets_alone() -> None:
    """What holds for gateway.service above holds for gateway@.service."""
    one, several = directives("Service"), directives("Service", TEMPLATE)
    assert several.pop("Sockets") == ["gateway-public.socket gateway-admin@%i.socket"]
    assert several == one
    for name in SOCKETS:
        section = directives("Socket", SYSTEMD / name)
        assert section["FileDescriptorName"][0] == name.removeprefix("gateway-")[:6].rstrip("@.")
    assert directives("Socket", SYSTEMD / SOCKETS[1])["ListenStream"] == ["127.0.0.1:900%i"]


@needs_systemd
@pytest.mark.parametrize("name", ["gateway.service", "gateway@1.service"])
def test_systemd_verify_is_silent(tmp_path: Path, name: str) -> None:
    """In a root of its own, where the command exists: verify exits 0 even when it complains."""
    binary = tmp_path / "opt/gateway/.venv/bin/gateway"
    units = tmp_path / "etc/systemd/system"
    binary.parent.mkdir(parents=True)
    units.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    for unit in (UNIT, TEMPLATE, *(SYSTEMD / socket for socket in SOCKETS)):
        text = unit.read_text().replace("/opt/gateway/.venv/bin/gateway", str(binary))
        (units / unit.name).write_text(text)
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(units / name)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda unit: unit.name)
def test_systemd_rates_the_exposure_under_one_and_a_half(unit: Path) -> None:
    done = subprocess.run(
        [ANALYZE, "security", "--offline=yes", "--threshold=15", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr

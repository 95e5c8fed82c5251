"""The directions of the imports, as ``pyproject.toml`` draws them."""

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_imports_go_only_downwards() -> None:
    linter = Path(sysconfig.get_path("scripts"), "lint-imports")
    ran = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr

"""What a wheel of the package carries, and that it works from there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from setups import finish, python


def test_the_wheel_carries_the_configurations_and_the_behaviours(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    built_here = all(importlib.util.find_spec(name) for name in ("hatchling", "hatch_fancy_pypi_readme"))
    isolation = ["--no-build-isolation"] if built_here else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", str(tmp_path), str(root)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("building needs hatchling, and there is no package index")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("iwbc-*.whl")
    assert wheel.stat().st_size < 10_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        archive.extractall(tmp_path / "installed")
    configurations = {path.relative_to(root / "conf").as_posix() for path in (root / "conf").rglob("*.yaml")}
    assert {f"iwbc/conf/{name}" for name in configurations} <= names
    environments = ("hopper", "halfcheetah", "walker2d")
    assert {f"iwbc/data/behaviours/{env}.safetensors" for env in environments} | {"iwbc/data/published.json"} <= names
    assert not {name for name in names if name.startswith(("tests", "benchmarks", "conf"))}
    assert {
        "iwbc/py.typed",
        "iwbc/runs/templates/run.html",
        "iwbc/runs/templates/model_card.md",
        "iwbc/report/page.html",
    } <= names
    assert "iwbc = iwbc.cli:main" in (tmp_path / "installed" / next(n for n in names if "entry_points" in n)).read_text()
    # PyPI shows the README alone: nothing in it points into the repository.
    readme = metadata.split("\n\n", 1)[1]
    assert "# iwbc" in readme
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", readme) == []
    # From the wheel, not the checkout.
    outcome = finish(python("-m", "iwbc.train", "--cfg", "job", cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed")))
    assert outcome.code == 0, outcome.err
    assert "iw_bc" in outcome.out
    where = finish(python("-c", "import iwbc.train as t; print(t.config_folder())", cwd=tmp_path, PYTHONPATH="installed"))
    assert Path(where.out.strip()).resolve() == (tmp_path / "installed" / "iwbc" / "conf").resolve()

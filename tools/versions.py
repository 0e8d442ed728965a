"""Do the oldest and the newest versions that pyproject.toml allows work? An environment for each, and a choice of the tests.

    python -m tools.versions oldest                         # of this Python: every direct dependency at its lower bound
    python -m tools.versions newest python3.12 python3.13   # whatever is newest: constraints.txt is not read
    python -m tools.versions oldest --folder FOLDER         # where the environments lie: build/versions otherwise

Needs uv (pip install uv). On Linux, PyPI's PyTorch brings several gigabytes of CUDA, once for each of its versions; with
UV_TORCH_BACKEND=cpu uv takes PyTorch's own builds for processors instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What meets the libraries: tensors and policies, arrays, Minari's files, Gymnasium's environments, and a whole run.
TESTS = ("objectives", "sampling", "curation", "policies", "environments", "data_minari", "from_data_to_policy")
SHOWN = "torch", "gymnasium", "minari", "numpy", "mujoco"


def environment(which: str, python: str, folder: Path) -> Path:
    """A virtual environment with this package's dependencies, and its interpreter. Raises CalledProcessError where
    no versions fit together."""
    venv = folder / f"{which}-{Path(python).name}"
    interpreter = venv / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, venv], check=True)
    resolution = "lowest-direct" if which == "oldest" else "highest"
    # NumPy's lower bound has no built file for Python 3.13: there, the oldest that has one.
    install = [*uv, "pip", "install", "--quiet", "--only-binary", "numpy", "--python", interpreter]
    subprocess.run([*install, "--resolution", resolution, "--requirements", ROOT / "pyproject.toml"], check=True)
    subprocess.run([*install, "pytest", "hypothesis"], check=True)
    subprocess.run([*install, "--no-deps", "--editable", ROOT], check=True)
    return interpreter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["oldest", "newest"])
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "versions")
    asked = parser.parse_args()
    failed = False
    for python in asked.pythons:
        print(f"--- {asked.which}, {python}", flush=True)
        try:
            check(environment(asked.which, python, asked.folder))
        except subprocess.CalledProcessError as error:
            print(f"failed: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def check(interpreter: Path) -> None:
    """Print the versions, and run the tests. Raises CalledProcessError where one fails."""
    show = f"import importlib.metadata as m; print(*(f'{{n}} {{m.version(n)}}' for n in {SHOWN}), sep=', ')"
    subprocess.run([interpreter, "-c", show], check=True)
    tests = [ROOT / "tests" / f"test_{name}.py" for name in TESTS]
    pytest = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    subprocess.run(pytest, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


if __name__ == "__main__":
    sys.exit(main())

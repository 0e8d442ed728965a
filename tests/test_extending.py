"""docs/extending.md, step by step: an algorithm added to a copy of the package, and custom policies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from setups import BRIEF, Outcome, column, finish, python, read_csv

import iwbc
from iwbc.data.trajectories import Trajectories
from iwbc.system.files import config_folder

GUIDE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()

# Behaviour cloning of the likelier half of each minibatch: robust to outliers.
ALGORITHM = '''
"""Trimmed behaviour cloning: each gradient step drops the least likely steps of its minibatch."""

from __future__ import annotations

from torch import Tensor

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.data.sampling import Minibatch
from iwbc.settings import TrimmedBC


class TrimmedBehaviourCloning:
    """State: the policy and its optimiser."""

    def __init__(self, settings: TrimmedBC, given: Ingredients) -> None:
        self.settings, self.policy = settings, given.policy
        self.optimizer = engine.policy_optimizer(given.policy)
        self.by_autograd = self.optimizer.by_autograd

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        likely = engine.log_prob(self.policy, batch.observations, batch.actions)
        self.kept = (likely >= likely.quantile(self.settings.trimmed)).float()
        log_prob = self.optimizer.step(batch.observations, batch.actions, self.kept, learning_rate)
        return -(self.kept * log_prob).mean()

    def metrics(self) -> dict[str, Tensor]:
        return {"kept_share": self.kept.mean()}

    def state(self) -> dict[str, Tensor]:
        return self.optimizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
'''
SETTINGS = '''
@dataclass
class TrimmedBC(Recipe):
    """Behaviour cloning without the least likely steps."""

    label: ClassVar[str] = "trimmed BC"

    trimmed: float = share(0.5)
    name: str = "trimmed_bc"


'''
CONF = """# @package _global_
defaults:
  - /settings/algo@algo: trimmed_bc
  - override /curation: top_fraction
"""
FROM_PYTHON = """
import iwbc
from iwbc.settings import TrimmedBC

data = iwbc.generate("Hopper-v5", steps=20_000)
reference = iwbc.fit(iwbc.BC(steps=20), data, policy=iwbc.GaussianPolicy(hidden=[16]))
print(iwbc.fit(TrimmedBC(steps=20, trimmed=0.25), data, reference=reference))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one algorithm more, added as the guide says."""
    folder = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__", "conf")
    shutil.copytree(Path(iwbc.__file__).parent, folder / "iwbc", ignore=ignored)
    shutil.copytree(config_folder(), folder / "conf")

    def edit(name: str, before: str, after: str) -> None:
        text = (folder / name).read_text()
        assert text.count(before) == 1, (name, before)
        (folder / name).write_text(text.replace(before, after))

    # 1. A class in a file of iwbc/algorithms/.
    (folder / "iwbc" / "algorithms" / "trimmed_bc.py").write_text(ALGORITHM)
    # 2. Its settings, and a place in ALGORITHMS.
    edit(
        "iwbc/settings.py",
        "\n@dataclass\nclass Reference(Recipe):",
        f"{SETTINGS.rstrip()}\n\n\n@dataclass\nclass Reference(Recipe):",
    )
    edit("iwbc/settings.py", "IWBC, AWR)}", "IWBC, AWR, TrimmedBC)}")
    # 3. A line in CLASSES.
    edit("iwbc/algorithms/__init__.py", "    AWR: Adv", "    TrimmedBC: TrimmedBehaviourCloning,\n    AWR: Adv")
    edit("iwbc/algorithms/__init__.py", "FilteredBC, Recipe, Reference", "FilteredBC, Recipe, Reference, TrimmedBC")
    edit(
        "iwbc/algorithms/__init__.py",
        "from iwbc.settings import",
        "from iwbc.algorithms.trimmed_bc import TrimmedBehaviourCloning\nfrom iwbc.settings import",
    )
    # 4. A file in conf/algo/.
    (folder / "conf" / "algo" / "trimmed_bc.yaml").write_text(CONF)
    return folder


def test_every_file_that_the_guide_names_is_there() -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"`((?:iwbc|conf|tests|examples|docs)/[\w/.-]*)`", GUIDE)
    assert len(named) > 5
    assert [name for name in named if not (root / name).exists()] == []


@pytest.mark.robustness
def test_an_algorithm_added_as_the_guide_says(extended: Path, hopper: Trajectories, tmp_path: Path) -> None:
    def command(*arguments: str) -> Outcome:
        return finish(python(*arguments, cwd=tmp_path, PYTHONPATH=str(extended)))

    where = command("-c", "import iwbc; print(iwbc.__file__)")
    assert where.out.strip() == str(extended / "iwbc" / "__init__.py")
    outcome = command("-m", "iwbc.train", *BRIEF, "algo=trimmed_bc", "algo.trimmed=0.25", "algo.lr=1e-2", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "trimmed BC 10 %" in outcome.out
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    assert column(rows, "kept_share")[-1] == 0.75
    assert column(rows, "loss")[-1] < column(rows, "loss")[0]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["method"] == "trimmed BC 10 %"
    again = command("-m", "iwbc.evaluate", "run=run")
    assert (again.code, again.err) == (0, "")
    refused = command("-m", "iwbc.train", *BRIEF, "algo=trimmed_bc", "algo.trimmed=2", "hydra.run.dir=other")
    assert (refused.code, refused.err) == (2, "algo.trimmed=2.0: must lie in [0, 1]\n")
    assert "trimmed_bc" in command("-m", "iwbc.train", "algo=none").err


def test_from_python_three_steps_suffice(extended: Path, hopper: Trajectories, tmp_path: Path) -> None:
    (tmp_path / "try.py").write_text(FROM_PYTHON)
    outcome = finish(python("try.py", cwd=tmp_path, PYTHONPATH=str(extended)))
    assert outcome.code == 0, outcome.err
    assert outcome.out == "Policies(GaussianMLP, seeds 0)\n"

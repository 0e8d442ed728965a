from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pendulum import QUICK, make_pendulum
from setups import train

from iwbc.data import generate, minari_source
from iwbc.data.trajectories import Trajectories
from iwbc.system import processes

ROBUSTNESS = Path(__file__).parent / "robustness"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the files, and the tests of each, in random order")
    parser.addoption("--long", type=int, default=1, metavar="N", help="N times the fuzzing and the soak, and tests marked long")


def pytest_configure() -> None:
    # Before any test module is imported, as the library for the Hub reads it once.
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if ROBUSTNESS in item.path.parents:
            item.add_marker("robustness")
    if config.getoption("--long") == 1:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    if (seed := config.getoption("--shuffle")) is not None:
        draw = random.Random(seed)  # every worker of pytest-xdist draws the same order
        places = {path: draw.random() for path in dict.fromkeys(item.path for item in items)}
        items.sort(key=lambda item: (places[item.path], draw.random()))


def pytest_collection_finish() -> None:
    # What is imported stays: the garbage collector, which looked at it again and again, took a tenth of the tests' time.
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_threads() -> None:
    """Under pytest-xdist the workers are what keeps the cores busy: threads of theirs would wait for each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        processes.set_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Ctrl-C is heard, by the processes that tests start, too: a shell starts what runs in the background deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Datasets and caches of the tests go to temporary folders.

    The datasets are shared by all of pytest-xdist's workers, so that each is generated once.
    """
    folder = tmp_path_factory.getbasetemp()
    datasets = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "datasets"
    datasets.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(datasets))
        patch.setenv("IWBC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def hopper(own_folders: None) -> Trajectories:
    """A small generated dataset: what `env=hopper dataset.steps=20000` loads."""
    return minari_source.load(generate.ensure("Hopper-v5", "medium-replay", 20_000))


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """An empty folder of Minari datasets, for one test."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


@pytest.fixture(scope="session")
def mostly_short_hopper(own_folders: None) -> Trajectories:
    """Many short and bad trajectories, over whose steps products do not reach their bounds, beside some better ones."""
    names = [generate.ensure("Hopper-v5", "random", 8_000), generate.ensure("Hopper-v5", "medium-replay", 20_000)]
    return minari_source.load("+".join(names))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that takes a second."""
    make_pendulum()
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(*QUICK, f"hydra.run.dir={folder}").code == 0
    return folder

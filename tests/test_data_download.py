"""Minari's and Hugging Face's own download code, against a stand-in of the hub on this machine."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import everything, seven_steps
from hub import Hub, running_hub
from setups import rarely

from iwbc.data import minari_download
from iwbc.data.arrays import from_arrays
from iwbc.data.minari_source import load
from iwbc.errors import UserError

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path) as hub:
        yield hub


def publish(hub: Hub, datasets: Path, dataset_id: str, **changes: Any) -> str:
    """A dataset that is on the hub and no longer here; its content hash."""
    content_hash = from_arrays(**seven_steps(**changes), id=dataset_id).content_hash
    hub.publish(datasets, dataset_id)
    for path in datasets.iterdir():
        shutil.rmtree(path)
    return content_hash


def test_a_dataset_is_downloaded_once(hub: Hub, datasets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content_hash = publish(hub, datasets, "mujoco/hopper/medium-v0")
    publish(hub, datasets, "mujoco/hopper/expert-v0", rewards=[1.0] * 7)
    assert load("mujoco/hopper/medium-v0").content_hash == content_hash
    printed = capfd.readouterr()
    assert "100%" in printed.err  # a progress bar
    assert printed.out == ""
    assert [name for name in everything(datasets) if "/." in f"/{name}"] == []
    assert not (datasets / "mujoco/hopper/expert-v0").exists()
    assert (datasets / "mujoco/hopper/namespace_metadata.json").exists()

    sent = len(hub.sent)
    assert load("mujoco/hopper/medium-v0").content_hash == content_hash
    assert len(hub.sent) == sent


def test_two_loads_at_once_download_once(hub: Hub, datasets: Path) -> None:
    publish(hub, datasets, "mujoco/hopper/medium-v0")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, ["mujoco/hopper/medium-v0"] * 2)
    assert first.content_hash == second.content_hash
    assert hub.sent.count("hopper/medium-v0/data/main_data.hdf5") == 1


@pytest.mark.parametrize(
    "dataset_id", ["mujoco/hopper/medium-v7", rarely("mujoco/hoppper/medium-v0"), rarely("nobody/task-v0")]
)
def test_an_unknown_id_is_named(dataset_id: str, hub: Hub, datasets: Path) -> None:
    publish(hub, datasets, "mujoco/hopper/medium-v0")
    message = f"^dataset {dataset_id}: could not be downloaded from hf://farama-minari .*(doesn't exist|Couldn't find)"
    with pytest.raises(UserError, match=message) as caught:
        load(dataset_id)
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


@pytest.mark.robustness
def test_a_broken_download_leaves_nothing(hub: Hub, datasets: Path) -> None:
    content_hash = publish(hub, datasets, "mujoco/hopper/medium-v0")
    hub.broken.add("hopper/medium-v0/data/main_data.hdf5")
    with pytest.raises(UserError, match=r"^dataset mujoco/hopper/medium-v0: could not be downloaded") as caught:
        load("mujoco/hopper/medium-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []
    hub.broken.clear()
    assert load("mujoco/hopper/medium-v0").content_hash == content_hash


# --- offline ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_offline_names_the_generated_tier_and_the_command(closed: None, datasets: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("mujoco/hopper/medium-v0")
    assert str(caught.value).startswith(
        "dataset mujoco/hopper/medium-v0: is not on this machine, and hf://farama-minari cannot"
    )
    assert "refused" in str(caught.value)
    assert "(env=hopper dataset=medium)" in str(caught.value)
    assert str(caught.value).endswith("minari download mujoco/hopper/medium-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


def test_offline_without_an_equivalent_tier(closed: None, datasets: Path) -> None:
    with pytest.raises(UserError, match=r"\); with a network, run: minari download D4RL/door/human-v2$"):
        load("D4RL/door/human-v2")


def test_offline_by_choice(datasets: Path) -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        load("mujoco/hopper/medium-v0")


def test_a_silent_server_is_given_up_on(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minari_download, "_TIMEOUT", 0.3)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot be reached .*timed out"):
            load("mujoco/hopper/medium-v0")

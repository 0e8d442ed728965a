"""Nothing that is loaded runs code, and no name leads out of its folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from pendulum import ID
from rich.console import Console
from setups import train

import iwbc
from iwbc import api
from iwbc.data.minari_folder import dataset_folder
from iwbc.errors import UserError
from iwbc.evaluate import main as evaluate
from iwbc.report.write import write_report
from iwbc.system.files import read_yaml
from iwbc.training.trained import load_policy


class Touching:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.fixture
def bait(tmp_path: Path) -> Path:
    return tmp_path / "bait"


def test_a_pickle_is_no_policy(bait: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    for save in (lambda: path.write_bytes(pickle.dumps(Touching(bait))), lambda: torch.save(Touching(bait), path)):
        save()
        with pytest.raises(UserError, match="cannot be read"):
            load_policy(path)
    assert not bait.exists()
    pickle.loads(pickle.dumps(Touching(bait)))
    assert bait.exists()  # the bait is one


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:pathlib.Path.touch [BAIT]", "x: !!python/name:os.system", "x: &a [1]\ny: *a", "!nope 3"]
)
def test_tags_and_aliases_are_refused(text: str, bait: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text.replace("BAIT", str(bait)))
    with pytest.raises(ValueError):
        read_yaml(tmp_path / "config.yaml")
    assert not bait.exists()


def test_a_run_folder_imports_no_module(run: Path, bait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "baited.py").write_text(f"import pathlib\npathlib.Path({str(bait)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = yaml.safe_load((run / "config.yaml").read_text())
    for changes in ({"policy": {"_target_": "baited.Policy"}}, {"env": plain["env"] | {"imports": ["baited"]}}):
        received = tmp_path / f"received{len(list(tmp_path.iterdir()))}"
        received.mkdir()
        (received / "config.yaml").write_text(yaml.safe_dump(plain | changes))
        outcome = train(f"resume={received}")
        assert outcome.code == 2
        assert "imports modules of its own; to trust them, add" in outcome.err
    summary = json.loads((run / "summary.json").read_text())
    summary["environment"]["imports"] = ["baited"]
    (received / "config.yaml").write_text((run / "config.yaml").read_text())
    (received / "policy.safetensors").write_bytes((run / "policy.safetensors").read_bytes())
    (received / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="to import what registers it, add imports=baited"):
        evaluate([f"run={received}"])
    assert not bait.exists()


@pytest.mark.parametrize(
    "name", ["../out-v0", "/etc/out-v0", "a/../../out-v0", "a/./out-v0", "..-v0/../x", "a\x00b-v0", "~/out-v0"]
)
def test_an_id_leads_nowhere_else(name: str, datasets: Path) -> None:
    with pytest.raises(UserError, match="not an id"):
        dataset_folder(name)
    with pytest.raises(UserError, match="not an id"):
        iwbc.load(name)
    assert list(datasets.iterdir()) == []


@pytest.mark.robustness
def test_the_page_of_a_report_shows_markup_as_text(run: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    summary = json.loads((copy / "summary.json").read_text())
    summary["method"], summary["dataset"]["id"] = evil, f"a/{evil}-v0"
    (copy / "summary.json").write_text(json.dumps(summary))
    write_report([copy], tmp_path / "report", Console(quiet=True))
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_minari_data_names_an_environment_and_imports_nothing(
    bait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    import shutil

    (tmp_path / "baited2.py").write_text(f"import pathlib\npathlib.Path({str(bait)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = dataset_folder("tests/baited-v0")
    shutil.copytree(dataset_folder(ID), copy, ignore=shutil.ignore_patterns("packed*"))
    metadata = json.loads((copy / "data" / "metadata.json").read_text())
    for key in ("env_spec", "eval_env_spec"):
        metadata[key] = json.dumps(json.loads(metadata[key]) | {"id": "baited2:X-v0", "entry_point": "baited2:X"})
    (copy / "data" / "metadata.json").write_text(json.dumps(metadata))
    data = iwbc.load("tests/baited-v0")
    with pytest.raises(UserError, match="names a module to import"):
        api.evaluate(load_policy(run / "policy.safetensors"), data, episodes=1)
    assert not bait.exists()

"""The commands as a user starts them, each in a process of its own: what they print."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from setups import SMALL, called, finish, python, read_csv, train

from iwbc.cli import main
from iwbc.export_data import Options as ExportData
from iwbc.settings import Settings
from iwbc.system.arguments import parse


@dataclass
class Places(Settings):
    """Options that stand alone, and paths by their names."""

    files: list[Path]
    out: Path | None = None
    name: str = field(default="")


def test_a_tilde_that_begins_a_path_is_the_user_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse(["~/a", "b~", "~nobody-here/c", "out=~/d", "name=~/e"], Places)
    assert options.files == [tmp_path / "a", Path("b~"), Path("~nobody-here/c")]
    assert (options.out, options.name) == (tmp_path / "d", "~/e")
    chosen = parse(["format=rabc", "out=~/set", "weights=~/w.parquet", "original=~/pusht"], ExportData)
    assert (chosen.out, chosen.weights, chosen.original) == tuple(tmp_path / name for name in ("set", "w.parquet", "pusht"))


def test_a_damaged_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (folder / "checkpoint.safetensors").write_bytes((run / "policy.safetensors").read_bytes()[:-10])
    outcome = train(f"resume={folder}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "checkpoint.safetensors: cannot be read" in outcome.err


def test_resume_stands_anywhere_and_once(tmp_path: Path) -> None:
    for words in ([f"resume={tmp_path}", "eval.episodes=1"], ["eval.episodes=1", f"resume={tmp_path}"]):
        outcome = train(*words)
        assert (outcome.code, outcome.err) == (2, f"{tmp_path}: not a run folder (it has no config.yaml)\n")
    outcome = train("resume=a", "eval.episodes=1", "resume=b")
    assert (outcome.code, outcome.err) == (2, "resume=a resume=b: name one run to continue\n")


@pytest.mark.parametrize("module", ["iwbc", "iwbc.train"])
def test_what_an_encoding_lacks_ends_nothing(module: str, tmp_path: Path) -> None:
    words = ["train", "--help"] if module == "iwbc" else ["--help"]
    outcome = finish(python("-m", module, *words, cwd=tmp_path, PYTHONIOENCODING="ascii"))
    assert (outcome.code, outcome.err) == (0, "")
    assert "algo.kappa=0.5        ?, how much" in outcome.out


@pytest.mark.robustness
def test_the_terminal_is_quiet(tmp_path: Path) -> None:
    arguments = ["env=walker2d", *SMALL, "dataset.tier=random", "dataset.steps=1000", "algo.steps=20", "eval.episodes=1"]
    outcome = finish(python("-m", "iwbc.train", *arguments, "hydra.run.dir=run", cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    # What it says of generating the dataset, on which the seconds pass, goes to stderr.
    assert all(line.startswith("Generating iwbc/walker2d/") for line in outcome.err.splitlines()), outcome.err
    for word in ("warn", "deprecat", "settotalmass", "gym has been"):
        assert word not in (outcome.out + outcome.err).lower()
    again = finish(python("-m", "iwbc.evaluate", "run=run", "out=episodes.csv", cwd=tmp_path))
    assert (again.code, again.err) == (0, "")
    played = [[row["return"] for row in read_csv(tmp_path / name)] for name in ("run/evaluations.csv", "episodes.csv")]
    assert played[0][-1:] == played[1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "episodes.csv"}


@pytest.mark.robustness
def test_evaluate_is_one_line_where_there_is_no_run(tmp_path: Path) -> None:
    outcome = finish(python("-m", "iwbc.evaluate", "run=nowhere", cwd=tmp_path))
    assert outcome.code == 2
    assert outcome.err == "nowhere: not a run folder (it has no config.yaml)\n"


# --- what a command is given, and what it is --------------------------------------------------------------------------

FOLDERS = ["nowhere", "run=nowhere", "lr=0.1/run", "./run=a", "{a: 1}", "1e3", "null", "${x}", "a [b] #c"]
TAKE_A_RUN = {"evaluate": [], "verify": [], "record": ["format=gif"], "export": ["format=onnx"]}


@pytest.mark.parametrize("name", TAKE_A_RUN)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_needs_no_key(name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(folder.removeprefix("run="))
    if path.name != "nowhere":
        path.mkdir(parents=True)
    outcome = called(main, "iwbc", name, *TAKE_A_RUN[name], folder)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"{path}: not a run folder (it has no config.yaml)\n"


@pytest.mark.parametrize("name", TAKE_A_RUN)
def test_a_path_that_is_no_run_folder_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dataset/data").mkdir(parents=True)
    for file in ("demo.npz", "policy.safetensors"):
        Path(file).touch()
    for arguments, message in {
        ("dataset",): "dataset: not a run folder (it has no config.yaml); it is a dataset, which iwbc info takes\n",
        ("demo.npz",): "demo.npz: not a run folder (it has no config.yaml); it is a dataset, which iwbc info takes\n",
        ("policy.safetensors",): "it is a policy's file; commands take the folder of its run",
        ("a", "b"): "b: run is given twice\n",
        ("run=a", "b"): "b: run is given twice\n",
        ("lr=0.1/run",): "lr=0.1/run: no such file, and not an option; the options are run=…, ",
        ("a", "nope=1"): "nope=1: not an option; the options are run=…, ",
        (): "run=… is missing (see --help)\n",
    }.items():
        outcome = called(main, "iwbc", name, *TAKE_A_RUN[name], *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert message in outcome.err


def test_a_run_is_taken_as_it_stands(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "episodes.csv"
    for arguments in (["evaluate", str(run), "episodes=2", f"out={out}"], ["verify", "replay=false", str(run)]):
        outcome = called(main, "iwbc", *arguments)
        assert (outcome.code, outcome.err) == (0, "")
    assert len(read_csv(out)) == 2
    pt = tmp_path / "policy.pt"
    assert called(main, "iwbc", "export", str(run), "format=torchscript", f"out={pt}").out == f"{pt}\n"


def test_info_says_what_is_no_dataset(run: Path) -> None:
    for path, message in {
        run: "no dataset, but a run, which iwbc evaluate, verify, record, export and report take\n",
        run / "policy.safetensors": "no dataset, but a policy's file; commands take the folder of its run",
    }.items():
        outcome = called(main, "iwbc", "info", str(path))
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert outcome.err.startswith(f"{path}: {message}")

"""Files that appear whole or not at all, and checkpoints among them."""

from __future__ import annotations

import dataclasses
import errno
import gc
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import safetensors.torch
import torch
from setups import compose, summary_of, total

from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.runs.folder import RunFolder
from iwbc.runs.read import file_hashes, finished_summary, read_config, read_summary
from iwbc.runs.results import versions
from iwbc.runs.summary import Diverged, Gain
from iwbc.system import files
from iwbc.system.files import (
    digest_of,
    folders_with,
    read_json,
    read_tensors,
    read_yaml,
    temporary_prefix,
    write_bytes,
    write_csv,
    write_json,
)
from iwbc.system.files import write_tensors as write

TENSORS = {"b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor([True, False])}

# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_file_is_written_into_new_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "file"
    for content in (b"old", b"new"):
        with mock.patch("os.fsync") as synchronised:
            write_bytes(path, content)
        assert synchronised.called
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_full_disk_leaves_the_old_file_and_is_told_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")), pytest.raises(OSError) as caught:
        write_bytes(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_being_stopped_leaves_the_old_file(tmp_path: Path) -> None:
    with mock.patch("os.replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    path, machine, dead, running = tmp_path / "file", files._machine(), 77, 78
    gone = [tmp_path / f".file~{machine}~{dead}~{name}" for name in ("file", "folder")]
    gone[0].write_bytes(b"")
    gone[1].mkdir()
    (gone[1] / "part").write_bytes(b"")
    stay = [
        tmp_path / f".file~{machine}~{running}~a",
        tmp_path / f".file~another-machine~{dead}~a",
        tmp_path / f".other~{machine}~{dead}~a",
        tmp_path / f".file~{machine}~word~a",
    ]
    for kept in stay:
        kept.write_bytes(b"")

    def kill(process: int, signal: int) -> None:
        if process == dead:
            raise ProcessLookupError

    with mock.patch("os.kill", side_effect=kill) as asked:
        assert temporary_prefix(path) == f".file~{machine}~{os.getpid()}~"
    assert sorted(tmp_path.iterdir()) == sorted(stay)
    assert {call.args for call in asked.call_args_list} == {(dead, 0), (running, 0)}  # 0 asks and does nothing


def test_processes_of_another_container_cannot_be_told(tmp_path: Path) -> None:
    """Its host may have the same name, and its processes have other numbers."""
    with mock.patch("os.readlink", return_value="pid:[4026531836]"):
        live = tmp_path / f"{temporary_prefix(tmp_path / 'file')}a"
    live.write_bytes(b"")
    with mock.patch("os.kill", side_effect=ProcessLookupError):
        for elsewhere in (["pid:[4026532001]"], OSError):
            with mock.patch("os.readlink", side_effect=elsewhere):
                temporary_prefix(tmp_path / "file")
            assert live.exists()
        with mock.patch("os.readlink", return_value="pid:[4026531836]"):
            temporary_prefix(tmp_path / "file")
    assert not live.exists()


def test_somebody_elses_process_runs(tmp_path: Path) -> None:
    left = tmp_path / f".file~{files._machine()}~77~a"
    left.write_bytes(b"")
    with mock.patch("os.kill", side_effect=PermissionError) as asked:
        temporary_prefix(tmp_path / "file")
    asked.assert_called_once_with(77, 0)
    assert left.exists()


def test_the_columns_of_a_table_are_those_of_all_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", [{"b": 1, "a": "x,y"}, {"c": None, "a": 2.5}])
    assert (tmp_path / "table.csv").read_bytes() == b'b,a,c\n1,"x,y",\n,2.5,\n'


def test_json_ends_with_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "it.json", {"a": [1]})
    assert (tmp_path / "it.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert read_json(tmp_path / "it.json") == {"a": [1]}


def test_where_things_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IWBC_CACHE", "/own")
    assert files.cache_folder() == Path("/own")
    monkeypatch.delenv("IWBC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert files.cache_folder() == Path("/xdg/iwbc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "iwbc"
    assert Path(files.config_folder(), "train.yaml").exists()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_plain_yaml_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text("a: [1, é]\n", encoding="utf-8")
    assert read_yaml(path) == {"a": [1, "é"]}
    aliases, tags = "a: &x 1\nb: *x", "a: !!python/name:os.system"
    for bad, why in {aliases: "it holds an alias", tags: "could not determine", "[": "expected"}.items():
        path.write_text(bad)
        with pytest.raises(ValueError, match=why) as caught:
            read_yaml(path)
        assert "\n" not in str(caught.value)


def nested(depth: int, open: str = "[", close: str = "]") -> str:
    return open * depth + close * depth


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, "[" * 500, nested(101), nested(900), nested(300, '{"a":[', "]}")],
    ids=["brackets", "braces", "a few brackets", "whole", "just below the limit of recursion", "mixed"],
)
def test_nested_values_are_refused_before_the_stack_is_full(read: Callable[[Path], Any], text: str, tmp_path: Path) -> None:
    """Whatever the garbage collector runs meanwhile still has room; where it has none, its failure is printed somewhere."""

    def recur(depth: int) -> int:
        return depth and recur(depth - 1)

    def collecting(phase: str, info: dict[str, int]) -> None:
        nonlocal collected
        try:
            collected += 1
            recur(200)
        except RecursionError as error:
            failed.append(error)

    path, collected = tmp_path / "it", 0
    path.write_text(text)
    failed: list[RecursionError] = []
    before = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(1)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            read(path)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collecting)
    assert failed == [] and collected > 0


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_values_nested_less_or_only_seemingly_are_read(read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "it"
    texts = [
        nested(99, "[", "]"),
        json.dumps(["[" * 1000, '\\"[' * 1000, {"{" * 500: '"' + "[{" * 500}]),
        "[" + "[1], " * 1000 + "2]",
    ]
    for text in texts:
        path.write_text(text)
        assert read(path) == json.loads(text)
    path.write_text('["' + '\\"' * 300_000)  # a text without its end, all of whose characters might begin another
    with pytest.raises(ValueError):
        read(path)


def test_tensors_come_back_with_what_is_said_of_them(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    written = {**TENSORS, "view": shared[1:3], "transposed": TENSORS["b"].T, "base": shared, "none": torch.empty(0, 2)}
    write(tmp_path / "it", written, {"step": "3"})
    tensors, metadata = read_tensors(tmp_path / "it")
    assert tensors.keys() == written.keys()
    for name, value in written.items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype, name
    assert metadata == {"step": "3"}


def test_every_kind_of_number_is_read_by_others(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64, torch.int32, torch.int16]
    kinds += [torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8]
    written = {f"{i} {kind}": torch.tensor([[0, 1, 1]]).to(kind) for i, kind in enumerate(kinds)}
    written |= {"scalar": torch.tensor(2.5), "one of three bytes": torch.ones(3, dtype=torch.uint8)}
    write(tmp_path / "it", written, {})
    tensors = safetensors.torch.load_file(tmp_path / "it")
    assert tensors.keys() == written.keys()
    for name, value in written.items():
        assert tensors[name].dtype == value.dtype and tensors[name].tolist() == value.tolist(), name


def test_the_same_tensors_are_the_same_bytes(tmp_path: Path) -> None:
    many = {f"key{i}": str(i) for i in range(20)}
    for name in ("one", "other"):
        turned = name == "one"
        write(tmp_path / name, dict(sorted(TENSORS.items(), reverse=turned)), dict(sorted(many.items(), reverse=turned)))
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "other").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert list(metadata) == ["iwbc"] and json.loads(metadata["iwbc"]).keys() == many.keys() | {"digest"}


def test_tensors_are_aligned(tmp_path: Path) -> None:
    for extra in range(8):
        write(tmp_path / "it", TENSORS, {"text": "x" * extra})
        content = (tmp_path / "it").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        assert end % 8 == 0
        assert json.loads(content[8:end])["b"]["data_offsets"][0] % 4 == 0


def test_the_digest_is_of_names_shapes_kinds_and_values() -> None:
    changed = [
        {"b": TENSORS["b"], "c": TENSORS["a"]},
        TENSORS | {"b": TENSORS["b"].reshape(3, 2)},
        TENSORS | {"b": TENSORS["b"].view(torch.int32)},
        TENSORS | {"b": TENSORS["b"] + 1},
    ]
    digests = {digest_of(tensors, {}) for tensors in [TENSORS, dict(reversed(TENSORS.items())), *changed]}
    assert len(digests) == 1 + len(changed)
    said = {digest_of(TENSORS, metadata) for metadata in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, {"a": "1"}, {"a": "12"})}
    assert len(said) == 3 and not said & digests


def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "it"
    write(path, TENSORS, {"step": "30"})
    good = path.read_bytes()
    read_tensors(path)
    said = good.replace(rb"\"step\": \"30\"", rb"\"step\": \"31\"")
    assert said != good
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), said, b"", b"x" * 100, b"\xff" * 8 + b"{}"):
        path.write_bytes(bad)
        with pytest.raises(ValueError):
            read_tensors(path)
    path.unlink()
    with pytest.raises(OSError):
        read_tensors(path)


def test_files_of_earlier_versions_have_a_key_for_each_item(tmp_path: Path) -> None:
    digest = digest_of(TENSORS, {"step": "30", "config": "x"})
    safetensors.torch.save_file(TENSORS, tmp_path / "old", {"config": "x", "step": "30", "digest": digest})
    tensors, metadata = read_tensors(tmp_path / "old")
    assert metadata == {"step": "30", "config": "x"} and tensors.keys() == TENSORS.keys()
    safetensors.torch.save_file(TENSORS, tmp_path / "old", {"config": "x", "step": "31", "digest": digest})
    with pytest.raises(ValueError, match="its content is not what was written"):
        read_tensors(tmp_path / "old")


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "null", '"digest"', "[" * 100_000, '{"digest": 3}'])
def test_metadata_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "it", {"iwbc": text})
    with pytest.raises(ValueError) as caught:
        read_tensors(tmp_path / "it")
    assert "\n" not in str(caught.value)


# --- a run's checkpoint ----------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    config = compose("algo=bc")
    folder.check(config)
    folder.start(config)
    assert read_config(tmp_path) == config
    assert (tmp_path / "config.yaml").read_text().startswith("env:\n")  # in the order of the settings
    folder.check(config)
    with pytest.raises(UserError, match="holds a run with another configuration"):
        folder.check(compose("algo=bc", "seed=1"))
    assert folder.checkpoint() is None
    assert folder.keep(0) is None
    state = {0: {"a": torch.arange(3.0)}, 10: {"a": torch.ones(2), "b.c": torch.ones(1)}, 1: {"a": torch.zeros(2)}}
    folder.write_checkpoint(state, {"done": 40, "metrics": []})
    found = folder.checkpoint()
    assert found is not None
    assert {seed: set(own) for seed, own in found[0].items()} == {0: {"a"}, 1: {"a"}, 10: {"a", "b.c"}}
    assert torch.equal(found[0][0]["a"], torch.arange(3.0))
    assert found[1] == {"done": 40, "metrics": []}


@pytest.mark.parametrize("progress", ["[" * 100_000, "{", "3"])
def test_a_checkpoint_whose_progress_is_none_is_refused(progress: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose("algo=bc"))
    config = hashlib.sha256((tmp_path / "config.yaml").read_bytes()).hexdigest()
    write(tmp_path / "checkpoint.safetensors", TENSORS, {"progress": progress, "config": config})
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be read \(.*; delete it to start this run again"):
        folder.checkpoint()


def test_the_last_good_state_of_a_seed_is_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose("algo=bc"))
    folder.write_checkpoint({1: {"a": torch.zeros(2)}, 10: {"a": torch.ones(2)}, 11: {"b": torch.ones(1)}}, {"done": 40})
    assert folder.keep(1) == 40
    kept, metadata = read_tensors(tmp_path / "last-good-seed1.safetensors")
    assert list(kept) == ["1.a"] and metadata["step"] == "40"


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose("algo=bc"))
    folder.write_checkpoint({0: {"a": torch.zeros(2)}}, {"done": 40})
    folder.start(compose("algo=bc", "seed=1"))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be read \(it is of a run with another conf"):
        folder.checkpoint()


def test_a_finished_run_keeps_no_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose("algo=bc"))
    folder.write_checkpoint({0: {"a": torch.zeros(2)}}, {"done": 40})
    folder.write_failure("why", ["a=1"])
    assert read_json(tmp_path / "failure.json") == {"error": "why", "overrides": ["a=1"]}
    assert read_summary(tmp_path) is None
    folder.finish(summary_of({}))
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "run.html", "summary.json"]
    assert read_summary(tmp_path) == summary_of({})


def test_an_unfinished_run_has_no_configuration_or_summary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="this run is not finished"):
        finished_summary(tmp_path)


TOTAL = dataclasses.asdict(total(1.0, 1.0, 1.0))
SUMMARY = json.loads(json.dumps(summary_of({"final": total(1.0, 1.0, 1.0)}).to_plain()))


def test_a_summary_comes_back(tmp_path: Path) -> None:
    final = total(1.0, 2.0, 0.5)
    for good in (
        summary_of({}),
        summary_of({"final": final, "reference": total(3.0)}, environment=EnvironmentSpec("Pendulum-v1", {"g": 9.8})),
        summary_of({"final": final}, gains={"final": Gain("returns", 1.0, (0.0, 2.0))}, seeds=(0,)),
        summary_of({}, diverged=(Diverged(1, 40, "it is said to", 20), Diverged(2, 40, "so", None))),
        summary_of({}, normalisation=ReferenceScores(0.0, 200.0, "here")),
    ):
        write_json(tmp_path / "summary.json", good.to_plain())
        assert finished_summary(tmp_path) == good


def test_summaries_of_earlier_versions_are_read(tmp_path: Path) -> None:
    earlier = {key: value for key, value in SUMMARY.items() if key not in ("gains", "sha256", "diverged")}
    write_json(tmp_path / "summary.json", earlier | {"backend": "gymnasium"})
    assert finished_summary(tmp_path) == summary_of({"final": total(1.0, 1.0, 1.0)}, gains=None, sha256=None)


@pytest.mark.parametrize(
    "change",
    [
        {"environment": {"kwargs": {}}},
        {"normalisation": {"random": 0.0}},
        {"method": None},
        {"dataset": {"id": ""}},
        {"status": "running"},
        {"results": []},
        {"gains": {"reference": {"of": "scores", "mean": 1.0, "interval": [0.0, 2.0]}}},
        {"seeds": ["a"]},
        {"seeds": [float("inf")]},
        {"totals": {"final": TOTAL | {"return_mean": "high"}}},
        {"totals": {"final": TOTAL | {"success_interval": [0.0, None]}}},
        {"totals": {"final": TOTAL | {"episodes": "some"}}},
    ],
)
def test_a_summary_without_what_commands_read_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", SUMMARY | change)
    with pytest.raises(UserError, match=r"summary\.json: damaged"):
        read_summary(tmp_path)


def test_the_policy_has_its_name(tmp_path: Path) -> None:
    policies = mock.Mock()
    RunFolder(tmp_path).write_policy(policies)
    policies.save.assert_called_once_with(tmp_path / "policy.safetensors")


def test_the_hashes_of_results(tmp_path: Path) -> None:
    names = ["config.yaml", "policy.safetensors", "evaluations.csv", "metrics.csv"]
    for name in names:
        (tmp_path / name).write_text(name)
    assert file_hashes(tmp_path) == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    for name in (others := ["choice.json", "weights.csv", "curation.csv"]):
        (tmp_path / name).write_text(name)
    assert sorted(file_hashes(tmp_path)) == sorted([*names, *others])


def test_the_versions_are_those_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("cuda" in versions()) is bool(torch.version.cuda)
    monkeypatch.setattr("iwbc.runs.results.version", lambda name: f"of {name}")
    assert {name: versions()[name] for name in ("torch", "wandb")} == {"torch": "of torch", "wandb": "of wandb"}


def test_one_process_works_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lock = RunFolder(Path("run")).lock()
    assert lock.lock_file == RunFolder(tmp_path / "run").lock().lock_file != RunFolder(tmp_path / "other").lock().lock_file
    (tmp_path / "link").symlink_to("run")
    assert RunFolder(tmp_path / "link").lock().lock_file == lock.lock_file
    assert Path(lock.lock_file).parent == tmp_path / "cache" / "locks"
    assert len(Path(lock.lock_file).stem) == 32


def test_a_configuration_that_asks_the_machine_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose("algo=bc"))
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("device: cpu", "device: ${oc.env:HOME}"))
    with pytest.raises(UserError, match="it holds an interpolation"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text(text.replace("held_out: 0.0\n", ""))
    with pytest.raises(UserError, match="not all settings are there"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "3", "[1, 2]", '"a: ["', "... 0.001\n  schedu   name"])
def test_a_configuration_that_is_no_settings_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: damaged, or written by another version") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_are_numbers_and_words(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_curation([{"kept": 1}])
    folder.write_weights([{"weight": 1.0}])
    assert (tmp_path / "curation.csv").read_text() == "kept\n1\n"
    assert (tmp_path / "weights.csv").read_text() == "weight\n1.0\n"


@pytest.mark.parametrize("text", ["", "step\n", 'step,name\n1,é\n2,"two\nlines"\n'])
def test_a_table_goes_on_from_its_beginning_whatever_came_after(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    written = folder.write_table("metrics.csv", text)
    assert (tmp_path / "metrics.csv").read_bytes() == text.encode()
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(b"3,ha\xc3")
    assert folder.read_table("metrics.csv", written) == text


@pytest.mark.parametrize(
    "written", [{"size": 3, "sha256": "0" * 64}, {"size": 10**30, "sha256": "0" * 64}, [], {}, {"size": "3"}]
)
def test_a_table_with_another_beginning_is_refused_and_left(written: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step\n1\n")
    with pytest.raises(UserError, match=r"metrics\.csv: is not the one that the checkpoint goes with"):
        RunFolder(tmp_path).read_table("metrics.csv", written)
    assert (tmp_path / "metrics.csv").read_text() == "step\n1\n"


def test_folders_are_found_through_links_each_once(tmp_path: Path) -> None:
    for name in ("runs/a", "elsewhere/b", "elsewhere/b/inner", "runs/.hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "runs" / "same").symlink_to(tmp_path / "runs" / "a")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path)
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    expected = [(tmp_path / name).resolve() for name in ("elsewhere/b", "runs/a")]
    assert sorted(folders_with(tmp_path / "runs", "summary.json", "config.yaml")) == expected
    assert list(folders_with(tmp_path / "runs" / "same", "config.yaml")) == expected[1:]
    assert list(folders_with(tmp_path, "summary.json")) == []

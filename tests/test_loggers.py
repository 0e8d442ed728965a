"""Weights & Biases for real, offline."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from setups import BRIEF, column, compose, finish, python, read_csv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.runs.loggers import check_key, make_logger
from iwbc.runs.summary import DatasetSummary
from iwbc.settings import Logger


def records(path: Path) -> list[Any]:
    """What is in a W&B run file: a header of 7 bytes, then LevelDB's log format."""
    content, listed, record, place = path.read_bytes(), [], b"", 7
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # a block's last bytes, too few for a header
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            listed.append(Record.FromString(record))
            record = b""
    return listed


def values_of(record: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def summary_values(written: list[Any]) -> dict[str, Any]:
    """What a run's summary ends with."""
    updates = [item for record in written if record.WhichOneof("record_type") == "summary" for item in record.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def test_offline_runs_hold_what_the_csv_files_hold(hopper: Trajectories, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    arguments = ["logger=wandb", "logger.project=tests", "seeds=[3,4]", "eval.every=20", "eval.periodic_episodes=1"]
    # Whatever reached for the network would fail at this address, and be said.
    outside = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path / "home")}
    process = python("-m", "iwbc.train", *BRIEF, *arguments, "hydra.run.dir=run", cwd=tmp_path, **outside)
    outcome = finish(process)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "wandb" not in outcome.out.lower()
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"run", "home"}
    metrics, seeds = read_csv(tmp_path / "run" / "metrics.csv"), []
    for file in files:
        written = records(file)
        (run,) = [record.run for record in written if record.WhichOneof("record_type") == "run"]
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        seed = config["seed"]
        seeds.append(seed)
        assert run.project == "tests"
        assert run.run_group == f"iw_bc-{hopper.info.id.replace('/', '-')}"
        assert run.display_name == f"run-seed{seed}"
        assert config["algo"]["kappa"] == compose().algo.kappa
        assert config["policy"]["hidden"] == [32, 32]
        history = [values_of(record) for record in written if record.WhichOneof("record_type") == "history"]
        logged = [row for row in history if "loss" in row]
        assert [row["_step"] for row in logged] == [10, 20, 30, 40]
        for name in ("loss", "ess_share", "drift_kept"):
            assert [row[name] for row in logged] == pytest.approx(column(metrics, name, seed=seed))
        (evaluation,) = [row for row in history if "periodic/return" in row]
        (final,) = [row for row in history if "final/return" in row]
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        (of_seed,) = [row for row in summary["results"] if row["seed"] == seed]
        assert final["_step"] == 40
        assert (final["final/return"], final["final/score"]) == (
            of_seed["final"]["return_mean"],
            of_seed["final"]["score_mean"],
        )
        (reference,) = [row for row in history if "reference/return" in row]
        assert reference["reference/score"] == of_seed["reference"]["score_mean"]
        assert config["data"] == summary["dataset"]
        told = summary_values(written)
        assert told["final/score"] == of_seed["final"]["score_mean"]
        assert told["curation/kept"]["_type"] == "histogram"
        assert sum(told["curation/kept"]["values"]) == summary["dataset"]["kept_trajectories"]
        assert sum(told["curation/trajectories"]["values"]) == len(hopper)
        expected = column(read_csv(tmp_path / "run" / "evaluations.csv"), "return", phase="periodic", seed=seed)
        assert evaluation["periodic/return"] == pytest.approx(expected[0])
        (ended,) = [record.exit for record in written if record.WhichOneof("record_type") == "exit"]
        assert ended.exit_code == 0
    assert sorted(seeds) == [3, 4]


def test_without_wandb_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=wandb: it needs the extra wandb"):
        check_key(Logger("wandb", "offline"))
    check_key(Logger("tensorboard"))


def test_online_without_a_key_is_refused_and_with_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    with pytest.raises(UserError, match="no W&B API key"):
        check_key(Logger("wandb", "online"))
    check_key(Logger("wandb", "offline"))
    check_key(Logger("none", "online"))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123456789\n")
    (tmp_path / ".netrc").chmod(0o600)
    check_key(Logger("wandb", "online"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(UserError, match="no W&B API key"):
        check_key(Logger("wandb", "online"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_key(Logger("wandb", "online"))


@contextlib.contextmanager
def wandb_server(how: str) -> Iterator[str]:
    """Give the address of something in the place of W&B's server.

    unreachable: nothing is there; hanging: it never says a word. It lets a run begin, and from then on — dying: hangs up; mute:
    says no more; failing: has errors alone.
    """
    if how in ("unreachable", "hanging"):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            if how == "hanging":
                listening.listen(100)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        return
    over, begun = threading.Event(), threading.Event()
    names = {"name": "iwbc", "entity": {"id": "1", "name": "somebody"}}
    run = {
        "upsertBucket": {
            "bucket": {"id": "1", "name": "run", "config": "{}", "project": {"id": "1", **names}},
            "inserted": True,
        }
    }

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if begun.is_set() and how == "mute":
                over.wait()
            if begun.is_set() and how != "failing":
                self.close_connection = True
                return
            first = b"mutation UpsertBucket" in asked
            answer = json.dumps({"data": run if first else {}}).encode()
            self.send_response(500 if begun.is_set() else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            if first:
                begun.set()

        do_GET = do_POST

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()


LATE = ("dying", "mute", "failing")
LONG = [pytest.param(server, marks=pytest.mark.long) for server in ("mute", "failing")]


@pytest.mark.robustness
@pytest.mark.parametrize("server", ["unreachable", "hanging", "dying", *LONG])
def test_online_with_a_server_that_fails_is_one_line_and_a_whole_run(server: str, hopper: Trajectories, tmp_path: Path) -> None:
    """At the beginning the run goes on offline; later its figures are kept on disk."""
    (tmp_path / "home").mkdir()
    seeds = [0] if server in LATE else [0, 1]
    arguments = ["logger=wandb", "logger.mode=online", "algo=bc", f"seeds={seeds}".replace(" ", ""), "hydra.run.dir=run"]
    patience = 20.0 if server in LATE else 2.0  # before it fails, it answers, however slowly
    code = f"import iwbc.runs.loggers; iwbc.runs.loggers._PATIENCE = {patience}; from iwbc.train import main; main()"
    with wandb_server(server) as address:
        outside = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path / "home")}
        outcome = finish(python("-c", code, *BRIEF, *arguments, cwd=tmp_path, **outside))
    assert outcome.code == 0, outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert ("logger=wandb: W&B failed" if server in LATE else "logger.mode=online: W&B cannot be used") in outcome.err
    assert (tmp_path / "run" / "summary.json").exists()
    begins = "run" if server in LATE else "offline-run"
    files = sorted((tmp_path / "run" / "wandb").glob(f"{begins}-*/run-*.wandb"))
    assert len(files) == len(seeds)
    for file in files:
        history = [values_of(record) for record in records(file) if record.WhichOneof("record_type") == "history"]
        assert [row["_step"] for row in history if "loss" in row] == [10, 20, 30, 40]
        assert any(record.WhichOneof("record_type") == "exit" for record in records(file))


@pytest.mark.robustness
def test_tensorboard_holds_what_the_csv_files_hold(hopper: Trajectories, tmp_path: Path) -> None:
    arguments = ["logger=tensorboard", "seeds=[3,4]", "eval.every=20", "eval.periodic_episodes=1", "hydra.run.dir=run"]
    outcome = finish(python("-m", "iwbc.train", *BRIEF, *arguments, cwd=tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    metrics, evaluations = (read_csv(tmp_path / "run" / f"{name}.csv") for name in ("metrics", "evaluations"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for seed in (3, 4):
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / f"seed{seed}"))
        events.Reload()
        loss = events.Scalars("loss")
        assert [event.step for event in loss] == [10, 20, 30, 40]
        assert [event.value for event in loss] == pytest.approx(column(metrics, "loss", seed=seed))
        (periodic,) = events.Scalars("periodic/return")
        assert periodic.value == pytest.approx(column(evaluations, "return", phase="periodic", seed=seed)[0])
        (of_seed,) = [row for row in summary["results"] if row["seed"] == seed]
        for phase in ("final", "reference"):
            (score,) = events.Scalars(f"{phase}/score")
            assert score.value == pytest.approx(of_seed[phase]["score_mean"])
        assert events.Histograms("curation/kept")[0].histogram_value.num == summary["dataset"]["kept_trajectories"]
        assert summary["dataset"]["content_hash"] in str(events.Tensors("config/text_summary")[0])


def test_tensorboard_holds_a_step_once_where_a_killed_run_goes_on(tmp_path: Path) -> None:
    config, data = compose("env=hopper", "logger=tensorboard", "seed=3"), DatasetSummary("a/b-v0", "ab" * 32, 40, 400, 4, 40)
    bins = [{"return_low": 0.0, "return_high": 1.0, "trajectories": 40, "kept": 4}]
    for done, value in ((0, 1.0), (10, 2.0), (10, 3.0)):  # killed after step 30 each time, and nothing was closed but its file
        logger = make_logger(config, tmp_path, data, bins, done)
        for step in range(done + 10, 40, 10):
            logger.log(step, 3, {"loss": value})
        logger.close(True)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "seed3"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.0), (20, 3.0), (30, 3.0)]

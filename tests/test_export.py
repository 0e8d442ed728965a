"""A policy taken away: exported files act as `predict` does, a model for the Hub says what it is, other libraries play it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from setups import command, finish, python, rarely, seldom, train

from iwbc import export
from iwbc.data.streams import generator
from iwbc.errors import UserError
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.settings import FlowPolicy, GaussianPolicy, MixturePolicy
from iwbc.training.trained import Policies

FAMILIES = {
    "tanh_mean": GaussianPolicy(hidden=[8]),
    "squashed": GaussianPolicy(hidden=[8], kind="squashed", std="state"),
    "mixture": MixturePolicy(hidden=[8], components=3),
    "flow": FlowPolicy(hidden=[8], coupling_hidden=[8]),
}


def policies_of(settings: GaussianPolicy) -> Policies:
    """Two seeds, with an observation normaliser and bounds that are not ±1; the first seed's actions reach the bounds."""
    spaces = Spaces(4, (-2.0, -1.0), (1.0, 3.0))
    spec = PolicySpec(settings, spaces, (0.5, 0.0, -1.0, 2.0), (2.0, 1.0, 0.1, 3.0))
    torch.manual_seed(0)
    made = [spec.make(), spec.make()]
    with torch.no_grad():
        for parameter in made[0].parameters():
            parameter.mul_(2.0)
    return Policies(made, (4, 7), spaces, spec)


def observations(count: int) -> np.ndarray:
    return (3.0 * np.random.default_rng(count).normal(size=(count, 4))).astype(np.float32)


def test_an_exported_policy_stays_within_bounds_that_are_no_float32_numbers(tmp_path: Path) -> None:
    policies = policies_of(FAMILIES["tanh_mean"])
    spaces = Spaces(4, (-0.1, 0.3), (0.7, 3.1))
    bounded = Policies(policies.modules, policies.seeds, spaces, policies.spec)
    module, _ = export.playable(bounded)
    actions = module(torch.from_numpy(100.0 * observations(200))).double().numpy()
    assert (np.array(spaces.action_low) <= actions).all() and (actions <= np.array(spaces.action_high)).all()
    np.testing.assert_array_equal(actions, bounded.predict(100.0 * observations(200))[0])


# ONNX takes seconds: every run of the tests has the mean action of one family and the sampled one of another, `make test-all`
# those of the others.
USUAL = {("mean", "tanh_mean"), ("sample", "mixture")}
RARE = {("mean", "squashed"), ("sample", "flow")}
PAIRS = [(action, family) for action in ("mean", "sample") for family in FAMILIES]
EXPORTED = [("torchscript", *pair) for pair in PAIRS] + [
    ("onnx", *pair) if pair in USUAL else rarely("onnx", *pair) if pair in RARE else seldom("onnx", *pair) for pair in PAIRS
]


@pytest.mark.parametrize(("kind", "action", "family"), EXPORTED)
def test_an_exported_policy_acts_as_predict_does(kind: str, action: str, family: str, tmp_path: Path) -> None:
    policies = policies_of(FAMILIES[family])
    write = {"onnx": export.write_onnx, "torchscript": export.write_torchscript}[kind]
    path = tmp_path / "policy"
    write(policies, path, action, {"method": "it"})
    for count in (1, 5):
        rows = observations(count)
        expected, _ = policies_of(FAMILIES[family]).predict(rows, deterministic=action == "mean")
        inputs = [rows]
        if action == "sample":  # predict's generator is that of the first seed
            inputs += [noise.numpy() for noise in policies[0].noise(count, generator(4))]
        actions = run_onnx(path, inputs) if kind == "onnx" else run_torchscript(path, inputs)
        np.testing.assert_allclose(actions, expected, atol=2e-6)
    if action == "sample":
        assert (expected == [1.0, 3.0]).any() or (expected == [-2.0, -1.0]).any() or family != "tanh_mean"


def run_onnx(path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    assert session.get_modelmeta().custom_metadata_map["method"] == "it"
    names = [entry.name for entry in session.get_inputs()]
    assert names == ["observation", "uniform", "noise"][:1] + ["uniform"] * (len(inputs) == 3) + ["noise"] * (len(inputs) > 1)
    (actions,) = session.run(["action"], dict(zip(names, inputs, strict=True)))
    return actions


def run_torchscript(path: Path, inputs: list[np.ndarray]) -> np.ndarray:
    files = {"policy.json": ""}
    module = torch.jit.load(str(path), _extra_files=files)
    assert json.loads(files["policy.json"])["method"] == "it"
    return module(*map(torch.from_numpy, inputs)).numpy()


# --- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = ["env=two_routes", "dataset.episodes=60", "policy.hidden=[8]", "reference.steps=20", "algo.steps=20"]
    settings += ["eval.episodes=3", "eval.every=0", "seeds=[3,5]", "threads=1", "policy.normalise_observations=true"]
    assert train(*settings, f"hydra.run.dir={folder}").code == 0
    return folder


def test_the_command_writes_where_it_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("iwbc.export", f"run={run}", "format=onnx", "seed=5", "out=mine.onnx")
    assert (outcome.code, outcome.out, outcome.err) == (0, "mine.onnx\n", "")
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "mine.onnx"))
    metadata = session.get_modelmeta().custom_metadata_map
    summary = json.loads((run / "summary.json").read_text())
    assert metadata["seed"] == "5"
    assert metadata["dataset_content_hash"] == summary["dataset"]["content_hash"]
    assert json.loads(metadata["environment"])["id"] == "iwbc/TwoRoutes-v0"
    assert [metadata[name] for name in ("history", "chunk", "execute")] == ["1", "1", "1"]
    assert json.loads(metadata["results"])["return_mean"] == summary["totals"]["final"]["return_mean"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=onnx", "seed=4"], "seed=4: the run has 3, 5"),
        (["format=onnx", "repo=me/it"], "repo: goes with format=hub alone"),
        (["format=pickle"], "format=pickle: must be one of onnx, torchscript, hub"),
    ],
)
def test_refusals(arguments: list[str], message: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        export.main([f"run={run}", f"out={tmp_path / 'x'}", *arguments])
    assert list(tmp_path.iterdir()) == []


class OwnPolicy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def mean_action(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(observations).tanh()


def test_a_custom_policy_exports_the_mean_action(tmp_path: Path) -> None:
    policies = Policies([OwnPolicy()], (0,), Spaces(4, (-1.0, -1.0), (1.0, 1.0)), None)
    export.write_torchscript(policies, tmp_path / "policy.pt", "mean", {"method": "it"})
    actions = run_torchscript(tmp_path / "policy.pt", [observations(3)])
    np.testing.assert_allclose(actions, policies.predict(observations(3))[0], atol=1e-6)
    with pytest.raises(UserError, match="action=sample: OwnPolicy draws its noise itself"):
        export.write_torchscript(policies, tmp_path / "sampled.pt", "sample", {})


# --- the Hugging Face Hub ------------------------------------------------------------------------------------------------


class Hub:
    """The part of the Hub's protocol that an upload uses. It keeps every file of every commit."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({"error": "Invalid username or password."}, 401)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hub.refuses:
                    return self.reply({"error": "Invalid username or password."}, 401)
                if self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    return self.reply({"url": f"{hub.address}/me/it", "name": "me/it"})
                if "/preupload/" in self.path:
                    names = [entry["path"] for entry in json.loads(body)["files"]]
                    return self.reply({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
                if "/commit/" in self.path:
                    for line in map(json.loads, body.decode().splitlines()):
                        if line["key"] == "file":
                            hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    address = f"{hub.address}/me/it/commit/{'0' * 40}"
                    return self.reply({"commitUrl": address, "commitOid": "0" * 40, "success": True})
                return self.reply({"errors": [], "warnings": []})

            def reply(self, answer: dict[str, Any], status: int = 200) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_model_for_the_hub(run: Path, tmp_path: Path) -> None:
    export.main([f"run={run}", "format=hub", f"out={tmp_path / 'hub'}"])
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"README.md", "policy.safetensors", "config.yaml", "summary.json", "evaluations.csv", "run.html"}
    _, front, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    card, summary = yaml.safe_load(front), json.loads((run / "summary.json").read_text())
    assert card["library_name"] == "iwbc"
    (result,) = card["model-index"][0]["results"]
    assert result["dataset"]["name"] == "iwbc/TwoRoutes-v0"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["success_rate"] == round(summary["totals"]["final"]["success_rate"], 4)
    assert values["mean_reward"].startswith(f"{summary['totals']['final']['return_mean']:.2f} [")
    assert summary["dataset"]["content_hash"] in text


@pytest.mark.robustness
def test_an_upload_is_one_commit_of_all_files(run: Path, tmp_path: Path, hub: Hub) -> None:
    upload = [f"run={run}", "format=hub", "repo=me/it", "private=true"]
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    outcome = finish(python("-m", "iwbc.export", *upload, "out=hub", cwd=tmp_path, **environment))
    assert outcome.code == 0, outcome.err
    assert f"{hub.address}/me/it" in outcome.out
    assert hub.created == [{"name": "it", "organization": "me", "visibility": "private"}]
    assert {path.name: path.read_bytes() for path in (tmp_path / "hub").iterdir() if path.is_file()} == hub.files
    assert b'hf_hub_download("me/it", "policy.safetensors")' in hub.files["README.md"]
    hub.refuses = True
    refused = finish(python("-m", "iwbc.export", *upload, "out=hub", cwd=tmp_path, **environment))
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert refused.err.startswith("repo=me/it: ")


# --- other libraries -----------------------------------------------------------------------------------------------------


def test_stable_baselines3_plays_a_policy(run: Path) -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    from stable_baselines3.common.vec_env import DummyVecEnv

    from iwbc.environments.gymnasium import make_env
    from iwbc.training.trained import load_policy

    policy = load_policy(run / "policy.safetensors")
    env = DummyVecEnv([lambda: make_env("iwbc/TwoRoutes-v0")] * 2)
    env.seed(0)
    returns, lengths = evaluation.evaluate_policy(policy, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)
    assert len(returns) == 4
    assert max(lengths) <= 30


def test_imitation_calls_a_policy(run: Path) -> None:
    # imitation pins a Gymnasium of before 1.0 and cannot be installed beside: this is how its rollouts call a policy.
    from iwbc.training.trained import load_policy

    policy = load_policy(run / "policy.safetensors")
    batch = np.zeros((2, 4), np.float32)
    actions, states = policy(batch, None, np.ones(2, bool))
    assert callable(policy)
    np.testing.assert_array_equal(actions, policy.predict(batch)[0])
    assert states is None

"""A language model that FSDP splits among processes is trained, saved and continued as a whole one is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import everything
from safetensors.torch import load_file
from setups import Outcome, finish, python

pytest.importorskip("trl")
from test_language_train import SHORT, USUAL, place, summary, task  # noqa: F401

# accelerate splits models among accelerators alone. Here it takes processors for one, and gloo carries what they exchange.
SPLIT = """
import os, signal
from accelerate.state import PartialState
from accelerate.utils import DistributedType
make = PartialState.__init__

def make_as_of_accelerators(self, *arguments, **named):
    make(self, *arguments, **named)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_XPU

PartialState.__init__ = make_as_of_accelerators
from iwbc.language import pipeline, training
from iwbc.language.train import main

def interrupt(self, args, state, *others, **named):
    if state.global_step == int(os.environ["AT"]) and training.is_main():
        signal.raise_signal(signal.SIGINT)

if "AT" in os.environ:
    training._Watch.on_step_begin = interrupt
if "UNSAVED" in os.environ:
    pipeline.save = lambda *_: signal.raise_signal(signal.SIGINT)
main()
"""
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_CPU": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "GPT2Block",
}


def train(place: Path, *settings: str, processes: int = 2, **environment: str) -> Outcome:  # noqa: F811
    (place / "split.py").write_text(SPLIT)
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "split.py")
    short = [setting for setting in SHORT if not setting.startswith("fit.")]
    split = FSDP if processes > 1 else {}
    return finish(python(*launch, *USUAL, *short, "reference=logp", *settings, cwd=place, **split, **environment))


@pytest.fixture
def logp(place: Path) -> None:  # noqa: F811
    """Rows that say what a reference thinks of them."""
    path = place / "task" / "rows.jsonl"
    rows = [json.loads(line) | {"logp": -5.0 - 0.1 * (i % 7)} for i, line in enumerate(path.read_text().splitlines())]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def difference(one: Path, two: Path) -> float:
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (one, two))
    assert first.keys() ^ second.keys() <= {"lm_head.weight"}  # tied to the embeddings, and written again or not
    return max(float((first[name] - second[name]).abs().max()) for name in first.keys() & second.keys())


def test_it_learns_as_the_whole_one_and_is_saved_whole(place: Path, logp: None) -> None:  # noqa: F811
    for processes in (1, 2):
        outcome = train(place, f"out=run{processes}", processes=processes)
        assert outcome.code == 0, outcome.err
    assert summary(place / "run2")["steps"] == 6
    assert difference(place / "run1", place / "run2") < 2e-6
    assert everything(place / "run1") == everything(place / "run2")


def test_the_same_command_goes_on(place: Path, logp: None) -> None:  # noqa: F811
    assert train(place, "out=whole").code == 0
    for environment, last in (({"AT": "3"}, 4), ({"UNSAVED": "1"}, 6)):
        assert train(place, "out=run", **environment).code != 0
        assert (place / "run" / "checkpoints" / f"checkpoint-{last}").exists()
        assert not (place / "run" / "model").exists()
    outcome = train(place, "out=run")
    assert outcome.code == 0, outcome.err
    assert difference(place / "whole", place / "run") == 0.0


def test_an_adapter_is_saved_whole(place: Path, logp: None) -> None:  # noqa: F811
    for processes in (1, 2):
        outcome = train(place, f"out=run{processes}", "lora.rank=2", processes=processes)
        assert outcome.code == 0, outcome.err
    first, second = (load_file(place / f"run{n}" / "model" / "adapter_model.safetensors") for n in (1, 2))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-6

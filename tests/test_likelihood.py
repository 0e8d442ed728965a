"""The captured gradient step, without a GPU: CUDA graphs are stood in for by a recorder of PyTorch's operations, which
replays them on the same memory and runs no Python of ours, as a graph does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from setups import algorithm_of, compose, curated_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iwbc import likelihood
from iwbc.data.sampling import StepSampler, generator
from iwbc.data.trajectories import Trajectories
from iwbc.likelihood import WeightedLikelihood
from iwbc.policies import Policy, policy_spec
from iwbc.training import Stream

RECIPE = ["policy.hidden=[16]", "algo.batch_size=32", "algo.warmup_steps=3", "algo.steps=40"]


def tensors(*values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


class Graph(TorchDispatchMode):
    """Takes note of operations, and undoes what they change: a capture runs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        inputs = tensors(arguments, keywords)
        if function._schema.is_mutable:
            self.before += [(one, one.clone()) for one in inputs]
        output = function(*arguments, **keywords)
        memory = {one.untyped_storage().data_ptr() for one in inputs}
        view = not function._schema.is_mutable and all(o.untyped_storage().data_ptr() in memory for o in tensors(output))
        if not view:  # views stay where they are
            self.operations.append((function, arguments, keywords, output))
        return output

    def replay(self) -> None:
        for function, arguments, keywords, output in self.operations:
            found = function(*arguments, **keywords)
            if not function._schema.is_mutable:
                for own, new in zip(tensors(output), tensors(found), strict=True):
                    own.copy_(new)


@contextmanager
def capturing(graph: Graph) -> Iterator[None]:
    with graph:
        yield
    for tensor, value in reversed(graph.before):
        tensor.copy_(value)


class Queue:
    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: Queue) -> None:
        pass


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_has_graphs", lambda device: True)
    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph": capturing,
        "Stream": Queue,
        "current_stream": Queue,
        "stream": lambda queue: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)


def trained(trajectories: Trajectories, overrides: list[str]) -> dict[str, Tensor]:
    seeds = [0, 1]
    config = compose(*RECIPE, *overrides, f"seeds={seeds}")
    curated = curated_of(config, trajectories)
    reference = Policy(policy_spec(config.policy, trajectories), seeds, batched=True)  # as on a GPU
    reference.initialise([generator(Stream.POLICY, seed) for seed in seeds])
    algorithm = algorithm_of(config, curated, reference if config.algo.start == "reference" else None)
    sampler = StepSampler(curated, seeds, config.algo.batch_size, Stream.TRAINING)
    losses = []
    with torch.inference_mode():
        for step in range(40):
            # A captured step takes its learning rate from a float32 tensor.
            rate = float(np.float32(config.algo.learning_rate(step)))
            losses.append(algorithm.update(sampler.batch(step), rate))
    return {"losses": torch.stack(losses), **algorithm.state(), **algorithm.metrics()}


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo=bc"],
        ["algo=bc", "policy=squashed"],
        ["algo=awr", "algo.refresh_every=10", "algo.value_hidden=[8]"],
        ["algo=iw_bc"],
        ["algo=iw_bc", "algo.weights.estimator=exact", "algo.weights.refresh_every=10"],
        ["algo=iw_bc", "algo.weights.level=step", "algo.weights.maximum=2"],
    ],
    ids=" ".join,
)
def test_a_captured_step_trains_as_an_eager_one(
    overrides: list[str], hopper: Trajectories, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(hopper, overrides)
    request.getfixturevalue("graphs")
    calls, climb = [], WeightedLikelihood._climb

    def counted(self: WeightedLikelihood, *arguments: Any) -> Tensor:
        calls.append(arguments)
        return climb(self, *arguments)

    monkeypatch.setattr(WeightedLikelihood, "_climb", counted)
    found = trained(hopper, overrides)
    assert len(calls) == 4  # three to warm up, one to capture: every step is a replay
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=0.0, equal_nan=True, msg=name)

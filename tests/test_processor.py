from __future__ import annotations

import pytest
import torch

from iwbc import processor
from iwbc.networks import Parameters, mlp, mlp_shapes

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN operators"
)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_same_values_and_gradients_as_plain_pytorch(seeds: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = Parameters(mlp_shapes((5, 32, 16, 2)), seeds)
    for row in range(seeds):
        parameters.initialise(row, generator)
    inputs = torch.randn(seeds, batch, 5, generator=generator)
    found = {}
    for fast in (False, True):
        monkeypatch.setattr(processor, "prefers_onednn", lambda fast=fast: fast)
        outputs, pullback = mlp(parameters, inputs)
        found[fast] = [outputs, *parameters.gradient(pullback(outputs))]
    for plain, fast_ in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(fast_, plain, rtol=1e-4, atol=1e-4)
        assert fast_.is_contiguous()
    assert all(part.abs().sum() > 0 for part in found[True])


def test_a_network_computes_the_same_alone_or_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "prefers_onednn", lambda: True)
    generator = torch.Generator().manual_seed(0)
    three, one = Parameters(mlp_shapes((5, 32, 2)), 3), Parameters(mlp_shapes((5, 32, 2)), 1)
    for row in range(3):
        three.initialise(row, generator)
    one.flat.copy_(three.flat[1:2])
    inputs = torch.randn(3, 64, 5, generator=generator)
    assert torch.equal(mlp(three, inputs)[0][1], mlp(one, inputs[1:2])[0][0])


def test_the_number_of_threads_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = Parameters(mlp_shapes((11, 256, 256, 3)), 1)
    parameters.initialise(0, generator)
    inputs = torch.randn(1, 256, 11, generator=generator)
    threads = torch.get_num_threads()
    found = {}
    for count in (1, 2):
        torch.set_num_threads(count)
        outputs, pullback = mlp(parameters, inputs)
        found[count] = [outputs, *parameters.gradient(pullback(outputs))]
    torch.set_num_threads(threads)
    if processor.prefers_onednn():  # others promise nothing
        assert all(torch.equal(one, two) for one, two in zip(found[1], found[2], strict=True))

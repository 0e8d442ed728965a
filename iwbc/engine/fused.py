"""The steps of iwbc.engine.autograd for Gaussian MLPs and value networks, faster. Either continues the other's state."""

from __future__ import annotations

from torch import Tensor, nn

from iwbc.engine import kernels
from iwbc.engine.adam import Adam
from iwbc.engine.autograd import load_module, module_state
from iwbc.engine.gaussian import GaussianKernel
from iwbc.objectives import expectile_slopes
from iwbc.policies.gaussian import GaussianMLP


class GaussianOptimizer:
    """Optimiser by written-out gradients and one fused operation."""

    by_autograd = False

    def __init__(self, policy: GaussianMLP) -> None:
        self.policy, self._kernel = policy, GaussianKernel(policy)
        names = [name for name, _ in policy.named_parameters() if name != "log_std"]
        names += ["log_std"] * (policy.log_std is not None)  # in the kernel's order
        self._adam = NamedAdam(names, self._kernel.parameters)

    def step(self, observations: Tensor, actions: Tensor, weights: Tensor, learning_rate: float) -> Tensor:
        log_prob, vjp = self._kernel.log_prob_and_vjp(observations, actions)
        self._adam.step(vjp(weights), learning_rate)
        return log_prob

    def state(self) -> dict[str, Tensor]:
        return {**module_state(self.policy, "policy."), **self._adam.state("adam.")}

    def load(self, state: dict[str, Tensor]) -> None:
        load_module(self.policy, state, "policy.")
        self._adam.load(state, "adam.")


class FusedValueOptimizer:
    """Optimiser of a value network, a ReLU multi-layer perceptron, likewise."""

    by_autograd = False

    def __init__(self, network: nn.Sequential) -> None:
        self.network, self._layers = network, kernels.layers_of(network)
        parameters = [part for layer in self._layers for part in layer]
        self._adam = NamedAdam([name for name, _ in network.named_parameters()], parameters)

    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float, expectile: float = 0.5) -> Tensor:
        outputs, vjp = kernels.perceptron(self._layers, inputs)
        uphill = expectile_slopes(targets - outputs[:, 0], expectile) * (2.0 / len(targets))
        self._adam.step(vjp(uphill[:, None]), learning_rate)
        return outputs[:, 0]

    def state(self, prefix: str) -> dict[str, Tensor]:
        return {**module_state(self.network, prefix), **self._adam.state(f"{prefix}adam.")}

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        load_module(self.network, state, prefix)
        self._adam.load(state, f"{prefix}adam.")


class NamedAdam(Adam):
    """Adam with the names that torch.optim.Adam's moments have in a state."""

    def __init__(self, names: list[str], parameters: list[Tensor]) -> None:
        super().__init__(parameters)
        self._names = names

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return the moments by parameter name, and the number of steps."""
        tensors = {f"{prefix}step": self.steps}
        for moment, values in (("exp_avg", self.first_moments), ("exp_avg_sq", self.second_moments)):
            tensors |= {f"{prefix}{moment}.{name}": value for name, value in zip(self._names, values, strict=True)}
        return tensors

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Continue from a `state(prefix)`."""
        for name, tensor in self.state(prefix).items():
            tensor.copy_(state[name])

"""The step of iwbc.engine.autograd for Gaussian MLPs, faster. The states of both are alike: either continues the other's."""

from __future__ import annotations

from torch import Tensor

from iwbc.engine.adam import Adam
from iwbc.engine.autograd import load_module, module_state
from iwbc.engine.gaussian import GaussianKernel
from iwbc.policies.gaussian import GaussianMLP


class GaussianOptimizer:
    """Optimiser by written-out gradients and one fused operation."""

    by_autograd = False

    def __init__(self, policy: GaussianMLP) -> None:
        self.policy, self._kernel = policy, GaussianKernel(policy)
        self._names = [name for name, _ in policy.named_parameters() if name != "log_std"]
        self._names += ["log_std"] * (policy.log_std is not None)  # in the kernel's order
        self._adam = Adam(self._kernel.parameters)

    def step(self, observations: Tensor, actions: Tensor, weights: Tensor, learning_rate: float) -> Tensor:
        log_prob, vjp = self._kernel.log_prob_and_vjp(observations, actions)
        self._adam.step(vjp(weights), learning_rate)
        return log_prob

    def state(self) -> dict[str, Tensor]:
        tensors = module_state(self.policy, "policy.")
        for moment, values in (("exp_avg", self._adam.first_moments), ("exp_avg_sq", self._adam.second_moments)):
            tensors |= {f"adam.{moment}.{name}": value for name, value in zip(self._names, values, strict=True)}
        return {**tensors, "adam.step": self._adam.steps}

    def load(self, state: dict[str, Tensor]) -> None:
        load_module(self.policy, state, "policy.")
        for name, tensor in self.state().items():
            if name.startswith("adam."):
                tensor.copy_(state[name])

"""The gradient step that every algorithm comes to: θ ← Adam(∇_θ (1/B) Σ_b w_b log π_θ(a_b|s_b)), for any policy; and that of
a value network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from iwbc.data.trajectories import Observations
from iwbc.objectives import expectile_loss
from iwbc.policies.policy import Policy


class PolicyOptimizer(Protocol):
    """A policy with its optimiser. `by_autograd` says that a step needs gradients to be recorded."""

    by_autograd: bool

    def step(self, observations: Observations, actions: Tensor, weights: Tensor, learning_rate: float) -> Tensor:
        """Take one step with weights w [B], through which no gradient flows; return log π(a|s) before it, [B]."""

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""


class AutogradOptimizer:
    """Optimiser by autograd and torch.optim.Adam. The policy is in training mode in a step, and in evaluation mode
    otherwise."""

    by_autograd = True

    def __init__(self, policy: Policy, fused: bool = False) -> None:
        """fused: Adam as one operation, with the same numbers but for rounding."""
        self.policy = policy
        # PyTorch fuses numbers of one kind only, and leaves the choice to its caller.
        fused = fused and all(parameter.is_floating_point() for parameter in policy.parameters())
        self._adam = torch.optim.Adam(policy.parameters(), maximize=True, fused=fused)

    @torch.enable_grad()
    def step(self, observations: Observations, actions: Tensor, weights: Tensor, learning_rate: float) -> Tensor:
        self.policy.train()
        log_prob = self.policy.log_prob(observations, actions)
        self._adam.zero_grad()
        (weights * log_prob).mean().backward()
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self.policy.eval()
        return log_prob.detach()

    def state(self) -> dict[str, Tensor]:
        return {**module_state(self.policy, "policy."), **adam_state(self._adam, self.policy, "adam.")}

    def load(self, state: dict[str, Tensor]) -> None:
        load_module(self.policy, state, "policy.")
        load_adam(self._adam, self.policy, state, "adam.")


class ValueOptimizer(Protocol):
    """A value network with its optimiser. `by_autograd` says that a step needs gradients to be recorded."""

    by_autograd: bool

    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float, expectile: float = 0.5) -> Tensor:
        """Take one step down the expectile loss of inputs [B, n] and targets [B]; return the outputs before it, [B]."""

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Continue from a `state(prefix)`."""


class AutogradValueOptimizer:
    """Optimiser of a value network by autograd and torch.optim.Adam."""

    by_autograd = True

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._adam = torch.optim.Adam(network.parameters())

    @torch.enable_grad()
    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float, expectile: float = 0.5) -> Tensor:
        outputs: Tensor = self.network(inputs)[:, 0]
        self._adam.zero_grad()
        expectile_loss(targets - outputs, expectile).backward()
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        return outputs.detach()

    def state(self, prefix: str) -> dict[str, Tensor]:
        return {**module_state(self.network, prefix), **adam_state(self._adam, self.network, f"{prefix}adam.")}

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        load_module(self.network, state, prefix)
        load_adam(self._adam, self.network, state, f"{prefix}adam.")


def module_state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Return parameters and buffers by name; they share the module's memory."""
    return {f"{prefix}{name}": value.detach() for name, value in module.state_dict().items()}


def load_module(module: nn.Module, state: dict[str, Tensor], prefix: str = "") -> None:
    """Copy a `module_state` into a module, whose tensors stay where they are."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(state[prefix + name])


def adam_state(adam: torch.optim.Adam, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the moments by parameter name, and the number of steps, of an optimiser of all of a module's parameters."""
    moments, steps = {}, torch.zeros(())
    for name, parameter in module.named_parameters():
        state = adam.state.get(parameter, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            moments[f"{prefix}{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter)).detach()
        steps = state.get("step", steps)
    return {**moments, f"{prefix}step": steps.detach()}


def load_adam(adam: torch.optim.Adam, module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Continue from an `adam_state`."""
    fused = adam.defaults["fused"]  # which counts its steps where the parameters are
    for name, parameter in module.named_parameters():
        moments = {m: state[f"{prefix}{m}.{name}"].to(parameter, copy=True) for m in ("exp_avg", "exp_avg_sq")}
        step = state[f"{prefix}step"].to(parameter.device if fused else "cpu", copy=True)
        adam.state[parameter] = {"step": step, **moments}

"""The two-armed bandit: where filtered BC stops, and where importance weights go on.

The left arm pays 1 half of the time, the right one always; the demonstrator pulls either half of the time. Filtered BC ends at
the posterior over arms given success, (1/3, 2/3), which earns 5/6. iw-BC with q = π pulls the right arm alone: each full fit
of it doubles the odds.

python examples/bandit.py [figure.png]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

import iwbc

PAYS = np.array([0.5, 1.0])  # P(R = 1), left and right
REFERENCE = np.array([0.5, 0.5])  # π_ref


class TwoArms(nn.Module):
    """A policy of one number, the log odds of the right arm. Actions [B, 1]: −1 is left, 1 is right."""

    def __init__(self) -> None:
        super().__init__()
        self.log_odds = nn.Parameter(torch.zeros(1))

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return nn.functional.logsigmoid(self.log_odds * actions[:, 0].sign())

    def mean_action(self, observations: Tensor) -> Tensor:
        return self.log_odds.sign().expand(len(observations), 1)

    @property
    def right(self) -> float:
        return self.log_odds.sigmoid().item()


def full_fit(q: np.ndarray) -> np.ndarray:
    """The policy [2] that maximises E_ref[(q/π_ref) R log π]: π ∝ q · P(R = 1). From q = π_ref it is filtered BC's."""
    weights = REFERENCE * (q / REFERENCE) * PAYS
    return weights / weights.sum()


def pulls(count: int, seed: int = 0) -> iwbc.Trajectories:
    """Demonstrations of one step each, with success labels."""
    random = np.random.default_rng(seed)
    arm = random.choice(2, size=count, p=REFERENCE)
    paid = random.random(count) < PAYS[arm]
    ends = np.ones(count, bool)
    actions = (2.0 * arm[:, None] - 1.0).astype(np.float32)
    return iwbc.from_arrays(np.zeros((count, 1), np.float32), actions, 1.0 * paid, ends, ~ends, successes=paid)


def main(figure: str | None = None, count: int = 20_000) -> dict[str, float]:
    """Print P(right) as theory has it and as the package trains it; the latter by method."""
    theory = [REFERENCE]
    for _ in range(6):
        theory.append(full_fit(theory[-1]))
    print("fits   P(right)   odds   expected return")
    for fits, policy in enumerate(theory):
        print(f"{fits:4}   {policy[1]:8.4f}   {policy[1] / policy[0]:4.0f}   {PAYS @ policy:15.4f}")

    data = pulls(count)
    kept = iwbc.curate(data, iwbc.Success())
    reference = iwbc.fit(iwbc.BC(steps=500, lr=0.02), data, policy=TwoArms)
    fine = {"steps": 1000, "lr": 0.05}
    # For trajectories of one step κ = 1 is exact importance sampling.
    trained = {
        "BC": reference,
        "filtered BC": iwbc.fit(iwbc.FilteredBC(**fine), kept, reference=reference),
        "iw-BC, q = π": iwbc.fit(
            iwbc.IWBC(level="trajectory", kappa=1.0, decay=0.0, refresh_every=1, **fine), kept, reference=reference
        ),
    }
    chances = {name: policies[0].right for name, policies in trained.items()}
    print(f"\ntrained on {count:,} pulls   P(right)   expected return")
    for name, right in chances.items():
        print(f"{name:23}   {right:8.4f}   {PAYS @ [1 - right, right]:15.4f}")
    if figure is not None:
        draw(figure, np.array(theory), chances)
    return chances


def draw(path: str, theory: np.ndarray, chances: dict[str, float]) -> None:
    """P(right) after each full fit, beside where training ends."""
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot(range(len(theory)), theory[:, 1], "o-", color="black", label="each fit doubles the odds")
    for (name, right), colour in zip(chances.items(), ("tab:gray", "tab:blue", "tab:orange"), strict=True):
        axes.axhline(right, linestyle="--", color=colour, label=f"{name}, trained: {right:.3f}")
    axes.set(xlabel="full fits of importance-weighted BC", ylabel="P(right)", ylim=(0.2, 1.03))
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    shown.savefig(path, dpi=120)
    plt.close(shown)


if __name__ == "__main__":
    main(*sys.argv[1:])

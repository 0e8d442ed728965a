"""Normalised scores: 100 · (G − G_random) / (G_expert − G_random)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ReferenceScores:
    """The two returns that score 0 and 100, and where they come from."""

    random: float
    expert: float
    source: str

    def normalise(self, returns: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Compute the score of each return: 0 is the random policy, 100 the expert."""
        return 100.0 * (np.asarray(returns, np.float64) - self.random) / (self.expert - self.random)


# Published with D4RL (Fu et al. 2020), by the environment's name without its version.
_D4RL = {
    "Hopper": (-20.272305, 3234.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}


def d4rl_scores(env_id: str | None) -> ReferenceScores | None:
    """Return D4RL's reference returns for a MuJoCo environment of any version, or None if D4RL does not list it."""
    pair = _D4RL.get((env_id or "").split("-v")[0])
    return ReferenceScores(*pair, source="D4RL") if pair else None

"""The expert of the one task, which warns that its actions are clipped, as Meta-World's does."""

from __future__ import annotations

import warnings

import numpy as np


class PickPlacePolicy:
    def get_action(self, observation):
        hand, opening, puck, goal = observation[:3], observation[3], observation[4:7], observation[36:]
        over = np.abs(hand[:2] - puck[:2]).max() < 0.02
        near = np.abs(hand - puck).max() < 0.025
        target = goal if near and opening < 0.6 else hand if near else puck if over else puck + np.array([0.0, 0.0, 0.1])
        warnings.warn("Constant(s) may be too high. Environments clip response to [-1, 1]", stacklevel=2)
        return np.append(10.0 * (target - hand), 1.0 if near else -1.0).astype(np.float32)


ENV_POLICY_MAP = {"pick-place-v3": PickPlacePolicy}

"""An environment and demonstrations of your own: register, record, curate, fit, evaluate.

    python examples/own_environment.py

Environments are made by the name that they are registered under, here in this script.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np

import iwbc


class PointMass(gym.Env[np.ndarray, np.ndarray]):
    """A point in the plane that is to come to rest at the origin. Observation: position and velocity; action: acceleration."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = np.concatenate([self.np_random.uniform(-1.0, 1.0, 2), np.zeros(2)])
        return self._state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        position, velocity = self._state[:2], self._state[2:]
        velocity = velocity + 0.1 * action
        self._state = np.concatenate([position + 0.1 * velocity, velocity])
        reward = -float(np.linalg.norm(self._state[:2]))
        return self._state.astype(np.float32), reward, False, False, {}


gym.register("PointMass-v0", PointMass, max_episode_steps=50)  # type: ignore[arg-type]


def demonstrations(episodes: int) -> dict[str, Any]:
    """Episodes end to end, of demonstrators from good to clumsy."""
    env, random = gym.make("PointMass-v0"), np.random.default_rng(0)
    steps: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards", "terminations", "truncations")}
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        clumsiness, over = random.uniform(0.0, 2.0), False
        while not over:
            best = -2.0 * observation[:2] - 2.0 * observation[2:]
            action = np.clip(best + clumsiness * random.normal(size=2), -2.0, 2.0).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            for values, value in zip(steps.values(), (observation, action, reward, terminated, truncated), strict=True):
                values.append(value)
            observation, over = following, terminated or truncated
    return {name: np.array(values) for name, values in steps.items()}


def main(steps: int = 1_000) -> None:
    data = iwbc.from_arrays(**demonstrations(200), env_id="PointMass-v0")
    print(f"{len(data)} demonstrations, mean return {data.returns.mean():.1f}, best {data.returns.max():.1f}")
    kept = iwbc.curate(data, iwbc.TopFraction(0.2))
    small = iwbc.GaussianPolicy(hidden=[64, 64])
    reference = iwbc.fit(iwbc.BC(steps=2 * steps), data, policy=small)
    policy = iwbc.fit(iwbc.IWBC(steps=steps), kept, reference=reference)
    for name, policies in {"reference": reference, "iw-BC": policy}.items():
        print(name, iwbc.evaluate(policies, "PointMass-v0", episodes=50))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

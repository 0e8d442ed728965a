"""An environment that is seen through a camera, episodes of it, and a policy that sees."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from torch import Tensor, nn

ENV, BARE = "iwbc-tests/Lamp-v0", "iwbc-tests/LampAlone-v0"
SHAPE = (12, 12, 3)


class Lamp(gym.Env[Any, Any]):
    """A lamp at the left or the right of a picture, and a position; the reward is that of moving towards the lamp."""

    action_space = Box(-1.0, 1.0, (2,))

    def __init__(self, alone: bool = False) -> None:
        self.alone = alone
        camera = Box(0, 255, SHAPE, np.uint8)
        self.observation_space = camera if alone else Dict({"position": Box(-1, 1, (2,)), "camera": camera})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left, self.steps = bool(self.np_random.integers(2)), 0
        return self.look(), {}

    def look(self) -> Any:
        picture = self.np_random.integers(0, 50, SHAPE).astype(np.uint8)
        picture[:, :6] += np.uint8(200 * self.left)
        picture[:, 6:] += np.uint8(200 * (not self.left))
        return picture if self.alone else {"position": self.np_random.uniform(-1, 1, 2).astype(np.float32), "camera": picture}

    def step(self, action: Any) -> Any:
        self.steps += 1
        towards = -float(action[0]) if self.left else float(action[0])
        return self.look(), towards, False, self.steps == 5, {"success": towards > 0.2}


class Seeing(nn.Module):
    """A small policy of convolutions over every image, and of the vector."""

    def __init__(self, observation_size: int, action_size: int, image_shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.names = sorted(image_shapes)
        self.eyes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(image_shapes[name][-1], 4, 4, 4), nn.ReLU(), nn.Flatten()) for name in self.names
        )
        self.head = nn.LazyLinear(action_size)
        empty = {name: torch.zeros(1, *shape, dtype=torch.uint8) for name, shape in image_shapes.items()}
        self.mean_action({"observations": torch.zeros(1, observation_size), **empty})  # sets the size of the head

    def mean_action(self, observations: dict[str, Tensor]) -> Tensor:
        assert all(observations[name].dtype == torch.uint8 for name in self.names)
        pictures = [observations[name].permute(0, 3, 1, 2).float() / 255 for name in self.names]
        seen = [eye(picture) for eye, picture in zip(self.eyes, pictures, strict=True)]
        action: Tensor = self.head(torch.cat([observations["observations"], *seen], -1)).tanh()
        return action

    def log_prob(self, observations: dict[str, Tensor], actions: Tensor) -> Tensor:
        return -0.5 * (actions - self.mean_action(observations)).square().sum(-1) / 0.2**2

    def sample(self, observations: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        mean = self.mean_action(observations)
        return mean + 0.2 * torch.randn(mean.shape, generator=generator)


def recorded(count: int = 20, alone: bool = False) -> list[dict[str, Any]]:
    """Episodes of the lamp whose actions go towards it, but for every fourth."""
    env, random = Lamp(alone), np.random.default_rng(0)
    episodes = []
    for index in range(count):
        seen, actions, rewards = [env.reset(seed=index)[0]], [], []
        for _ in range(5):
            towards = (-0.8 if env.left else 0.8) * (-1 if index % 4 == 3 else 1)
            actions.append(np.array([towards, random.uniform(-0.5, 0.5)], np.float32))
            following, reward, *_ = env.step(actions[-1])
            seen.append(following)
            rewards.append(reward)
        episodes.append({"seen": seen, "actions": np.stack(actions), "rewards": np.array(rewards)})
    return episodes


gym.register(ENV, "lamp:Lamp")
gym.register(BARE, "lamp:Lamp", kwargs={"alone": True})

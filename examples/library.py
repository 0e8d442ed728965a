"""The whole method from Python: data, curation, reference policy, importance-weighted BC, evaluation.

python examples/library.py
"""

from __future__ import annotations

import sys

import iwbc


def main(steps: int = 2_000) -> None:
    data = iwbc.generate("Hopper-v5", "medium-replay", steps=20_000)  # or iwbc.load("mujoco/hopper/medium-v0")
    print(data)
    best = max(data, key=lambda trajectory: trajectory.rewards.sum())
    print("the best of them:", len(best.rewards), "steps, return", round(float(best.rewards.sum()), 1))

    kept = iwbc.curate(data, iwbc.QualityLevels([90, 95, 98]))  # R_i: how many of the levels a trajectory reaches
    reference = iwbc.fit(iwbc.BC(steps=5 * steps), data, seeds=[0, 1])  # π_ref
    policy = iwbc.fit(iwbc.IWBC(steps=steps), kept, reference=reference)
    for name, policies in {"reference": reference, "iw-BC(Q)": policy}.items():
        print(name, iwbc.evaluate(policies, "Hopper-v5", episodes=20))

    policy.save("hopper.safetensors")
    action, _ = iwbc.load_policy("hopper.safetensors", seed=1).predict(data.observations[0])
    print("action", action)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

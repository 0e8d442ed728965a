"""BC as one jitted JAX scan, as unifloral and JAX-CORL train: 3 × 256, batch 256, Adam, S seeds by vmap.

Run by benchmarks/speed.py with an interpreter that has jax and optax; turns.py says how.
"""

import sys

import jax
import jax.numpy as jnp
import optax
from turns import take_turns

OBS, ACT, HIDDEN, BATCH, STEPS = 11, 3, 256, 256, int(sys.argv[1])


def initial(key):
    sizes = [OBS, HIDDEN, HIDDEN, HIDDEN, ACT]
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        (jax.random.uniform(k, (i, o), minval=-(i**-0.5), maxval=i**-0.5), jnp.zeros(o))
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    return {"layers": layers, "log_std": jnp.zeros(ACT)}


def loss(parameters, observations, actions):
    hidden = observations
    for weight, bias in parameters["layers"][:-1]:
        hidden = jax.nn.relu(hidden @ weight + bias)
    weight, bias = parameters["layers"][-1]
    mean, log_std = jnp.tanh(hidden @ weight + bias), jnp.clip(parameters["log_std"], -5.0, 2.0)
    return (0.5 * ((actions - mean) * jnp.exp(-log_std)) ** 2 + log_std).sum(-1).mean()


def main() -> None:
    adam = optax.adam(1e-3)
    data = jax.random.normal(jax.random.key(1), (100_000, OBS)), jax.random.uniform(jax.random.key(2), (100_000, ACT))

    def step(state, key):
        parameters, moments = state
        rows = jax.random.randint(key, (BATCH,), 0, 100_000)
        gradient = jax.grad(loss)(parameters, data[0][rows], data[1][rows])
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), None

    def run(state, key):
        return jax.lax.scan(step, state, jax.random.split(key, STEPS))[0]

    single, several = jax.jit(run), jax.jit(jax.vmap(run))
    states = {}

    def train(seeds: int) -> None:
        keys = jax.random.split(jax.random.key(0), seeds)
        if seeds not in states:
            parameters = jax.vmap(initial)(keys)
            states[seeds] = (parameters, jax.vmap(adam.init)(parameters))
            if seeds == 1:  # not a batch of one: that is slower
                states[seeds] = jax.tree.map(lambda x: x[0], states[seeds])
        many, keys = (single, keys[0]) if seeds == 1 else (several, keys)
        states[seeds] = jax.block_until_ready(many(states[seeds], keys))

    take_turns(train, "jax", "optax")


if __name__ == "__main__":
    main()

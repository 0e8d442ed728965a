"""The units that networks work in: data of any scale is learnt, the same on every path, and said; a reference has its own."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_info, make_trajectories
from rich.console import Console
from safetensors.torch import save_file
from setups import rarely, seldom, train

import iwbc
from iwbc import engine, export, info
from iwbc.data.streams import seeded
from iwbc.data.trajectories import Trajectories
from iwbc.engine.gaussian import GaussianKernel
from iwbc.errors import DataWarning, UserError
from iwbc.policies.spec import PolicySpec, policy_spec, spaces_of
from iwbc.settings import POLICIES, Reference
from iwbc.system.files import read_tensors
from iwbc.training.trained import Policies, load_policy

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(1000, 3))
U = np.tanh(Z @ RANDOM.normal(size=(3, 2)) * 0.4)  # a nearly linear expert
PLAIN = iwbc.GaussianPolicy(hidden=[32])


def data_of(observations: np.ndarray = Z, actions: np.ndarray = U, bound: Any = 1.0, name: str = "toy/data-v0") -> Trajectories:
    """Episodes of 50 steps."""
    count = len(observations) // 50
    made = make_trajectories([0.0] * count, [50] * count)
    high = np.broadcast_to(np.asarray(bound, float), actions.shape[1:]).tolist()
    low = [-upper for upper in high]
    info = dataclasses.replace(make_info(id=name), action_low=low, action_high=high)
    arrays = {"observations": observations.astype(np.float32), "actions": actions.astype(np.float32)}
    arrays["final_observations"] = arrays["observations"][49::50]
    return dataclasses.replace(made, info=info, **arrays)


def fit(data: Trajectories, policy: Any = PLAIN, steps: int = 250) -> Policies:
    return iwbc.fit(iwbc.BC(steps=steps, lr=3e-3, batch_size=64), data, policy=policy, console=Console(quiet=True))


def error_of(policies: Policies, observations: np.ndarray, actions: np.ndarray) -> float:
    """Beside an error of 1 where nothing is learnt."""
    return float(np.abs(policies.predict(observations)[0] - actions).mean() / np.abs(actions - actions.mean(0)).mean())


# --- learning ------------------------------------------------------------------------------------------------------------

SCALES = {
    "as it comes": (1.0, 0.0),
    "mm": (1e3, 500.0),
    "an offset": (1.0, 500.0),
    "a pressure": (50.0, 1e5),
    "µm": (1e-4, 0.0),
}


@pytest.mark.parametrize("algo", [iwbc.BC, rarely(iwbc.AWR)])
@pytest.mark.parametrize("name", SCALES)
def test_observations_of_any_scale_are_learnt(name: str, algo: Any) -> None:
    scale, offset = SCALES[name]
    observations = scale * Z + offset
    settings = algo(
        steps=250,
        lr=3e-3,
        batch_size=64,
        **({"temperature": 1e3, "value_hidden": [8], "value_steps": 1} if algo is iwbc.AWR else {}),
    )
    policies = iwbc.fit(settings, data_of(observations), policy=PLAIN, console=Console(quiet=True))
    assert error_of(policies, observations, U) < 0.15


def test_one_of_many_entries_may_be_of_another_scale() -> None:
    observations = Z * [1.0, 1e3, 1e-3] + [0.0, -2e3, 0.0]
    policies = fit(data_of(observations))
    assert error_of(policies, observations, U) < 0.15
    assert policies.spec is not None and policies.spec.observation_mean is not None
    assert policies.spec.observation_mean[0] == 0.0


@pytest.mark.parametrize("family", POLICIES)
@pytest.mark.parametrize("kind", ["tanh_mean", "squashed"])
@pytest.mark.parametrize("bound", [rarely(1.0), 1e6, rarely(np.inf)])
def test_actions_within_any_bounds_are_learnt(bound: float, kind: str, family: str) -> None:
    smaller = {"flow": {"couplings": 1, "coupling_hidden": [8]}, "transformer": {"width": 16}}.get(family, {})
    settings = POLICIES[family](hidden=[32], kind=kind, **smaller)
    policies = fit(data_of(bound=bound), settings)
    assert error_of(policies, Z, U) < 0.5  # an LSTM comes to a quarter in so few steps, the others to less than a tenth
    assert policies.spaces.action_high == (bound, bound)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_actions_of_any_scale_are_learnt(scale: float) -> None:
    policies = fit(data_of(actions=scale * U, bound=np.inf))
    assert error_of(policies, Z, scale * U) < 0.2


def test_each_action_has_its_own_range() -> None:
    actions = np.c_[U[:, 0], 1e-3 * U[:, 1], np.full(len(U), 0.25), np.zeros(len(U))]
    policies = fit(data_of(actions=actions, bound=[1.0, 1.0, 1.0, 1e9]))
    errors = np.abs(policies.predict(Z)[0] - actions).mean(0)
    assert (errors < [0.06, 0.06e-3, 0.01, 0.05]).all()


@pytest.mark.parametrize("where", ["observations", "actions"])
def test_values_far_out_are_said_and_spoil_nothing(where: str) -> None:
    observations, actions = Z.copy(), U.copy()
    (observations if where == "observations" else actions)[17, 1] = 9e5
    with pytest.warns(
        DataWarning, match=rf"^dataset toy/data-v0, {where}: some values lie far out, in entry 1 \(1, in .* 9e\+05"
    ):
        policies = fit(data_of(observations, actions, bound=1e6))
    usual = np.arange(len(Z)) != 17
    assert error_of(policies, Z[usual], U[usual]) < 0.15


# --- play ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "noise", "moved", "asked"),
    [
        (0.3, 1e-5, 0.31, True),
        (-20.0, 1e-3, -21.0, "auto"),
        rarely(0.3, 1e-5, 0.31, "auto"),
        rarely(0.3, 1e-5, 30.0, "auto"),
        rarely(0.3, 1e-5, 30.0, True),
        rarely(-20.0, 1e-3, -21.0, True),
        rarely(0.0, 1e-6, 1.0, "auto"),
        rarely(0.0, 1e-6, 1.0, True),
    ],
)
def test_an_entry_that_hardly_varied_does_no_harm_where_it_changes_at_play(
    level: float, noise: float, moved: float, asked: Any
) -> None:
    still = level + noise * RANDOM.normal(size=len(Z))
    policies = fit(data_of(np.c_[Z, still]), dataclasses.replace(PLAIN, normalise_observations=asked), steps=1500)
    at_rest = error_of(policies, np.c_[Z, still], U)
    assert at_rest < 0.15
    if asked is True or level != 0.3:
        assert error_of(policies, np.c_[Z, np.full(len(Z), moved)], U) < 0.3


def test_a_constant_of_training_does_no_harm_either() -> None:
    policies = fit(data_of(np.c_[Z, np.full(len(Z), 500.0)]))
    assert error_of(policies, np.c_[Z, np.full(len(Z), 505.0)], U) < 0.2
    assert np.abs(policies.predict(np.c_[Z, np.full(len(Z), 1e30)])[0]).max() <= 1.0


def test_actions_are_clipped_to_the_bounds_and_not_to_the_units() -> None:
    data = data_of(bound=20.0)
    policies = fit(data, steps=5)
    policies[0].log_std.data.fill_(2.0)
    drawn = policies.predict(np.tile(Z, (5, 1)), deterministic=False)[0]
    assert 2.0 < np.abs(drawn).max() < 20.0 + 1e-6
    policies = fit(data_of(bound=np.inf), steps=5)
    policies[0].log_std.data.fill_(2.0)
    assert np.abs(policies.predict(np.tile(Z, (5, 1)), deterministic=False)[0]).max() > 2.0


# --- every path gives the same ---------------------------------------------------------------------------------------------


def odd_data() -> Trajectories:
    """Two observations of three are standardised, one with a value far out; three actions of three are scaled."""
    observations, actions = Z * [1.0, 1e3, 1.0] + [0.0, 500.0, 0.0], np.c_[U, np.full(len(U), 3.0)]
    observations[3, 2], actions[3, 0] = 1e6, 1e5
    return data_of(observations, actions, bound=[1e6, np.inf, 1e3])


def odd_spec(**settings: Any) -> PolicySpec:
    family = settings.pop("family", "gaussian")
    with pytest.warns(DataWarning):
        spec = policy_spec(POLICIES[family](**({"hidden": [16]} | settings)), odd_data())
    assert spec.observation_limits is not None and spec.action_range is not None
    return spec


def made(spec: PolicySpec, seed: int = 0) -> Any:
    with seeded(seed):
        return spec.make()


KINDS = [(kind, std) for kind in ("tanh_mean", "squashed") for std in ("global", "state")]


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_the_engine_has_the_units_of_the_policy(kind: str, std: str) -> None:
    policy, data = made(odd_spec(kind=kind, std=std)), odd_data()
    observations, actions = (tensor[:64] for tensor in data.tensors())
    weights = torch.rand(64, generator=torch.Generator().manual_seed(0))
    kernel = GaussianKernel(policy)
    log_prob, vjp = kernel.log_prob_and_vjp(observations, actions)
    expected = policy.log_prob(observations, actions)
    torch.testing.assert_close(log_prob, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kernel.mean_action(observations), policy.mean_action(observations).detach())
    (weights * expected).mean().backward()
    by_pointer = {parameter.data_ptr(): parameter for parameter in policy.parameters()}
    for parameter, gradient in zip(kernel.parameters, vjp(weights), strict=True):
        torch.testing.assert_close(gradient, by_pointer[parameter.data_ptr()].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
def test_training_with_the_engine_and_without_it_gives_the_same() -> None:
    outputs = []
    for on in (True, False):
        with engine.switched(on):
            outputs.append(fit(odd_data(), steps=30).predict(odd_data().observations)[0])
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-3)


# An ONNX file takes seconds: every run of the tests has one, `make test-all` one of each family.
EXPORTED = [(action, kind, family) for family in POLICIES for kind in ("onnx", "torchscript") for action in ("mean", "sample")]
ONE_OF_ONNX = ("sample", "onnx", "gaussian")
OF_EACH_FAMILY = (("sample", "onnx", "mixture"), ("mean", "onnx", "flow"))


@pytest.mark.parametrize(
    ("action", "kind", "family"),
    [
        case if "onnx" not in case or case == ONE_OF_ONNX else rarely(*case) if case in OF_EACH_FAMILY else seldom(*case)
        for case in EXPORTED
    ],
)
def test_a_saved_and_an_exported_policy_have_the_units(action: str, kind: str, family: str, tmp_path: Path) -> None:
    spec = odd_spec(family=family)
    policies = Policies([made(spec)], (0,), spec.spaces, spec)
    policies.save(tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert (loaded.spec, loaded.spaces) == (spec, spec.spaces)
    observations = np.r_[odd_data().observations[:6], [[1e9, -1e9, 1e9], [0.0, 0.0, 0.0]]].astype(np.float32)
    noise = policies[0].noise(len(observations), torch.Generator().manual_seed(3)) if action == "sample" else ()
    if action == "mean":
        expected = policies.predict(observations)[0]
        np.testing.assert_array_equal(loaded.predict(observations)[0], expected)
    else:
        expected = policies[0].sample_from(torch.from_numpy(observations), *noise).detach().numpy()
        expected = np.clip(expected, spec.spaces.action_low, spec.spaces.action_high)
    path, inputs = tmp_path / "exported", [observations, *(tensor.numpy() for tensor in noise)]
    if policies[0].sequence > 1:  # each is the first of its sequence
        sequences = np.repeat(observations[:, None], policies[0].sequence, axis=1)
        inputs[:1] = [sequences, np.zeros(len(observations), np.int64)]
    if kind == "torchscript":
        export.write_torchscript(policies, path, action, {})
        output = torch.jit.load(str(path))(*map(torch.from_numpy, inputs)).numpy()
    else:
        runtime = pytest.importorskip("onnxruntime")
        export.write_onnx(policies, path, action, {})
        session = runtime.InferenceSession(str(path))
        (output,) = session.run(None, dict(zip([entry.name for entry in session.get_inputs()], inputs, strict=True)))
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


def test_policies_of_format_2_are_read(tmp_path: Path) -> None:
    spec = odd_spec(normalise_observations=True)
    policies = Policies([made(spec)], (0,), spec.spaces, spec)
    policies.save(tmp_path / "policy.safetensors")
    tensors, metadata = read_tensors(tmp_path / "policy.safetensors")
    fields = json.loads(metadata["policy"]) | {"format": 2}
    for spaces in (fields["spaces"], fields["spec"]["spaces"]):
        spaces |= {"action_low": [-1.0, -2.0, 2.0], "action_high": [1.0, 2.0, 4.0]}
        spaces["observation_parts"] = [["a/b", [2]], ["c", [1]]]
    del fields["spec"]["observation_limits"], fields["spec"]["action_range"]
    fields["spec"]["settings"]["precision"] = "bfloat16"
    save_file(tensors, tmp_path / "old.safetensors", metadata={"policy": json.dumps(fields)})
    old = load_policy(tmp_path / "old.safetensors")
    assert old.spec is not None and old.spec.units_range == ((-1.0, -2.0, 2.0), (1.0, 2.0, 4.0))
    mean, std = np.array(old.spec.observation_mean), np.array(old.spec.observation_std)
    torch.testing.assert_close(old[0].units.observations(torch.ones(1, 3)), torch.from_numpy((1 - mean) / std).float()[None])
    np.testing.assert_array_equal(old.predict({"a": {"b": Z[0, :2]}, "c": Z[0, 2:]})[0], old.predict(Z[0])[0])


@pytest.mark.parametrize(
    "damage",
    [
        {"observation_mean": [0.0]},
        {"observation_std": [0.0, 1.0, 1.0]},
        {"observation_std": None},
        {"observation_std": [1.0, float("nan"), 1.0]},
        {"observation_limits": [[0.0], [1.0]]},
        {"observation_limits": [[0.0] * 3]},
        {"action_range": [[0.0] * 3, [0.0] * 3]},
        {"action_range": [[0.0] * 3, [float("inf")] * 3]},
        {"action_range": None},
        {"action_range": [[0.0], [1.0]]},
    ],
    ids=str,
)
def test_damaged_units_are_one_line(damage: dict[str, Any], tmp_path: Path) -> None:
    spec = odd_spec(normalise_observations=True)
    Policies([made(spec)], (0,), spec.spaces, spec).save(tmp_path / "policy.safetensors")
    tensors, metadata = read_tensors(tmp_path / "policy.safetensors")
    fields = json.loads(metadata["policy"])
    fields["spec"] |= damage
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"policy": json.dumps(fields)})
    with pytest.raises(UserError, match=r"bad\.safetensors: cannot be read") as caught:
        load_policy(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)


# --- a reference of other data ---------------------------------------------------------------------------------------------


def tune(reference: Policies, data: Trajectories, steps: int = 250) -> Policies:
    curated = iwbc.curate(data, iwbc.TopFraction(1.0))
    settings = iwbc.FilteredBC(steps=steps, lr=3e-3, warmup_steps=0, batch_size=64)
    return iwbc.fit(settings, curated, reference=reference, console=Console(quiet=True))


OTHERS: dict[str, tuple[Trajectories, Trajectories, str]] = {
    "wider actions": (
        data_of(bound=np.inf),
        data_of(actions=5 * U, bound=np.inf, name="toy/wide-v0"),
        r"action 0 is -\S+ … \S+ in its units, -4\S+ … 4\S+ in dataset toy/wide-v0; train the reference on data in the same u",
    ),
    "one wider action": (
        data_of(bound=np.inf),
        data_of(actions=U * [1, 2], bound=np.inf),
        "action 1 is .* in its units, .* in dataset toy/data-v0",
    ),
    "shifted actions": (data_of(bound=np.inf), data_of(actions=U + 10, bound=np.inf), "action 0 is"),
    "actions in bounds, then not": (data_of(), data_of(actions=5 * U, bound=np.inf), "action 0 is -1 … 1 in its units, -4"),
    "narrower actions": (
        data_of(actions=100 * U, bound=np.inf),
        data_of(bound=np.inf),
        r"action 0 is -\d\d.* in its units, -0\.\d",
    ),
    "observations in mm": (data_of(), data_of(1000 * Z + 500), r"observation 0 is 0 ± 1 in its units, \d\d\d ± .* in dataset"),
    "observations in m": (data_of(1000 * Z + 500), data_of(Z), r"observation 0 is \d\d\d ± .* in its units, .* in dataset"),
    "observations in degrees": (data_of(100 * Z + 90), data_of((100 * Z + 90) / 57.3), "observation 0 is"),
    "an offset": (data_of(1000 * Z), data_of(1000 * Z + [0, 9000, 0]), "observation 1 is .* in its units, 9"),
    "another size": (data_of(), data_of(Z[:, :2]), "has 3 observations and 2 actions, dataset toy/data-v0 has 2 and 2"),
    "other actions": (
        data_of(),
        data_of(actions=U[:, :1]),
        "has 3 observations and 2 actions, dataset toy/data-v0 has 3 and 1",
    ),
}


@pytest.mark.parametrize("algo", [iwbc.FilteredBC, iwbc.IWBC, iwbc.RWR])
@pytest.mark.parametrize("name", OTHERS)
def test_a_reference_in_other_units_is_refused_in_a_line_that_says_both(name: str, algo: Any) -> None:
    first, second, message = OTHERS[name]
    reference = fit(first, steps=2)
    with pytest.raises(UserError, match=f"^reference: {message}") as caught:
        iwbc.fit(algo(steps=2), second, reference=reference, console=Console(quiet=True))
    assert "\n" not in str(caught.value)


def test_a_reference_of_other_parts_is_refused() -> None:
    parts = [[iwbc.environments.spaces.Part((key,), (3,))] for key in ("state", "goal")]
    first, second = (
        dataclasses.replace(data_of(), info=dataclasses.replace(data_of().info, observation_parts=p)) for p in parts
    )
    with pytest.raises(UserError, match=r"made of state of 3; those of dataset .*, of goal of 3"):
        tune(fit(first, steps=2), second, 2)
    assert tune(fit(first, steps=2), data_of(), 2).spaces.observation_parts == tuple(parts[0])


ALIKE: dict[str, tuple[Trajectories, Trajectories, np.ndarray, np.ndarray]] = {
    "a part of it": (data_of(bound=np.inf), data_of(Z[:500], U[:500], np.inf), Z[:500], U[:500]),
    "a little wider": (data_of(bound=np.inf), data_of(actions=1.05 * U, bound=np.inf), Z, 1.05 * U),
    "narrower": (data_of(actions=5 * U, bound=np.inf), data_of(bound=np.inf), Z, U),
    "other bounds": (data_of(bound=1.0), data_of(bound=2.0), Z, U),
    "no bounds": (data_of(bound=1.0), data_of(bound=np.inf), Z, U),
    "a still joint": (
        data_of(Z * [1, 1, 900]),
        data_of(np.c_[Z[:, :2], np.full(1000, 3.0)]),
        np.c_[Z[:, :2], np.full(1000, 3.0)],
        U,
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_reference_in_units_that_hold_the_data_is_gone_on_from(name: str) -> None:
    first, second, observations, actions = ALIKE[name]
    if name == "a still joint":  # of which the actions cannot depend
        actions = np.tanh(observations[:, :2] @ np.array([[0.3, -0.2], [0.1, 0.4]]))
        second = data_of(observations, actions)
    policies = tune(fit(first), second)
    assert error_of(policies, observations, actions) < 0.3
    assert policies.spaces == spaces_of(second)
    assert policies.spec is not None and policies.spec.spaces == policies.spaces


def test_entries_that_hardly_vary_in_a_reference_s_units_are_reported() -> None:
    reference = fit(data_of(Z * [1, 1, 900]), steps=2)
    with pytest.warns(
        DataWarning, match=r"hardly varies in the reference's units, in observation 2 \(.* where it is .* ± 9\d\d\)"
    ):
        tune(reference, data_of(Z), 2)


def test_a_reference_that_was_told_to_take_observations_as_they_come_does() -> None:
    told = dataclasses.replace(PLAIN, normalise_observations=False)
    reference = fit(data_of(1000 * Z), told, steps=2)
    assert tune(reference, data_of(1000 * Z), 2).spec == reference.spec


def test_a_policy_saved_after_a_reference_of_other_bounds_acts_the_same(tmp_path: Path) -> None:
    policies = tune(fit(data_of(bound=1.0), steps=20), data_of(bound=np.inf), 20)
    policies.save(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(load_policy(tmp_path / "policy.safetensors").predict(Z)[0], policies.predict(Z)[0])


def test_the_reference_of_a_run_has_the_units_of_what_is_trained_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iwbc.training.reference import reference_policy

    monkeypatch.setenv("IWBC_CACHE", str(tmp_path))
    first, second = data_of(bound=np.inf), data_of(actions=1.5 * U, bound=np.inf)
    spec = policy_spec(PLAIN, second, first)
    reference = reference_policy(first, spec, Reference(steps=5), [0], "cpu", Console(quiet=True))
    assert reference.spec == spec
    assert tune(reference, second, 2).spec == spec
    assert len(list((tmp_path / "references").glob("*.safetensors"))) == 1
    alone = reference_policy(first, PLAIN, Reference(steps=5), [0], "cpu", Console(quiet=True))
    assert alone.spec == policy_spec(PLAIN, first) != spec


# --- what is said ------------------------------------------------------------------------------------------------------------


def test_the_units_are_said_in_a_line_each() -> None:
    wide = data_of(np.tile(Z, (1, 7))[:, :20] * 1000 + 500, bound=[10.0, 1.0])
    first, second = policy_spec(PLAIN, wide).said()
    assert first.startswith("observations far from 0 ± 1 are standardised, 20 of 20: 0 (")
    assert first.endswith("and 14 more") and len(re.findall(r" ± \d", first)) == 1 + 6
    assert second.startswith("actions whose bounds are far beyond the data are scaled to its range, 1 of 2: 0 (-0.")
    assert second.endswith("within -10 … 10)")
    assert policy_spec(PLAIN, data_of()).said() == []
    assert policy_spec(dataclasses.replace(PLAIN, normalise_observations=True), data_of(1000 * Z)).said() == []


def test_info_says_them() -> None:
    console = Console(width=200, record=True, quiet=False)
    info.show(data_of(1000 * Z + 500, bound=[1e6, 1.0]), {}, console)
    text = console.export_text()
    assert re.search(r"units +observations far from 0 ± 1 are standardised, 3 of 3: 0 \(\d\d\d ± ", text)
    assert "actions whose bounds are far beyond the data" in text
    console = Console(width=200, record=True, quiet=False)
    info.show(data_of(), {}, console)
    assert "units" not in console.export_text()


@pytest.mark.parametrize(("setting", "says"), [([], True), (["policy.normalise_observations=false"], False)])
def test_a_run_says_them_first(setting: list[str], says: bool, datasets: Path, tmp_path: Path) -> None:
    ends = np.arange(len(Z)) % 50 == 49
    iwbc.from_arrays(1000 * Z + 500, U, np.zeros(len(Z)), 0 * ends, ends, id="mine/mm-v0", action_low=-100.0, action_high=100.0)
    settings = [
        "dataset=minari",
        "dataset.id=mine/mm-v0",
        "env=from_dataset",
        "policy.hidden=[8]",
        "algo=bc",
        "curation=all",
        "algo.steps=2",
    ]
    outcome = train(*settings, *setting, "threads=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert ("Units: observations far from 0 ± 1 are standardised, 3 of 3" in lines[1]) == says
    assert any(line.startswith("Units: actions whose bounds are far beyond the data") for line in lines[1:3])
    spec = load_policy(tmp_path / "run" / "policy.safetensors").spec
    assert spec is not None and (spec.observation_mean is not None) == says


def test_a_reference_of_another_dataset_has_units_for_both(datasets: Path, tmp_path: Path) -> None:
    ends = np.arange(len(Z)) % 50 == 49
    for name, scale, unit in (("small", 1.0, 1.0), ("large", 5.0, 1.0), ("mm", 1.0, 1000.0)):
        arrays = unit * Z + 500 * (unit - 1), scale * U, np.arange(len(Z)) / len(Z), 0 * ends, ends
        iwbc.from_arrays(*arrays, id=f"mine/{name}-v0", action_low=-np.inf, action_high=np.inf)
    settings = ["dataset=minari", "env=from_dataset", "policy.hidden=[8]", "algo=filtered_bc", "algo.steps=2", "threads=1"]
    settings += ["reference.steps=2", "reference.dataset_id=mine/small-v0"]
    outcome = train(*settings, "dataset.id=mine/large-v0", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    spec = load_policy(tmp_path / "run" / "policy.safetensors").spec
    assert spec is not None and spec.units_range[1][0] > 4.0
    refused = train(*settings, "dataset.id=mine/mm-v0", f"hydra.run.dir={tmp_path / 'no'}")
    assert refused.code == 2
    assert refused.err.count("\n") == 1 and refused.err.startswith("reference: observation 0 is "), refused.err
    assert not (tmp_path / "no").exists()

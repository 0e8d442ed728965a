"""curation=auto: what is tried, what is held out, the rule, the trials, and runs that are curated so."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_info, make_trajectories
from rich.console import Console
from setups import BRIEF, compose, train

import iwbc
from iwbc import settings
from iwbc.data.choice import Choice, among, best_of, candidates_of, effective_number, foregone, values_of, words
from iwbc.data.packed import open_packed, pack
from iwbc.data.trajectories import Episode, Trajectories
from iwbc.errors import DataWarning, UserError
from iwbc.export_data import main as export_data
from iwbc.info import main as info
from iwbc.runs import pipeline
from iwbc.runs.read import read_choice
from iwbc.training import trials
from iwbc.training.checkpoints import Checkpoints
from iwbc.training.trained import Policies
from iwbc.training.trainer import Trainer
from iwbc.verify import verify

QUIET = Console(file=io.StringIO())
QUICK = settings.FilteredBC(steps=300, lr=1e-3, warmup_steps=0)


def dataset(
    folder: Path, n: int = 60, good: int = 20, labels: bool = False, equal: bool = False, groups: tuple[str, ...] = ()
) -> Trajectories:
    """Trajectories of five steps in one dimension: the last `good` play 0.5 and have returns from 1 up, the others play
    −0.5 and have returns below 0."""
    random = np.random.default_rng(0)

    def episode(i: int) -> Episode:
        is_good = i >= n - good
        rewards = np.zeros(5)
        rewards[-1] = 1.0 if equal else (1.0 + i / n if is_good else -1.0 - i / n)
        actions = (0.5 if is_good else -0.5) + 0.05 * random.standard_normal((5, 1))
        observations = random.standard_normal((6, 1))
        mine = () if not groups else (groups[0 if is_good else 1],)
        return Episode(observations[:-1], observations[-1], actions, rewards, True, is_good if labels else None, mine)

    info = dataclasses.replace(make_info(1), groups=list(groups))
    pack([episode(i) for i in range(n)], info, folder / "cache", "f")
    return open_packed(folder / "cache")


# --- the rule --------------------------------------------------------------------------------------------------------


def test_the_broadest_within_one_standard_error_is_chosen() -> None:
    # Behind the first: 0.1 each (no error), then 0, 0.2 (0.1 ± 0.1), then 0.9 ± 0.1.
    log_probs = np.array([[1.0, 2.0], [0.9, 1.9], [1.0, 1.8], [0.2, 1.0]])
    candidates = [settings.TopFraction(fraction=share) for share in (0.1, 0.2, 0.5)] + [settings.All()]
    choice = among(candidates, [10.0, 20.0, 50.0, 100.0], log_probs)
    assert choice.curation == candidates[2]
    assert [trial.behind for trial in choice.trials] == pytest.approx([0.0, 0.1, 0.1, 0.9])
    assert [trial.error for trial in choice.trials] == pytest.approx([0.0, 0.0, 0.1, 0.1])
    assert [trial.log_prob for trial in choice.trials] == pytest.approx([1.5, 1.4, 1.4, 0.6])


def test_of_two_as_broad_to_two_digits_the_first_is_chosen() -> None:
    candidates = [settings.Success(), settings.ReturnWeighted(temperature=0.5)]
    assert among(candidates, [1500.0, 1509.8], np.zeros((2, 3))).curation == candidates[0]


def test_what_has_diverged_is_not_chosen() -> None:
    candidates = [settings.All(), settings.TopFraction(fraction=0.1)]
    choice = among(candidates, [10.0, 1.0], np.array([[5.0, np.nan], [0.0, 0.0]]))
    assert choice.curation == candidates[1]
    assert len(choice.trials) == 1
    with pytest.raises(UserError, match="every trial has diverged"):
        among(candidates, [10.0, 1.0], np.full((2, 2), np.nan))


def test_the_effective_number() -> None:
    assert effective_number(np.array([1.0, 1.0, 0.0, 2.0])) == pytest.approx(16.0 / 6.0)


# --- what is held out and tried --------------------------------------------------------------------------------------


def test_the_best_are_held_out(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    best = best_of(values_of(settings.Auto(), data), data)
    assert best.tolist() == [59, 58, 57, 56, 55, 54, 53, 52]


def test_only_successes_are_held_out_and_equals_at_random(tmp_path: Path) -> None:
    data = dataset(tmp_path, labels=True, equal=True)
    best = best_of(values_of(settings.Auto(), data), data)
    assert len(set(best.tolist())) == 8
    assert best.min() >= 40
    assert best.tolist() != sorted(best.tolist(), reverse=True)
    assert best.tolist() == best_of(values_of(settings.Auto(), data), data).tolist()


def test_too_few_good_trajectories_are_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path, good=15, labels=True)
    with pytest.raises(UserError, match="holds out the best 8 of at least 16 good trajectories, and there are 15"):
        best_of(values_of(settings.Auto(), data), data)


def named(auto: settings.Auto, data: Trajectories) -> list[str]:
    values = values_of(auto, data)
    return [words(candidate) for candidate in candidates_of(auto, data, values, best_of(values, data))]


FRACTIONS = ["top 1 %", "top 2 %", "top 5 %", "top 10 %", "top 20 %", "top 50 %"]
OTHERS = ["quality levels", "return-weighted, temperature 0.25", "return-weighted, temperature 0.5"]


def test_fractions_levels_and_weights_are_tried(tmp_path: Path) -> None:
    assert named(settings.Auto(), dataset(tmp_path)) == ["all", *FRACTIONS, *OTHERS]


def test_groups_are_tried_where_the_data_have_them(tmp_path: Path) -> None:
    # All returns are equal.
    data = dataset(tmp_path, equal=True, groups=("better", "worse"))
    assert named(settings.Auto(), data) == ["all", "group better", "group worse"]


def test_nothing_that_keeps_a_failure_is_tried_where_labels_tell(tmp_path: Path) -> None:
    """Return weights keep some of each failure, the best half more than the third that succeeds."""
    data = dataset(tmp_path, labels=True, groups=("better", "worse"))
    # Success and better are the same here.
    assert named(settings.Auto(), data) == ["success", *FRACTIONS[:-1], "quality levels"]


def test_a_file_of_scores_ranks(tmp_path: Path) -> None:
    data = dataset(tmp_path, equal=True)
    (tmp_path / "scores.csv").write_text("trajectory,score\n" + "".join(f"{i},{-i}\n" for i in range(60)))
    auto = settings.Auto(path=str(tmp_path / "scores.csv"))
    assert best_of(values_of(auto, data), data).tolist() == list(range(8))
    assert named(auto, data)[0] == "all"
    assert "top 10 % by scores" in named(auto, data)


# --- the trials ------------------------------------------------------------------------------------------------------


def reference_of(data: Trajectories) -> Policies:
    return iwbc.fit(iwbc.BC(steps=200), data, policy=iwbc.GaussianPolicy(hidden=[16]), console=QUIET)


def choose(data: Trajectories, auto: settings.Auto | None = None) -> Choice:
    return iwbc.choose_curation(data, reference_of(data), auto, algo=QUICK, console=QUIET)


def test_what_is_like_the_best_is_chosen(tmp_path: Path) -> None:
    """A third of the trajectories act as the best do: 50 % and all are too broad, and of the others 20 % is the broadest."""
    choice = choose(dataset(tmp_path))
    by_words = {trial.words: trial for trial in choice.trials}
    assert by_words["top 20 %"].log_prob > by_words["top 50 %"].log_prob + 0.1 > by_words["all"].log_prob
    assert choice.words in ("top 20 %", *OTHERS)


def test_a_choice_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path)
    choice = choose(data)
    monkeypatch.setattr(trials, "_train", None)
    assert choose(data) == choice
    with pytest.raises(TypeError):  # other inputs, another choice
        choose(data, settings.Auto(rank_by="smoothness"))


@pytest.mark.robustness
def test_another_content_of_a_file_of_scores_is_another_question(tmp_path: Path) -> None:
    data, scores = dataset(tmp_path, equal=True), tmp_path / "scores.csv"
    choices = []
    for sign in (1, -1):
        scores.write_text("trajectory,score\n" + "".join(f"{i},{sign * i}\n" for i in range(60)))
        choices.append(choose(data, settings.Auto(path=str(scores))))
    held = [choice.curation.sha256 for choice in choices if isinstance(choice.curation, settings.TrajectoryScores)]
    assert choices[0].trials[1].log_prob != choices[1].trials[1].log_prob
    assert len(set(held)) == len(held)


def test_other_names_of_groups_are_another_question(tmp_path: Path) -> None:
    data = dataset(tmp_path, equal=True, groups=("better", "worse"))
    renamed = dataclasses.replace(data, info=dataclasses.replace(data.info, groups=["careful", "hasty"]))
    for each in (data, renamed):
        names = [trial.curation.keep for trial in choose(each).trials if isinstance(trial.curation, settings.Groups)]
        assert names == [[name] for name in each.info.groups]


def test_where_every_trial_diverges_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path)
    reference = reference_of(data)
    monkeypatch.setattr(Trainer, "troubles", lambda trainer: dict.fromkeys(trainer.seeds, "loss is nan"))
    with pytest.raises(UserError, match="curation=auto: every trial has diverged; try a smaller learning rate"):
        iwbc.choose_curation(data, reference, algo=settings.FilteredBC(steps=301), console=QUIET)


@pytest.mark.robustness
def test_trials_go_on_without_those_that_have_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def choose_here(cache: str) -> Choice:
        monkeypatch.setenv("IWBC_CACHE", str(tmp_path / cache))
        return iwbc.choose_curation(data, reference, algo=QUICK, console=Console(), checkpoint_every=100)

    data = dataset(tmp_path)
    reference = reference_of(data)
    monkeypatch.setattr(Trainer, "troubles", lambda trainer: {3: "loss is nan"} if 3 in trainer.seeds else {})
    whole = choose_here("whole")
    after = Checkpoints.after

    def stopped(self: Checkpoints, step: int, *others: Any) -> None:
        after(self, step, *others)
        if step == 200:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "after", stopped)
        choose_here("parts")
    capsys.readouterr()
    assert choose_here("parts") == whole
    assert "Continuing the trials of curations after step 200" in capsys.readouterr().out


def test_one_process_makes_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that ask the same wait at the lock, which is gone when the choice is there."""
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    locks: list[int] = []
    train_all = trials._train

    def spy(*arguments: object) -> object:
        locks.append(len(list((tmp_path / "cache" / "curations").glob("*.lock"))))
        return train_all(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trials, "_train", spy)
    choose(dataset(tmp_path))
    assert locks == [1]
    assert [path.suffix for path in (tmp_path / "cache" / "curations").iterdir()] == [".json"]


def test_where_all_are_equal_all_are_kept_and_it_is_said(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="keeps all trajectories; they are equally good by what it ranks by"):
        assert choose(dataset(tmp_path, equal=True)) == Choice(settings.All())


def test_where_all_successes_are_equal_they_are_kept_without_a_trial(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="keeps the successes; they are equally good by what it ranks by"):
        assert choose(dataset(tmp_path, equal=True, labels=True)) == Choice(settings.Success())


@pytest.mark.parametrize("labels", [None, [True] * 40, [True] * 20 + [False] * 20])
@pytest.mark.parametrize("rank_by", ["return", "discounted_return"])
def test_where_returns_differ_by_rounding_alone_no_trial_is_made(rank_by: Any, labels: list[bool] | None) -> None:
    """Sums of 0.7 in float32, of which some have large rewards that cancel, and so lose more."""
    data = make_trajectories([0.7] * 40, successes=labels)
    rewards = np.zeros((40, 4))
    rewards[:, :2] = np.array([[0.7, 0.0], [0.1, 0.6], [0.35, 0.35], [10.0, -9.3]] * 10)
    if labels is not None:
        rewards[~np.array(labels)] -= 1.0
    data = dataclasses.replace(data, rewards=rewards.astype(np.float32).ravel())
    assert np.ptp(data.returns[:20]) > 0
    with pytest.warns(DataWarning, match="they are equally good by what it ranks by"):
        choice = foregone(settings.Auto(rank_by=rank_by, discount=1.0), data)
    assert choice == Choice(settings.Success() if labels is not None and not all(labels) else settings.All())


def test_where_every_sharper_choice_keeps_a_failure_the_successes_are_kept(tmp_path: Path) -> None:
    graded = make_trajectories([float(i) for i in range(40)], successes=[True, False] * 20)
    with pytest.warns(DataWarning, match="keeps the successes; what ranks higher holds failures, too"):
        assert foregone(settings.Auto(), graded) == Choice(settings.Success())
    sorted_out = make_trajectories([float(i) for i in range(40)], successes=[False] * 20 + [True] * 20)
    assert foregone(settings.Auto(), sorted_out) is None


def test_a_choice_is_plain_data(tmp_path: Path) -> None:
    choice = choose(dataset(tmp_path))
    assert Choice.of_plain(json.loads(json.dumps(choice.to_plain()))) == choice


@pytest.mark.parametrize(("reference", "auto"), [(None, None), ([], None), ("trained", "length")])
def test_wrong_arguments_are_refused(reference: object, auto: object, tmp_path: Path) -> None:
    data = dataset(tmp_path)
    if reference == "trained":
        reference = iwbc.fit(iwbc.BC(steps=2), data, policy=iwbc.GaussianPolicy(hidden=[16]), console=QUIET)
    with pytest.raises(UserError, match="needs trajectories, the reference policies that fit returns, and Auto"):
        iwbc.choose_curation(data, reference, auto)  # type: ignore[arg-type]


def test_too_few_trajectories_are_refused_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "reference_policy", None)
    with pytest.raises(UserError, match="holds out the best 8 of at least 16 good trajectories, and there are 12"):
        pipeline.chosen(compose("env=hopper", "curation=auto"), dataset(tmp_path, n=12, good=4), QUIET)


def test_curate_says_who_chooses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trials choose it, iwbc\.choose_curation in Python"):
        iwbc.curate(dataset(tmp_path), iwbc.Auto())


@pytest.mark.robustness
def test_interrupted_trials_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path)
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "whole"))
    whole = choose(data)
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "interrupted"))
    reference = reference_of(data)
    after = trials.Checkpoints.after

    def stop_at_200(self: trials.Checkpoints, step: int, *arguments: object) -> None:
        if step == 200:
            self.stop.set()
        after(self, step, *arguments)  # type: ignore[arg-type]

    options = {"algo": QUICK, "console": QUIET, "checkpoint_every": 100}
    with monkeypatch.context() as patch:
        patch.setattr(trials.Checkpoints, "after", stop_at_200)
        with pytest.raises(KeyboardInterrupt):
            iwbc.choose_curation(data, reference, **options)
    printed = io.StringIO()
    options["console"] = Console(file=printed)
    assert iwbc.choose_curation(data, reference, **options) == whole
    assert "Continuing the trials of curations after step 200" in " ".join(printed.getvalue().split())
    assert not list((tmp_path / "interrupted" / "curations").glob("*.checkpoint"))


# --- runs ------------------------------------------------------------------------------------------------------------

ARGUMENTS = (*BRIEF, "curation=auto", "algo=filtered_bc")


def test_a_run_chooses_once_and_says_it_everywhere(
    tmp_path: Path, hopper: Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    outcome = train(*ARGUMENTS, f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    choice = read_choice(folder)
    assert choice is not None
    assert f"auto chose {choice.words}, which keeps" in " ".join(outcome.out.split())
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["curation"], summary["chosen"], summary["method"]) == ("auto", choice.words, "filtered BC(auto)")
    assert "Trials of curations" in (folder / "run.html").read_text()
    assert all(check.same is not False for check in verify(folder))
    # Other seeds choose the same, from the cache.
    monkeypatch.setattr(trials, "_train", None)
    other = train(*ARGUMENTS, "seed=3", f"hydra.run.dir={tmp_path / 'other'}")
    assert other.code == 0, other.err
    assert read_choice(tmp_path / "other") == choice
    # What a run without a checkpoint has chosen may have been for other data.
    (tmp_path / "other" / "summary.json").unlink()
    (tmp_path / "other" / "choice.json").write_text("{}")
    other = train(*ARGUMENTS, "seed=3", f"hydra.run.dir={tmp_path / 'other'}")
    assert other.code == 0, other.err
    assert read_choice(tmp_path / "other") == choice
    (folder / "choice.json").write_text("{}")
    with pytest.raises(UserError, match=r"choice\.json: damaged"):
        read_choice(folder)


def test_held_out_trajectories_are_not_chosen_by(tmp_path: Path, hopper: Trajectories, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chosen = trials.choose_curation

    def spy(data: Trajectories, *arguments: object, **options: object) -> Choice:
        seen.append(len(data))
        return chosen(data, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("iwbc.runs.pipeline.choose_curation", spy)
    outcome = train(*ARGUMENTS, "held_out=0.25", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert seen == [len(hopper) - round(0.25 * len(hopper))]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["curation.path=a.csv", "curation.rank_by=length"], "ranks by the file's scores"),
        (["curation.path=a.csv", "held_out=0.5"], "needs held_out=0"),
        (["curation.path=nowhere.csv"], "nowhere.csv"),
        (["curation.fraction=0.1"], "fraction"),
    ],
)
def test_bad_settings_are_refused_in_one_line(words: list[str], says: str, tmp_path: Path, hopper: Trajectories) -> None:
    outcome = train(*ARGUMENTS, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code != 0
    assert says in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_dataset_is_looked_at_and_exported_by_a_choice(
    tmp_path: Path, hopper: Trajectories, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [
        "env=hopper",
        *(word for word in BRIEF if word.startswith(("dataset", "policy", "reference", "algo"))),
        "curation=auto",
    ]
    info(source)
    text = capsys.readouterr().out
    assert "Trials of curations" in text
    export_data([*source, "format=list", f"out={tmp_path / 'list.csv'}"])
    assert "curation=auto chose" in capsys.readouterr().out
    assert (tmp_path / "list.csv").exists()

"""The verdict on methods: a sentence and a table, from scores by seed, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import t as student

from iwbc.report.verdict import Contender, Measure, sentence, verdict_table

SCORE = Measure("score")


def contender(name: str, scores: Sequence[float], curation: str = "success: 76 of 100", first: int = 0) -> Contender:
    return Contender(name, f"algo={name.lower()}", curation, dict(enumerate(scores, first)), 12.0)


FILTERED, WEIGHTED = contender("FILTERED", [70, 74, 78, 82]), contender("WEIGHTED", [86, 90, 96, 96])


def test_a_clear_winner_is_named_with_its_lead() -> None:
    # Differences 16, 16, 18, 14: mean 16, standard error √(8/3)/2 = 0.816, times t(0.975; 3) = 3.182.
    assert sentence([FILTERED, WEIGHTED], SCORE) == (
        "WEIGHTED 92.0 ± 4.9 against FILTERED 76.0 ± 5.2 on 4 seeds: +16.0 [+13.4, +18.6] of pairs, P(better) 1.00; use "
        "algo=weighted."
    )


def test_what_cannot_be_told_apart_names_the_simplest_and_what_could_have_been_seen() -> None:
    # Differences 10, −5, 4: mean 3, standard error √57/√3 = 4.36, times t(0.975; 2) = 4.303; and 4.303 + 1.061 of it.
    # Of nine pairs of seeds five are won and one is a tie.
    pair = [contender("FILTERED", [70, 80, 90]), contender("WEIGHTED", [80, 75, 94])]
    assert sentence(pair, SCORE) == (
        "No measurable difference: WEIGHTED 83.0 ± 9.8 against FILTERED 80.0 ± 10.0 on 3 seeds: +3.0 [-15.8, +21.8] of pairs, "
        "P(better) 0.61; 3 seeds would have shown a difference of 23.4; the simplest is FILTERED; use algo=filtered."
    )
    # Also where the simplest is the best.
    assert "+3.0 [-15.8, +21.8]" in (said := sentence([pair[1], pair[0]], SCORE))
    assert said.endswith("the simplest is WEIGHTED; use algo=weighted.")


def test_the_same_scores_are_a_tie_without_a_margin() -> None:
    tie = [contender(name, [100, 100, 100]) for name in ("FILTERED", "WEIGHTED")]
    assert sentence(tie, SCORE) == (
        "No measurable difference: FILTERED 100.0 ± 0.0 against WEIGHTED 100.0 ± 0.0 on 3 seeds: +0.0 [+0.0, +0.0] of pairs, "
        "P(better) 0.50; the simplest is FILTERED; use algo=filtered."
    )


def test_the_best_of_several_is_told_from_each_at_once() -> None:
    # Beside a third method the interval is wider: t(0.9875; 3) = 4.177 in place of 3.182.
    worse = contender("BC", [10, 12, 9, 11])
    said = sentence([worse, FILTERED, WEIGHTED], SCORE)
    assert said.startswith("WEIGHTED 92.0 ± 4.9 against FILTERED 76.0 ± 5.2 on 4 seeds: +16.0 [+12.6, +19.4] of pairs")
    # A difference that two methods alone show, and three do not: mean 4, standard error 1.08, 4 / 1.08 = 3.70.
    near = contender("WEIGHTED", [72, 80, 80, 88])
    assert sentence([FILTERED, near], SCORE).endswith("use algo=weighted.")
    assert sentence([worse, FILTERED, near], SCORE).endswith("the simplest is FILTERED; use algo=filtered.")


def test_methods_that_cannot_be_told_from_the_best_are_named() -> None:
    # The best is the simplest of those: it is told from what is behind them.
    worse, near, same = (
        contender("BC", [10, 12, 9, 11]),
        contender("RWR", [70, 75, 77, 82]),
        contender("AUTO", [70, 74, 78, 82]),
    )
    said = sentence([worse, contender("FILTERED", [70, 74, 78, 84]), near, same], SCORE)
    assert said.startswith("FILTERED 76.5 ± 6.0 against BC 10.5 ± 1.3 on 4 seeds: +66.0 [")
    assert said.endswith("P(better) 1.00; RWR and AUTO cannot be told from it; use algo=filtered.")
    # A simpler method that is as good is what is used.
    said = sentence([worse, FILTERED, contender("WEIGHTED", [70, 75, 79, 83])], SCORE)
    assert said.startswith("No measurable difference: WEIGHTED 76.8 ± 5.6 against FILTERED 76.0 ± 5.2")
    assert said.endswith("the simplest is FILTERED; use algo=filtered.")


def test_a_noisy_simple_method_is_not_told_from_the_best() -> None:
    noisy = contender("BC", [10, 95, 60, 99])
    said = sentence([noisy, FILTERED, WEIGHTED], SCORE)
    assert said.startswith("No measurable difference: WEIGHTED 92.0 ± 4.9 against BC 66.0 ± 41.2")
    assert said.endswith("the simplest is BC; use algo=bc.")


def test_without_an_environment_held_out_trajectories_are_what_is_paired() -> None:
    measure = Measure(
        "log-likelihood, nats a step", ("held-out trajectory", "held-out trajectories"), 2, "Without an environment: "
    )
    # Of four trajectories that differ much the second method is likelier on every one, by 0.1, 0.2, 0.1 and 0.2:
    # mean 0.15, standard error 0.0289, times 3.182.
    likelihoods = [[-2.0, -1.0, 0.0, 1.0], [-1.9, -0.8, 0.1, 1.2]]
    pair = [contender(name, values) for name, values in zip(("FILTERED", "WEIGHTED"), likelihoods, strict=True)]
    assert sentence(pair, measure) == (
        "Without an environment: WEIGHTED -0.35 ± 1.32 against FILTERED -0.50 ± 1.29 on 4 held-out trajectories: +0.15 [+0.06, "
        "+0.24] of pairs, P(better) 1.00; use algo=weighted."
    )


def test_too_small_a_budget_has_no_verdict() -> None:
    short = "budget=1m is too small for a verdict: 2 seeds of every method, and 3 take about 4m"
    two = [contender("FILTERED", [70, 74]), contender("WEIGHTED", [86, 90])]
    assert sentence(two, SCORE, short) == f"{short}; so far WEIGHTED is highest with 88.0 ± 2.8."
    alone = [contender("FILTERED", [70]), contender("WEIGHTED", [86])]
    assert sentence(alone, SCORE, short).endswith("so far WEIGHTED is highest with 86.0.")
    level = [contender("CLONED", [0.0, 0.0]), contender("WEIGHTED", [0.0, 0.0])]
    assert sentence(level, SCORE, short).endswith("so far all 2 are level at 0.0 ± 0.0.")
    # Nor has a set of held-out trajectories as small.
    said = sentence(two, Measure("log-likelihood", ("held-out trajectory", "held-out trajectories"), 2))
    assert said == (
        "2 held-out trajectories that all methods have are too few for a verdict; so far WEIGHTED is highest with 88.00 ± 2.83."
    )


def test_a_seed_that_one_method_lacks_counts_for_none() -> None:
    late = contender("WEIGHTED", [90, 96, 96], first=1)
    assert sentence([FILTERED, late], SCORE).startswith("WEIGHTED 94.0 ± 3.5 against FILTERED 78.0 ± 4.0 on 3 seeds")
    assert sentence([FILTERED], SCORE) == "FILTERED alone was run, with 76.0 ± 5.2: there is nothing to compare it with."


def test_other_trajectories_are_told_of() -> None:
    other = contender("RWR", [86, 90, 96, 96], "return_weighted: 100 of 100")
    assert "against FILTERED 76.0 ± 5.2, learning from other trajectories, on 4 seeds" in sentence([FILTERED, other], SCORE)
    notes = " ".join(verdict_table([FILTERED, other, WEIGHTED], SCORE).notes)
    assert "FILTERED and WEIGHTED learn from the same trajectories: their differences are the methods'." in notes
    assert "part of the difference is the curation's" in notes
    assert "curation's" not in " ".join(verdict_table([FILTERED, WEIGHTED], SCORE).notes)


def test_the_table_has_every_method_beside_the_best() -> None:
    table = verdict_table([FILTERED, WEIGHTED], SCORE, ["A note."], "sampled actions")
    assert (table.name, table.caption) == ("verdict-sampled-actions", "Verdict, sampled actions")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["FILTERED", "success: 76 of 100", "76.0 ± 5.2", "-16.0 [-18.6, -13.4]", "0.00", "12.0"],
        ["WEIGHTED", "success: 76 of 100", "92.0 ± 4.9", "–", "–", "12.0"],
    ]
    assert [row[2].bold for row in table.rows] == [False, True]
    assert {"A note.", "iwbc train … algo=filtered (FILTERED); algo=weighted (WEIGHTED)."} <= set(table.notes)


def test_differences_that_are_all_alike_are_no_surer_than_episodes_tell() -> None:
    """One success more of ten, with each of three seeds."""
    ninety, hundred = np.full(3, 90.0), np.full(3, 100.0)
    told = Measure("success %", step=10.0).difference(hundred, ninety)
    reach = student.ppf(0.975, 2) * 10.0 * np.sqrt(2 / 12 / 3)
    assert (told.low, told.high) == (pytest.approx(10.0 - reach), pytest.approx(10.0 + reach))
    assert not told.told
    assert Measure("return").difference(hundred, ninety).told  # a return has no steps

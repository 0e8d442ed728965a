"""Play a saved policy again:  python -m iwbc.evaluate FOLDER [episodes=100] [seed=12345] [action=mean|sample|both]
[out=episodes.csv] [policy=package.module.Name] [imports=module,module]

With the run's own number of episodes, evaluation seed and action, it repeats the run's final evaluation. A policy of
your own, and modules that register environments or algorithms, are imported only where you name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from iwbc.settings import ACTION_NAMES, ACTIONS, Eval, Settings, setting
from iwbc.system.arguments import at_least, parse, run


@dataclass
class Options(Settings):
    run: Path
    episodes: int | None = at_least(1, None)
    seed: int | None = at_least(0, None)
    action: str | None = setting(None, choices=(*ACTIONS, "both"))
    out: Path | None = None
    policy: str | None = None
    imports: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    """Play the last policy of a run folder and print the table."""
    options = parse(arguments, Options)

    from rich.console import Console

    from iwbc.evaluation import Evaluator
    from iwbc.runs.read import open_run
    from iwbc.runs.results import episode_rows, totals
    from iwbc.runs.show import results_table
    from iwbc.system.files import write_csv

    saved = open_run(options.run, options.imports)
    config, summary, policies = saved.config, saved.summary, saved.policies(options.policy)
    environment, scores = saved.environment(options.imports), summary.normalisation
    episodes = options.episodes or config.eval.episodes or Eval().episodes
    seed = config.eval.seed if options.seed is None else options.seed
    evaluator = Evaluator(environment, seed, scores=scores)
    console = Console()
    chosen = replace(config.eval, action=options.action or config.eval.action)
    evaluations = []
    for action in chosen.actions:
        with console.status(f"Playing {episodes} episodes of {environment.id}, {ACTION_NAMES[action]}"):
            evaluations.append(evaluator.evaluate(policies, episodes, action))
    evaluator.close()
    if options.out is not None:
        rows = [row for evaluation in evaluations for row in episode_rows(evaluation, "repeated", config.algo.steps)]
        write_csv(options.out, [row.to_plain() for row in rows])
    method, several = summary.method, len(evaluations) > 1
    named = {f"{method}, {ACTION_NAMES[played.action]}" if several else method: totals(played) for played in evaluations}
    console.print(results_table(named, environment.id, summary.seeds, scores))


if __name__ == "__main__":
    run(main, __doc__)

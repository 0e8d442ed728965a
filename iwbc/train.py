"""Train a policy on mixed-quality demonstrations, by (importance-weighted) behaviour cloning.

    python -m iwbc.train [group=choice …] [group.setting=value …]     one run
    python -m iwbc.train -m env=hopper,walker2d algo=bc,filtered_bc   a sweep: a run for every combination
    python -m iwbc.train resume=FOLDER                                continue a run that was interrupted; what is played and
                                                                      logged may change: env.… eval.… logger.…

Groups (group=choice, the first is the default)
  env        hopper, halfcheetah, walker2d; from_dataset: the one that the dataset names
             two_routes, careful_or_hasty, point_maze: two ways, one of which fails half of the time
             metaworld/assembly, drawer_open, hammer, pick_place, pick_place_hasty: manipulation, by Meta-World
  dataset    medium_replay, medium, medium_expert, expert, random: generated from shipped behaviour policies
             demonstrations: scripted ones of two_routes, careful_or_hasty and point_maze
             operators: of metaworld/…, by operators of graded quality, each of whom is a group
             minari (dataset.id=…), d4rl (dataset.path=…): your own or published data
             robomimic, maniskill, ogbench, zarr (dataset.path=…), lerobot (that, or dataset.id=…): robots' data
  algo       iw_bc: importance-weighted BC       filtered_bc: BC of the curated trajectories, from the reference
             bc: the same from scratch           rwr: weighted by return, with curation=return_weighted
             awr, iql: offline RL, weighted by advantage over V; IQL's is of the better actions
  curation   quality_levels: 90th, 95th and 98th percentile of the returns (the paper's Q)
             top_fraction, threshold, success: the best, from a return on, the successful ones
             return_weighted: all of them, by the exponential of the return        all: all alike
             groups: curation.keep=[better,okay] curation.weights=[2,1] curation.drop=[worse], of the dataset's groups
             weights, scores (curation.path=scores.csv): your own, columns trajectory (or episode, from 0) and weight or
             score; curation.fraction=0.3 keeps the best by any scores
             auto: what the data choose, by the likelihood of their best trajectories while these are held out; it trains
             some policies first, in a minute or so, and needs no environment
             curation.rank_by=discounted_return, length, smoothness in place of return, where returns are ranked
  policy     tanh_mean: a Gaussian around tanh of the network       squashed: the tanh of a Gaussian
             mixture: of Gaussians, for several ways to do it       flow: any shape
             policy.history=4: of the last observations             policy.chunk=8 policy.execute=4: of the next actions, of
             which so many are played before it is asked again (not for flow)
             lstm_mixture (robomimic's BC-RNN-GMM), transformer: mixtures that read step after step, in sequences of
             policy.sequence=10, of which algo.batch_size=100 and reference.batch_size=100 make a minibatch
  eval       default: 100 episodes at the end, and 10 every 1,000 gradient steps
  logger     none, wandb (offline; logger.mode=online uploads), tensorboard
  +experiment   published, kitchen: the authors' settings
             d4rl: a sweep over Minari's D4RL/… and mujoco/… datasets, or dataset.id=one,another, and all methods, which ends
             in a table beside published scores; d4rl_files: on D4RL's own files, dataset.path=one.hdf5,another.hdf5
             robomimic: with the settings of its study, on its files, dataset.path=one.hdf5,another.hdf5
  +method    an algorithm with a curation: bc_all, filtered_bc_top10, sft_q, iw_bc_top10, iw_bc_top10_auto, iw_bc_q,
             iw_bc_q_step, iw_bc_return_weighted, rwr, awr_all, iql_all, bc_robomimic, filtered_bc_robomimic,
             iw_bc_robomimic
  hydra/launcher   where the runs of a sweep go: basic: one after the other, here       cores: one for each core
             processes: all at once, here       slurm, ray_cores: on a cluster

Settings that are worth knowing
  algo.kappa=0.5        κ, how much the importance weights may say: w = exp(κ · Σ log (π_q/π_ref)) over the last five steps
                        (algo.window); 0 is filtered BC. algo.level=trajectory: of the mean over a trajectory, for all of its
                        steps, where κ may be auto: as much as the weights can be relied on
  averaging=trajectory  every trajectory counts the same, however long (the paper's); transition: every step does
  seeds=[0,1,2]         several seeds side by side, a process for each; seed=3 is one
  threads=1             threads and worker processes; default: as many as there are cores
  held_out=0.1          nothing is trained on this share of the trajectories; their log-likelihood is watched
  engine=false          train by plain autograd: the same numbers, slower
--cfg job prints every setting with its value; any of them is set by group.name=value.

Examples
  python -m iwbc.train env=hopper
  python -m iwbc.train env=walker2d algo=filtered_bc curation=top_fraction curation.fraction=0.2
  python -m iwbc.train env=hopper seeds=[0,1,2,3,4]
  python -m iwbc.train dataset=minari dataset.id=mujoco/hopper/medium-v0
  python -m iwbc.train -m env=hopper,walker2d algo=filtered_bc,iw_bc
  python -m iwbc.train resume=outputs/2026-01-31/12-00-00-000000-hopper-iw_bc
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Imports only for composing a configuration: an error in it must show at once.
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from iwbc.config import changed, import_custom, named_modules, validate
from iwbc.errors import Interrupted, UserError
from iwbc.runs import sweeps
from iwbc.runs.command import HydraCommand, leave, run_command
from iwbc.settings import Config, Env, OwnPolicy
from iwbc.system.files import config_folder

if TYPE_CHECKING:
    from iwbc.runs.summary import Summary


def main() -> None:
    """Run the command: exit code 0, 2 for what the user can put right, 130 when interrupted."""
    run_command(HydraCommand("iwbc.train", __doc__ or "", config_folder(), "env=hopper", _job), _resumed)


def _job(composed: DictConfig, folder: Path, in_sweep: bool) -> float | None:
    """Do one run and return the objective of a search, which is maximised."""
    # Again in a sweep's worker, which has imported nothing yet; as text, since a value may hold an interpolation.
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    import_custom(words)
    return sweeps.objective(_run(validate(composed), folder, in_sweep))


def _resumed(arguments: list[str]) -> bool:
    """Continue the run that the arguments name; where they name none, import the modules that they name, and return False."""
    named = [argument for argument in arguments if argument.startswith("resume=")]
    if not named:
        import_custom(arguments)
        return False
    if len(named) > 1:
        raise UserError(f"{' '.join(named)}: name one run to continue")
    _resume(Path(named[0].removeprefix("resume=")), [argument for argument in arguments if argument not in named])
    return True


def _resume(folder: Path, settings: list[str]) -> None:
    from iwbc.runs.read import read_config

    held = read_config(folder, named_modules(settings))
    targets = [argument for argument in settings if argument.startswith("policy._target_=")]
    trusted = [argument for argument in settings if argument in _imports(held)]
    changes = [argument for argument in settings if argument not in (*targets, *trusted)]
    config = changed(held, changes)
    # The folder may be somebody else's: a module that it names is imported only where the user names it, too.
    named = set(held.env.needed_imports if any(setting.startswith("env.imports=") for setting in trusted) else ())
    named |= set(config.env.imports if any(setting.startswith("env.imports=") for setting in changes) else ())
    named |= set(Env(id=config.env.id).needed_imports if any(setting.startswith("env.id=") for setting in changes) else ())
    needed = _imports(config)
    if not set(config.env.needed_imports) <= named or targets != [
        setting for setting in needed if setting.startswith("policy._target_=")
    ]:
        what = f"imports modules of its own; to trust them, add {' '.join(needed)}" if needed else "imports nothing of its own"
        raise UserError(f"resume={folder}: this run {what}")
    _run(config, folder, resumed=True)


def _imports(config: Config) -> list[str]:
    """List the custom modules that a run imports, as the settings that name them."""
    settings = [f"policy._target_={config.policy.target}"] if isinstance(config.policy, OwnPolicy) else []
    if imports := config.env.needed_imports:
        settings.append(f"env.imports=[{','.join(imports)}]")
    return settings


def _run(config: Config, folder: Path, in_sweep: bool = False, resumed: bool = False) -> Summary:
    from rich.console import Console

    from iwbc.runs.folder import RunFolder
    from iwbc.runs.pipeline import run
    from iwbc.runs.show import show

    console = Console()
    try:
        summary = run(config, folder, console, resumed)
    except KeyboardInterrupt:
        if not RunFolder(folder).begun():
            raise
        raise Interrupted(shlex.join([f"resume={_shown(folder)}", *_imports(config)])) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise UserError(
            "not enough memory for this run; try a smaller algo.batch_size, policy.hidden or dataset, or fewer seeds at once"
        ) from None
    if not in_sweep:  # a sweep lists all summaries at the end
        show(summary, console)
    console.print(f"Run folder: {_shown(folder)}", soft_wrap=True, markup=False)
    if summary.diverged and not in_sweep:
        seeds = ", ".join(f"{lost.seed} (step {lost.step}: {lost.why})" for lost in summary.diverged)
        leave(f"Some seeds diverged, and are in no result: {seeds}", 1)
    return summary


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


if __name__ == "__main__":
    main()

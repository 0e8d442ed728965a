"""Train a policy on mixed-quality demonstrations, by (importance-weighted) behaviour cloning.

    python -m iwbc.train [group=choice …] [group.setting=value …]     one run
    python -m iwbc.train -m env=hopper,walker2d algo=bc,filtered_bc   a sweep: a run for every combination
    python -m iwbc.train resume=FOLDER                                continue a run that was interrupted; what is played and
                                                                      logged may change: env.… eval.… logger.…

Groups (group=choice, the first is the default)
  env        hopper, halfcheetah, walker2d; from_dataset: the one that the dataset names
             two_routes, careful_or_hasty, point_maze: two ways, one of which fails half of the time
  dataset    medium_replay, medium, medium_expert, expert, random: generated from shipped behaviour policies
             demonstrations: scripted ones of two_routes, careful_or_hasty and point_maze
             minari (dataset.id=…), d4rl (dataset.path=…): your own or published data
  algo       iw_bc: importance-weighted BC       filtered_bc: BC of the curated trajectories, from the reference
             bc: the same from scratch           awr: weighted by advantage
             rwr: weighted by return, with curation=return_weighted
  curation   quality_levels: 90th, 95th and 98th percentile of the returns (the paper's Q)
             top_fraction, threshold, success: the best, from a return on, the successful ones
             return_weighted: all of them, by the exponential of the return        all: all alike
             weights (curation.path=weights.csv): your own, columns trajectory (or episode, from 0) and weight
  policy     tanh_mean: a Gaussian around tanh of the network       squashed: the tanh of a Gaussian
             mixture: of Gaussians, for several ways to do it       flow: any shape
  eval       default: 100 episodes at the end, and 10 every 1,000 gradient steps
  logger     none, wandb (offline; logger.mode=online uploads), tensorboard
  +experiment   published, kitchen: the authors' settings
  +method    an algorithm with a curation: bc_all, filtered_bc_top10, sft_q, iw_bc_top10, iw_bc_top10_auto, iw_bc_q,
             iw_bc_q_step, iw_bc_return_weighted, rwr, awr_all
  hydra/launcher   where the runs of a sweep go: basic: one after the other, here       cores: one for each core
             processes: all at once, here       slurm, ray_cores: on a cluster

Settings that are worth knowing
  algo.kappa=1          κ, how much the importance weights may say: w = exp(κ · mean log (π_q/π_ref)) for each trajectory;
                        0 is filtered BC, the length of a trajectory exact importance sampling; auto: as much as the
                        weights can be relied on
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
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Imports only for composing a configuration: an error in it must show at once.
import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwbc.config import changed, hydra_on_conf, import_custom, named_modules, quoted, validate
from iwbc.errors import Interrupted, UserError, extra, warnings_in_one_line
from iwbc.runs import sweeps
from iwbc.settings import Config, Env, OwnPolicy
from iwbc.system.files import config_folder

if TYPE_CHECKING:
    from iwbc.runs.summary import Summary


def main() -> None:
    """Run the command: exit code 0, 2 for what the user can put right, 130 when interrupted."""
    in_full = "HYDRA_FULL_ERROR" in os.environ
    # Hydra would print its errors itself, over several lines, and exit with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv[1:]
    gave_up = False
    try:
        if {"--help", "-h"} & set(arguments):
            print((__doc__ or "").strip())
        elif arguments and arguments[0].startswith("resume="):
            with warnings_in_one_line():
                _resume(arguments)
        else:
            _check_options(arguments)
            sys.argv[1:] = quoted(arguments)
            with warnings_in_one_line():
                import_custom(arguments)
                hydra.main(config_path=config_folder(), config_name="train", version_base="1.3")(_job)()
    except UserError as error:
        _exit(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        _exit(_explain(error), 2)
    except OSError as error:
        if error.filename is None:
            raise
        _exit(f"{error.filename}: cannot be used ({error.strerror})", 2)
    except Interrupted as error:
        _exit(f"Interrupted. Continue with: python -m iwbc.train {error}", 130)
    except KeyboardInterrupt:
        _exit("Interrupted before training began; the same command goes on.", 130)
    except Exception as error:
        if in_full:
            raise
        if "Config group override must be" in str(error):  # of Hydra, for env=3 or =3
            _exit(f"{' '.join(arguments)}: the choice of a group must be a name (see --help)", 2)
        if sweeps.Sweep.launched is None:
            if _of_a_job(error):
                raise
            # Any other error of Hydra's before there is a job.
            reason = " ".join(str(error).split()) or type(error).__name__
            _exit(f"{' '.join(arguments)}: {reason} (see --help; HYDRA_FULL_ERROR=1 shows where)", 2)
        # For example, a worker is killed, or the cluster refuses the jobs.
        print(f"The launcher gave up: {type(error).__name__}: {error}\nJobs not listed below never began.", file=sys.stderr)
        gave_up = True
    finally:
        all_finished = sweeps.summarise()
    if gave_up or not all_finished:
        sys.exit(1)


def _of_a_job(error: Exception) -> bool:
    """Tell whether an error was raised in a run, and not on the way to one."""
    return any(frame.name == _run.__name__ for frame in traceback.extract_tb(error.__traceback__))


def _check_options(arguments: list[str]) -> None:
    """Raise UserError for an option that does not exist, where Hydra would print all of its usage, or a traceback."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{' '.join(arguments)}: {message} (see --help); settings are written without dashes, as in env=hopper")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    known, others = parser.parse_known_args(arguments)
    if known.experimental_rerun is not None:
        refuse("--experimental-rerun would load a pickle, which can run anything; resume=FOLDER continues a run")
    for unknown in others:
        if not unknown.startswith("-"):
            raise UserError(f"{unknown}: stands after an option that stands after settings; options, such as -m, come first")
        raise UserError(f"{unknown}: not an option (see --help); settings are written without dashes, as in env=hopper")


# Other libraries' names of settings, with ours.
_USUAL_NAMES = {"learning_rate": "lr", "num_steps": "steps", "n_steps": "steps", "batch": "batch_size", "alpha": "decay"}


def _explain(error: Exception) -> str:
    """Return Hydra's message as one line, with the names closest to a key that does not exist, or the missing extra."""
    import difflib
    import re

    message = " ".join(str(error).split("Config search path")[0].split())
    if plugin := re.search(r"Could not load 'hydra/launcher/([a-z]+)", message):
        return f"{message}; {extra(plugin[1])}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read ({message.split(' See http')[0]})"
    if not message.startswith("Could not override '"):
        return message
    key = message.split("'")[1]
    with hydra_on_conf():
        keys = _keys(hydra.compose("train"))
    group, _, name = key.rpartition(".")
    same = [setting for setting in keys if setting.split(".")[-1] == name]
    usual = [setting for setting in keys if setting == f"{group}.{_USUAL_NAMES.get(name)}"]
    near = usual or same or difflib.get_close_matches(key, keys, n=3)
    return f"{key}: no such setting" + (f"; did you mean {' or '.join(near)}?" if near else "; --cfg job lists them all")


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        name = f"{prefix}{key}"
        keys += [name] + (_keys(config[key], f"{name}.") if OmegaConf.is_dict(config._get_node(key)) else [])
    return keys


def _exit(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _job(composed: DictConfig) -> float | None:
    """Do one run and return the objective of a search, which is maximised; in a sweep, iwbc.runs.sweeps reports errors."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    import_custom(HydraConfig.get().overrides.task)  # again in a sweep's worker, which has imported nothing yet
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return sweeps.objective(_run(validate(composed), folder, in_sweep=True))
    try:
        return sweeps.objective(_run(validate(composed), folder))
    except UserError as error:
        _exit(str(error), 2)
    except OSError as error:
        if error.filename is None:
            raise
        _exit(f"{error.filename}: cannot be used ({error.strerror})", 2)  # Hydra would say more
    finally:
        _remove_if_empty(folder)


def _resume(arguments: list[str]) -> None:
    from iwbc.runs.read import read_config

    folder, settings = Path(arguments[0].removeprefix("resume=")), arguments[1:]
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
        _exit(f"Some seeds diverged, and are in no result: {seeds}", 1)
    return summary


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a run that never began: Hydra makes it beforehand."""
    while folder.is_dir() and not any(folder.iterdir()) and folder != Path.cwd():
        folder.rmdir()
        folder = folder.parent
        if not folder.is_relative_to(Path.cwd()):
            return


if __name__ == "__main__":
    main()

"""Commands whose settings Hydra composes: their errors in one line, their exit codes, and the end of a sweep."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# Imports only for composing a configuration: an error in it must show at once.
import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwbc.config import hydra_on_conf, message_of, quoted
from iwbc.errors import Interrupted, UserError, extra, print_without_fail, warnings_in_one_line
from iwbc.runs import sweeps


@dataclass(frozen=True)
class HydraCommand:
    """A command: its module, its help, the folder of its configuration, an example of a setting, and its job, which takes the
    composed configuration, the run's folder, and whether it is part of a sweep, and returns the objective of a search."""

    module: str
    usage: str
    folder: str
    example: str
    job: Callable[[DictConfig, Path, bool], float | None]


def run_command(command: HydraCommand, instead: Callable[[list[str]], bool] = lambda arguments: False) -> None:
    """Run the command on the command line's arguments: exit code 0, 2 for what the user can put right, 130 when interrupted.

    instead: called first with the arguments; where it returns True, it has done what they ask for.
    """
    print_without_fail()
    in_full = "HYDRA_FULL_ERROR" in os.environ
    # Hydra would print its errors itself, over several lines, and exit with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv[1:]
    gave_up = False
    try:
        if {"--help", "-h"} & set(arguments):
            print(command.usage.strip())
        else:
            with warnings_in_one_line():
                if not instead(arguments):
                    _check_options(arguments, command.example)
                    sys.argv[1:] = quoted(arguments)
                    hydra.main(config_path=command.folder, config_name="train", version_base="1.3")(_job_of(command))()
    except UserError as error:
        leave(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        leave(_explain(error, command), 2)
    except OSError as error:
        if error.filename is None:
            raise
        leave(f"{error.filename}: cannot be used ({error.strerror})", 2)
    except Interrupted as error:
        leave(f"Interrupted. Continue with: python -m {command.module} {error}", 130)
    except KeyboardInterrupt:
        leave("Interrupted before training began; the same command goes on.", 130)
    except Exception as error:
        if in_full:
            raise
        if "Config group override must be" in str(error):  # of Hydra, for env=3 or =3
            leave(f"{' '.join(arguments)}: the choice of a group must be a name (see --help)", 2)
        if sweeps.Sweep.launched is None:
            if _of_a_job(error):
                raise
            # Any other error of Hydra's before there is a job.
            reason = " ".join(str(error).split()) or type(error).__name__
            leave(f"{' '.join(arguments)}: {reason} (see --help; HYDRA_FULL_ERROR=1 shows where)", 2)
        # For example, a worker is killed, or the cluster refuses the jobs.
        print(f"The launcher gave up: {type(error).__name__}: {error}\nJobs not listed below never began.", file=sys.stderr)
        gave_up = True
    finally:
        all_finished = sweeps.summarise()
    if gave_up or not all_finished:
        sys.exit(1)


def _job_of(command: HydraCommand) -> Callable[[DictConfig], float | None]:
    """Make what Hydra calls for each run; in a sweep, iwbc.runs.sweeps reports errors."""

    def job(composed: DictConfig) -> float | None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _do(command, composed, folder, True)
        try:
            return _do(command, composed, folder, False)
        except UserError as error:
            leave(str(error), 2)
        except OSError as error:
            if error.filename is None:
                raise
            leave(f"{error.filename}: cannot be used ({error.strerror})", 2)  # Hydra would say more
        finally:
            _remove_if_empty(folder)

    return job


def _do(command: HydraCommand, composed: DictConfig, folder: Path, in_sweep: bool) -> float | None:
    return command.job(composed, folder, in_sweep)


def _of_a_job(error: Exception) -> bool:
    """Tell whether an error was raised in a run, and not on the way to one."""
    return any(frame.name == _do.__name__ for frame in traceback.extract_tb(error.__traceback__))


def _check_options(arguments: list[str], example: str) -> None:
    """Raise UserError for an option that does not exist, where Hydra would print all of its usage, or a traceback."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{' '.join(arguments)}: {message} (see --help); settings are written without dashes, as in {example}")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    known, others = parser.parse_known_args(arguments)
    if known.experimental_rerun is not None:
        refuse("--experimental-rerun would load a pickle, which can run anything; resume=FOLDER continues a run")
    for unknown in others:
        if not unknown.startswith("-"):
            raise UserError(f"{unknown}: stands after an option that stands after settings; options, such as -m, come first")
        raise UserError(f"{unknown}: not an option (see --help); settings are written without dashes, as in {example}")


# Other libraries' names of settings, with ours.
_USUAL_NAMES = {"learning_rate": "lr", "num_steps": "steps", "n_steps": "steps", "batch": "batch_size", "alpha": "decay"}


def _explain(error: Exception, command: HydraCommand) -> str:
    """Return Hydra's message as one line, with the names closest to a key that does not exist, or the missing extra."""
    import difflib
    import re

    message = message_of(error, command.folder)
    if plugin := re.search(r"Could not load 'hydra/launcher/([a-z]+)", message):
        return f"{message}; {extra(plugin[1])}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read ({message.split(' See http')[0]})"
    if not message.startswith("Could not override '"):
        return message
    key = message.split("'")[1]
    with hydra_on_conf(command.folder):
        keys = _keys(hydra.compose("train"))
    group, _, name = key.rpartition(".")
    if key in keys:  # of the usual choice, and the command line has another
        return f"{key}: the chosen {group} has no such setting; --cfg job lists those that it has"
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


def leave(message: str, code: int) -> NoReturn:
    """Print a line on the error stream and exit."""
    print(message, file=sys.stderr)
    sys.exit(code)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of a run that never began: Hydra makes it beforehand."""
    while folder.is_dir() and not any(folder.iterdir()) and folder != Path.cwd():
        folder.rmdir()
        folder = folder.parent
        if not folder.is_relative_to(Path.cwd()):
            return

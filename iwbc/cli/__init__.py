"""`iwbc COMMAND …`, the same as `python -m iwbc.<module> …`: every command at one place, with completion in the shell.

A command's module has `main(arguments)`, a docstring that is its help, and Options where it takes key=value. No module is
imported before its command is called, and none at all for help.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path

import click
from click.shell_completion import BashComplete, add_completion_class

from iwbc.errors import print_without_fail

# Command → module, and a line of help.
COMMANDS = {
    "train": ("iwbc.train", "Train a policy, or a sweep of them (-m); resume=FOLDER continues a run."),
    "compare": ("iwbc.compare", "Try methods on your data for some minutes; says which to use, and how sure."),
    "tune": ("iwbc.tune", "Search for the settings with the best score."),
    "evaluate": ("iwbc.evaluate", "Play the policy of a finished run again."),
    "verify": ("iwbc.verify", "Check that a run's numbers are what its files say."),
    "record": ("iwbc.record", "Video of a run's best, median and worst episode."),
    "export": ("iwbc.export", "A run's policy as ONNX, TorchScript or a model of the Hugging Face Hub."),
    "export-data": ("iwbc.export_data", "Curated data and weights for robomimic, LeRobot, Minari, or as a list."),
    "report": ("iwbc.report.__main__", "Sum up runs and sweeps: tables, figures, one page."),
    "info": ("iwbc.info", "Look at a dataset: returns, success, what each curation keeps."),
    "generate": ("iwbc.data.generate", "Make one of D4RL's tiers with the shipped behaviour policies."),
    "demonstrations": ("iwbc.data.demonstrations", "Make scripted demonstrations of a task of ours, or of Meta-World's."),
    "convert": ("iwbc.data.convert", "Make a dataset of arrays of your own, or of another format's file."),
}

# Those of the group language.
LANGUAGE = {
    "train": ("iwbc.language.train", "Train a model on rows by importance-weighted SFT, or a sweep (-m)."),
    "rows": ("iwbc.language.rows", "Draw completions from a model, verify them, write rows."),
    "evaluate": ("iwbc.language.evaluate", "Score a model on prompts with answers: pass@k, intervals."),
}

_TAKES_SETTINGS = ("train", "compare", "tune", "info", "export-data")  # of Hydra's grammar

_HELP = """Train policies on mixed-quality demonstrations, by weighted supervised learning.

\b
  iwbc train env=hopper                  what each command takes: iwbc COMMAND --help
  iwbc report outputs out=report

Settings are written key=value, without dashes. Completion: put
eval "$(_IWBC_COMPLETE=bash_source iwbc)" into ~/.bashrc (zsh_source into
~/.zshrc; for fish, _IWBC_COMPLETE=fish_source iwbc | source).
"""

_LANGUAGE_HELP = """Language models: importance-weighted SFT on tasks whose answers can be verified.

\b
  iwbc language rows model=… prompts=tasks.jsonl verifier=math out=rows.jsonl
  iwbc language train model=… data=rows.jsonl out=run
  iwbc language evaluate run=run prompts=test.jsonl verifier=math

Needs the extra language.
"""


class _Command(click.Command):
    """Command that hands its arguments over unchanged: the modules parse them as `python -m` would."""

    def __init__(self, name: str, module: str, summary: str, group: str = "iwbc") -> None:
        words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, shell_complete=self._complete)
        settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
        super().__init__(name, context_settings=settings, params=[words], short_help=summary, add_help_option=False)
        self.module, self.path, self.callback = module, f"{group} {name}", self._run

    def _run(self, words: tuple[str, ...]) -> None:
        if {"-h", "--help"} & set(words):
            print(self.usage())
            return
        sys.argv = [self.path, *words]
        module = importlib.import_module(self.module)
        if self.name == "train":  # Hydra reads sys.argv, and train reports errors by itself
            module.main()
        else:
            from iwbc.system.arguments import run

            run(module.main, module.__doc__)

    def usage(self) -> str:
        """Read the module's docstring from its file: importing the module may take seconds."""
        spec = importlib.util.find_spec(self.module)
        assert spec is not None and spec.origin is not None
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        return text.replace(f"python -m {self.module.removesuffix('.__main__')}", self.path)

    def _complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from iwbc.cli import completion

        words = [] if self.name == "train" else completion.options(self.module, incomplete)
        root = "language" if self.path == "iwbc language train" else ""
        takes = self.name in _TAKES_SETTINGS
        return [*words, *(completion.settings(ctx.params["words"], incomplete, root) if takes else [])]


class _Bash(BashComplete):
    """Completion for Bash, which takes = and : for ends of words and completes the rest; no space follows key= and folders/."""

    source_template = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} before found words
    local word=${line##* }
    read -ra words <<< "$line."
    [[ $COMP_WORDBREAKS == *=* ]] && before=${word%%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS=, read -r _ found; do
        [[ $found == *[^=/.] ]] && found+=" "
        [[ $found ]] && COMPREPLY+=("${found#"$before"}")
    done < <(COMP_WORDS=$line COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete $1 2> /dev/null)
}
complete -o nosort -o nospace -F %(complete_func)s %(prog_name)s
"""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in this order


@click.group(cls=_Commands, name="iwbc", help=_HELP, commands=[_Command(name, *what) for name, what in COMMANDS.items()])
@click.version_option(package_name="iwbc", message="iwbc %(version)s")
def group() -> None:
    """Run a command; its help is _HELP."""


_within = [_Command(name, *what, group="iwbc language") for name, what in LANGUAGE.items()]
_summary = "Language models: rows of verified completions, training, and scores."
group.add_command(_Commands("language", help=_LANGUAGE_HELP, short_help=_summary, commands=_within))


def main() -> None:
    """Run the console command: exit code 0, 2 with one line for what the user can put right, 130 for Ctrl-C."""
    print_without_fail()
    add_completion_class(_Bash)
    try:
        group(prog_name="iwbc", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "")
    except click.Abort:  # click's exception for a Ctrl-C before the command has begun
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except click.UsageError as error:
        assert error.ctx is not None and isinstance(error.ctx.command, click.Group)
        path, names = error.ctx.command_path, list(error.ctx.command.commands)
        asked = sys.argv[len(path.split())]
        near = difflib.get_close_matches(asked, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(names)}"
        print(f"{path} {asked}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

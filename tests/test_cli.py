"""The console command `iwbc`: the same as `python -m iwbc.…`, quick to help, and completed by a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from setups import PATIENCE, Outcome, called, finish, python

from iwbc.cli import COMMANDS, LANGUAGE, main

ENTRY = "import sys; from iwbc.cli import main; sys.argv[0] = 'iwbc'; main()"


def iwbc(*arguments: str, cwd: Path, **environment: str) -> Outcome:
    return finish(python("-c", ENTRY, *arguments, cwd=cwd, **environment))


@pytest.mark.parametrize("name", [*COMMANDS, *(f"language {name}" for name in LANGUAGE)])
def test_help_of_every_command_needs_no_import_of_it(name: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'numpy', 'hydra', 'omegaconf', 'gymnasium', 'rich', 'matplotlib'} & set(sys.modules)"
    script = f"import sys; from iwbc.cli import main; main(); print(sorted({heavy}))"
    outcome = finish(python("-c", script, *name.split(), "--help", cwd=tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    *usage, imported = outcome.out.splitlines()
    assert imported == "[]"
    assert any(f"iwbc {name}" in line for line in usage), usage
    assert "python -m" not in "\n".join(usage).replace("python -m iwbc.report.search", "")


def test_help_lists_every_command(tmp_path: Path) -> None:
    for group, names in (([], [*COMMANDS, "language"]), (["language"], list(LANGUAGE))):
        for arguments in (group, [*group, "--help"]):
            outcome = iwbc(*arguments, cwd=tmp_path)
            assert outcome.code == 0
            assert re.findall(r"^  ([a-z-]+)  ", outcome.out.split("Commands:")[1], re.M) == names
    assert finish(python("-m", "iwbc", "--version", cwd=tmp_path)).out.startswith("iwbc ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "iwbc trian: no such command; did you mean train?\n"),
        (["language", "row"], "iwbc language row: no such command; did you mean rows?\n"),
        (["language", "rows", "model=m"], "prompts=… is missing (see --help)\n"),
        (["language", "evaluate", "prompts=p", "verifier=exact"], "give either run=… or model=… (see --help)\n"),
        (["train", "env=hoper"], "Could not find 'env/hoper'"),
        (["train", "--foo"], "--foo: not an option"),
        (["evaluate", "run=nowhere"], "nowhere: not a run folder (it has no config.yaml)\n"),
        (["evaluate", "--run=nowhere"], "--run=nowhere: write it as run=…\n"),
        (["demonstrations", "env=hopper"], "demonstrat"),
        (["demonstrations", "env=two_routes", "risky=2"], "risky=2.0: must lie in [0, 1]\n"),
        (["demonstrations", "env=two_routes", "slip=some"], "slip=some: must be a number\n"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = called(main, "iwbc", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_settings_are_handed_on_as_they_are(tmp_path: Path) -> None:
    asked = ["train", "env=hopper", "algo.kappa=2.5", "seeds=[3,1]", "--cfg", "job"]
    outcome = iwbc(*asked, cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert "kappa: 2.5" in outcome.out
    assert outcome.out == finish(python("-m", "iwbc.train", *asked[1:], cwd=tmp_path)).out


def test_demonstrations_are_made_once(datasets: Path, tmp_path: Path) -> None:
    for name in ("two_routes", "iwbc/TwoRoutes-v0"):
        outcome = iwbc("demonstrations", f"env={name}", "episodes=3", "slip=0.3", cwd=tmp_path)
        assert outcome.out.startswith("iwbc/tworoutes/demonstrations-3-slip0_3-v1 is in "), outcome.err
    made = [path.name for path in (datasets / "iwbc" / "tworoutes").iterdir() if path.is_dir()]
    assert made == ["demonstrations-3-slip0_3-v1"]


# --- completion ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the console command, as pip would write it."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "iwbc"
    command.write_text(f"#!{sys.executable}\n{ENTRY}\n")
    command.chmod(0o755)
    return folder


def typed_in_bash(text: str, expected: str, console: Path, cwd: Path) -> str:
    """What an interactive bash has on its line after `text`, in which \\t is the tabulator."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    ours, theirs = pty.openpty()
    path = f"{console}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PS1": "> ", "TERM": "dumb", "INPUTRC": "/dev/null", "COLUMNS": "200"}
    command, terminal = [bash, "--norc", "--noprofile", "-i"], {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    shell = subprocess.Popen(command, **terminal, cwd=cwd, env=environment)
    seen = ""

    def read_until(wanted: str) -> None:
        nonlocal seen
        end = time.monotonic() + PATIENCE
        while wanted not in seen and time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096).decode()

    try:
        os.write(ours, b'eval "$(_IWBC_COMPLETE=bash_source iwbc)"; echo rea""dy\n')
        read_until("ready\r\n")
        seen = ""
        os.write(ours, text.encode())
        read_until(expected)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(theirs)
    return seen


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("iwbc tra\tenv=walk\tx", "iwbc train env=walker2d x"),  # a space after what is complete
        ("iwbc train algo.kap\t3", "iwbc train algo.kappa=3"),  # and none where its value is to follow
        ("iwbc train -m algo=bc algo.l\t3", "iwbc train -m algo=bc algo.lr=3"),
        ("iwbc train hydra/laun\tco\tx", "iwbc train hydra/launcher=cores x"),
        ("iwbc evaluate run=my\ti\tx", "iwbc evaluate run=my_runs/inner/x"),
        ("iwbc verify my\ti\tx", "iwbc verify my_runs/inner/x"),
        ("iwbc export-d\tformat=rob\tcuration=suc\tx", "iwbc export-data format=robomimic curation=success x"),
        ("iwbc generate tier=medium-e\tx", "iwbc generate tier=medium-expert x"),
    ],
)
def test_bash_completes(text: str, line: str, console: Path, tmp_path: Path) -> None:
    (tmp_path / "my_runs" / "inner").mkdir(parents=True)
    assert line in typed_in_bash(text, line, console, tmp_path)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_words(shell: str, tmp_path: Path) -> None:
    words = {"COMP_WORDS": "iwbc train env=ho", "COMP_CWORD": "2" if shell == "zsh" else "env=ho"}
    outcome = iwbc(cwd=tmp_path, _IWBC_COMPLETE=f"{shell}_complete", **words)
    assert "env=hopper" in outcome.out, outcome.err

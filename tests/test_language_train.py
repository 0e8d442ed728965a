"""`iwbc language train`: a run from rows to a folder, interrupted and continued, refused, swept and reported."""

from __future__ import annotations

import json
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from setups import Outcome, called, command, finish, python, read_csv

pytest.importorskip("trl")

from iwbc.config import composed, hydra_on_conf
from iwbc.language import sampling, start, training
from iwbc.language.config import validate
from iwbc.language.jsonl import Rows, read_rows, write_rows
from iwbc.language.models import load, quietly
from iwbc.language.settings import ALGORITHMS, CURATIONS
from iwbc.language.tasks import bandit, tiny_model, tiny_tokenizer
from iwbc.language.train import FOLDER, main
from iwbc.language.trainer import STATE
from iwbc.system.files import config_folder

SHORT = ("steps=6", "lr=0.01", "batch_size=8", "fit.steps=4", "fit.lr=0.01", "fit.batch_size=16", "log_every=2", "threads=1")
# Not recomputing activations is quicker, and the same.
USUAL = ("model=task/model", "data=task/rows.jsonl", "trainer.gradient_checkpointing=false")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny untrained model, 120 rows with failures, the successes among them, and prompts."""
    folder = tmp_path_factory.mktemp("task")
    tokenizer = tiny_tokenizer(bandit().alphabet)
    with quietly():
        tiny_model(tokenizer, 16, 0, layers=1, width=16).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    rows = bandit().rows(120, 0.25, 0)
    write_rows(folder / "rows.jsonl", rows)
    plain = [row for row in rows.to_plain() if row["success"]]
    (folder / "successes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in plain))
    prompts = [{"id": f"p{i}", "prompt": f"{i % 2}1>", "answer": "cc"} for i in range(4)]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    return folder


@pytest.fixture
def place(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with that task, and an empty cache."""
    shutil.copytree(task, tmp_path / "task")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "task" / "cache"))
    return tmp_path


def test_every_choice_has_a_file_and_none_is_a_schema_of_the_other_commands() -> None:
    for group, kinds in {"algo": ALGORITHMS, "curation": CURATIONS}.items():
        files = {path.stem for path in (Path(config_folder()) / "language" / group).glob("*.yaml")}
        assert files - {"iw_sft_paper", "iw_sft_published"} == set(kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        composed(["curation=top_fraction", "algo=bc"])


def test_a_folder_with_other_files_is_refused_and_a_refused_run_leaves_none(place: Path) -> None:
    (place / "other").mkdir()
    (place / "other" / "notes.txt").write_text("mine")
    refused = train("out=other")
    assert (refused.code, refused.err) == (2, "out=other: holds other files, such as notes.txt; choose another folder\n")
    assert [path.name for path in (place / "other").iterdir()] == ["notes.txt"]
    too_long = train("out=run", "max_length=4")
    assert (too_long.code, len(too_long.err.splitlines())) == (2, 1)
    assert not (place / "run").exists()


def train(*settings: str) -> Outcome:
    given = {setting.partition("=")[0] for setting in settings}
    fits = "reference=fit" in settings or not {"reference=start", "reference=logp", "algo=sft", "algo=dft"} & set(settings)
    usual = [
        setting
        for setting in (*USUAL, *SHORT)
        if setting.partition("=")[0] not in given and (fits or not setting.startswith("fit."))
    ]
    return called(main, "iwbc.language.train", *settings, *usual)


def summary(folder: Path) -> Any:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_from_rows_to_scores(place: Path) -> None:
    scored = ("prompts=task/prompts.jsonl", "verifier=exact", "samples=2", "max_new_tokens=3")
    outcome = train("out=run", *scored)
    assert (outcome.code, outcome.err) == (0, "")
    successes = len((place / "task" / "successes.jsonl").read_text().splitlines())
    lines = outcome.out.splitlines()
    assert lines[0] == f"Data: {successes} of 120 rows are kept; {120 - successes} of the others are failures"
    assert lines[1] == "Reference: the model fitted to all 120 rows"
    assert lines[2].startswith(f"iw-SFT success κ=auto: {successes} rows with ")
    assert {path.name for path in (place / "run").iterdir()} == {
        *("config.yaml", "metrics.csv", "weights.csv", "model", "evaluation", "greedy", "summary.json")
    }
    load("run/model")
    metrics = read_csv(place / "run" / "metrics.csv")
    assert [row["step"] for row in metrics] == ["2", "4", "6"]
    assert {"loss", "nll", "ess_share", "pareto_shape", "kappa", "weight_median"} <= metrics[0].keys()
    weights = read_csv(place / "run" / "weights.csv")
    rows = read_rows(place / "task" / "rows.jsonl")
    assert rows.successes is not None
    assert [float(row["curation"]) for row in weights] == rows.successes.astype(float).tolist()
    assert {row["curation"] for row in weights if row["importance"] != ""} == {"1.0"}
    assert 0 < sum(row["importance"] != "" for row in weights) <= 6 * 8  # rows of six steps
    written = summary(place / "run")
    assert (written["reference"], written["steps"], written["data"]["kept"]) == ("fit", 6, successes)
    assert set(written["scores"]) == {"evaluation", "greedy"}

    again = train("out=run", *scored)
    assert again.code == 0 and again.out.startswith("This run is finished; nothing was trained.")
    assert train("out=run", "lr=0.02", *scored).err == "out=run: holds a run with another lr; choose another folder\n"
    other = train("out=other", "algo=sft", "reference=fit")
    assert "Reference: the model fitted to all 120 rows, from the cache" in other.out
    assert "Reference: task/model, as it is" in train("out=plain", "algo=sft").out
    assert (place / "run" / "config.yaml").read_text() != (place / "other" / "config.yaml").read_text()

    report = command("iwbc.report.__main__", "run", "other", "out=report")
    assert (report.code, report.err) == (0, "")
    table = read_csv(place / "report" / "runs.csv")
    assert [row["method"] for row in table] == ["SFT success", "iw-SFT success κ=auto"]
    assert float(table[1]["pass@1"]) == written["scores"]["evaluation"]["pass_at"]["1"] and table[0]["pass@1"] == ""

    scored = ("prompts=task/prompts.jsonl", "verifier=exact", "max_new_tokens=3")
    evaluated = command("iwbc.language.evaluate", "run=other", "samples=2", *scored)
    likeliest = command("iwbc.language.evaluate", "run=other", "greedy=true", "out=other/greedy", *scored)
    assert (evaluated.code, likeliest.code) == (0, 0)
    assert "pass@1" in command("iwbc.report.__main__", "other", "out=later").out
    (later,) = read_csv(place / "later" / "runs.csv")
    for column, name in (("pass@1", "evaluation"), ("greedy", "greedy")):
        scores = json.loads((place / "other" / name / "scores.json").read_text())["scores"]
        assert float(later[column]) == scores["pass_at"]["1"]
    assert command("iwbc.verify", "other").code == 0
    (place / "other" / "greedy" / "scores.json").write_text("{}")
    assert "other: its summary.json or scores.json is damaged" in command("iwbc.report.__main__", "other", "out=later").err

    verified = command("iwbc.verify", "run")
    assert (verified.code, verified.err) == (0, "")
    (place / "run" / "metrics.csv").write_text("step\n")
    assert command("iwbc.verify", "run").err.endswith(" checks differ: metrics.csv\n")


@pytest.mark.robustness
def test_after_ctrl_c_the_same_command_goes_on_bit_for_bit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("steps=9", "checkpoint_every=4", "algo.proposal=ema", "algo.refresh_every=2", "prompts=task/prompts.jsonl")
    settings += ("verifier=exact", "samples=2", "max_new_tokens=3")
    assert train("out=whole", *settings).code == 0
    shutil.rmtree(place / "task" / "cache")

    def stop_at(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        def begin(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
            if state.global_step == at:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(training._Watch, "on_step_begin", begin)

    with monkeypatch.context() as patch:
        stop_at(patch, 2)  # of the reference
        outcome = train("out=run", *settings)
    assert (outcome.code, outcome.err) == (130, "Interrupted before training began; the same command goes on.\n")
    assert not (place / "run").exists()
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        outcome = train("out=run", *settings)
    assert outcome.code == 130
    assert outcome.err.startswith("Interrupted. Continue with: python -m iwbc.language.train steps=9 checkpoint_every=4")
    assert outcome.err.endswith(" out=run\n")
    checkpoints = place / "run" / "checkpoints"
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-7"}
    (checkpoints / "checkpoint-7" / STATE).unlink()  # as if the process had been killed while it was written
    with monkeypatch.context() as patch:
        patch.setattr(sampling.Sampler, "draw", lambda *_: signal.raise_signal(signal.SIGINT))
        assert train("out=run", *settings).code == 130
    assert checkpoints.exists() and (place / "run" / "model").exists()
    outcome = train("out=run", *settings)
    assert (outcome.code, outcome.err) == (0, "")
    for name in ("metrics.csv", "evaluation/answers.jsonl", "model/model.safetensors", "weights.csv"):
        assert (place / "run" / name).read_bytes() == (place / "whole" / name).read_bytes(), name
    assert not checkpoints.exists()


def test_rows_beyond_the_positions_of_the_model_are_refused(place: Path) -> None:
    path = place / "task" / "rows.jsonl"
    path.write_text(path.read_text() + json.dumps({"prompt": "01>" * 9, "completion": "h", "reward": 0.0, "success": False}))
    plain = [json.loads(line) for line in path.read_text().splitlines()]
    columns = ("prompt", "completion", "reward", "success")
    path.write_text("".join(f"{json.dumps({name: row[name] for name in columns})}\n" for row in plain))
    outcome = train("out=run")
    assert outcome.code == 0 and "1 of 121 rows are longer than max_length=16" in outcome.err


def test_runs_of_policies_are_reported_apart(place: Path) -> None:
    for name, text in {"language": "kind: language\n", "control": "seed: 0\n"}.items():
        (place / name).mkdir()
        (place / name / "config.yaml").write_text(text)
    outcome = command("iwbc.report.__main__", ".")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "is a run of a language model, and" in outcome.err and "report them apart" in outcome.err
    assert "unfinished" in command("iwbc.report.__main__", "language").out
    message = "language: a run of a language model, which iwbc language evaluate, verify and report take\n"
    assert command("iwbc.evaluate", "language").err == message
    assert "this run is not finished" in command("iwbc.verify", "language").err


def test_prompts_that_cannot_be_sampled_at_the_end_are_refused_before(place: Path) -> None:
    outcome = train("out=run", "prompts=task/prompts.jsonl", "verifier=exact")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1) and "set max_new_tokens=13" in outcome.err
    assert not (place / "run").exists()
    assert "Reference:" not in outcome.out
    talk = {"id": "p", "messages": [{"role": "user", "content": "01>"}], "answer": "cc"}
    (place / "task" / "talks.jsonl").write_text(json.dumps(talk) + "\n")
    outcome = train("out=run", "prompts=task/talks.jsonl", "verifier=exact")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1) and "chat template" in outcome.err
    assert "Reference:" not in outcome.out


def test_rows_that_cannot_be_trained_on_are_refused_before_a_reference_is_fitted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "task" / "rows.jsonl"
    columns = ("prompt", "completion", "reward", "success")
    plain = [{name: row[name] for name in columns} for row in map(json.loads, path.read_text().splitlines())]
    plain.append({"prompt": "01>" * 9, "completion": "h", "reward": 1.0, "success": True})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in plain))
    monkeypatch.setattr(start, "train_on", lambda *_: pytest.fail("a reference is fitted"))
    kept = sum(row["success"] for row in plain)
    outcome = train("out=run")
    assert outcome.code == 2
    assert f"1 of {kept} rows are longer than max_length=16" in outcome.err.splitlines()[-1]
    assert not (place / "run").exists()


def test_a_run_that_diverges_says_why(place: Path) -> None:
    outcome = train("out=run", "algo.kappa=1", "algo.ess_floor=0.99", "algo.refresh_every=1", "lr=0.3", "log_every=1")
    assert outcome.code == 2 and outcome.err.startswith("diverged at step ") and outcome.err.count("\n") == 1
    assert "failed: diverged at step" in command("iwbc.report.__main__", "run").out


def test_rows_that_change_under_a_run_are_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training._Watch, "on_step_begin", lambda *_, **named: signal.raise_signal(signal.SIGINT))
        assert train("out=run", "algo=sft", "reference=start").code == 130
    path = place / "task" / "rows.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    outcome = train("out=run", "algo=sft", "reference=start")
    assert outcome.err == "out=run: holds a run with other rows in task/rows.jsonl; choose another folder\n"


def test_an_adapter_is_trained_and_trained_further(place: Path) -> None:
    outcome = train("out=run", "lora.rank=2", "lora.targets=[c_attn]")
    assert (outcome.code, outcome.err) == (0, "")
    assert (place / "run" / "model" / "adapter_config.json").exists()
    load("run/model")
    outcome = train("out=further", "model=run/model")
    assert (outcome.code, outcome.err) == (0, "")
    assert (place / "further" / "model" / "adapter_config.json").exists()
    assert train("out=both", "model=run/model", "lora.rank=2").err == (
        "lora.rank=2: the model is an adapter itself, whose training goes on; leave it out\n"
    )
    assert train("out=no", "lora.rank=2", "lora.targets=[nowhere]").err.startswith("lora.targets=nowhere: ")
    assert not (place / "no").exists()


def test_a_reference_is_said_where_no_failures_show_it(place: Path) -> None:
    only = "data=task/successes.jsonl"
    silent, fitted = train("out=run", only), train("out=run", only, "reference=fit")
    assert (silent.code, fitted.code) == (2, 2)
    assert silent.err == (
        "reference: task/successes.jsonl has no failures to fit one to; set reference=start, if the rows were sampled from the "
        "model, or reference=logp\n"
    )
    assert "has no failures: the reference would be the curated rows" in fitted.err
    assert [path.name for path in place.iterdir()] == ["task"]
    started = train("out=run", only, "reference=start")
    assert started.code == 0 and started.err.count("\n") == 1
    assert "unless they were sampled from the model, the weights amplify what it differs in" in started.err
    assert summary(place / "run")["method"] == "iw-SFT success κ=auto (keeps all)"
    assert "iw-SFT success κ=auto (keeps all)" in started.out
    assert "Reference: task/model, as it is" in started.out


@pytest.mark.parametrize("by_token", [False, True])
def test_a_reference_from_the_rows(place: Path, by_token: bool) -> None:
    plain = list(read_rows(place / "task" / "rows.jsonl").to_plain())
    for row in plain:
        lengths = len(row["completion"]) + 1
        row |= {"token_logps": [-1.5] * lengths} if by_token else {"logp": -1.5 * lengths}
    (place / "task" / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in plain))
    level = ("algo=iw_sft_paper",) if by_token else ()
    outcome = train("out=run", "reference=logp", *level)
    assert outcome.code == 0
    assert "the model does not begin at the reference of that column" in outcome.err
    assert summary(place / "run")["reference"] == "logp"


def test_levels_draw_rows_and_messages_need_a_template(place: Path) -> None:
    rows = read_rows(place / "task" / "rows.jsonl")
    talks = [[{"role": "user", "content": str(prompt)}] for prompt in rows.prompts]
    answers = [[{"role": "assistant", "content": str(text)}] for text in rows.completions]
    plain = Rows(talks, answers, levels=(rows.rewards * 2).astype(int))  # type: ignore[operator]
    write_rows(place / "task" / "talks.jsonl", plain)
    settings = ("out=run", "data=task/talks.jsonl", "curation=level", "algo=sft", "reference=start")
    assert train(*settings).err == "messages: the tokenizer has no chat template; give texts (the keys prompt and completion)\n"
    assert [path.name for path in place.iterdir()] == ["task"]
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    path = place / "task" / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    outcome = train(*settings)
    assert (outcome.code, outcome.err) == (0, "")
    assert {row["curation"] for row in read_csv(place / "run" / "weights.csv")} == {"0.0", "2.0"}


def test_a_template_that_leaves_out_the_reasoning_is_refused(place: Path) -> None:
    turns = [
        {"messages": [{"role": "user", "content": "01>"}, {"role": "assistant", "content": text}], "success": True}
        for text in ("0>c", "1>c", "c")
    ]
    (place / "task" / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    answer = "{% if message['role'] == 'assistant' %}{{ message['content'].split('>')[-1] }}{% else %}"
    template = f"{{% for message in messages %}}{answer}{{{{ message['content'] }}}}{{% endif %}}{{% endfor %}}"
    path = place / "task" / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    outcome = train("out=run", "data=task/talks.jsonl", "curation=success", "algo=sft", "reference=start")
    assert outcome.code == 2
    assert "the chat template leaves out a part of 2 of 3 completions (the first: id 0)" in outcome.err
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trainer.eos_token=nope", "trainer: "),
        ("trainer.pad_token=nope", "trainer: "),
        ("trainer.dataloader_drop_last=true", "trainer.dataloader_drop_last: would drop all rows"),
    ],
)
def test_what_trl_refuses_late_is_one_line(setting: str, says: str, place: Path) -> None:
    outcome = train("out=run", "algo=sft", "curation=success", "reference=start", "batch_size=4096", setting)
    assert outcome.code == 2
    assert outcome.err.startswith(says) and outcome.err.count("\n") == 1


def test_a_run_by_groups_of_rows(place: Path) -> None:
    rows = read_rows(place / "task" / "rows.jsonl")
    assert rows.groups is not None
    manner = str(rows.groups[0])
    outcome = train("out=run", "algo=sft", "curation=groups", f"curation.keep=[{manner}]", "reference=start")
    assert (outcome.code, outcome.err) == (0, "")
    weights = [float(row["curation"]) for row in read_csv(place / "run" / "weights.csv")]
    assert weights == [float(group == manner) for group in rows.groups]
    assert summary(place / "run")["method"] == f"SFT groups ({manner})"


WRONG = {
    "model=nowhere/at/all": "model=nowhere/at/all: no such folder",
    "data=nowhere.jsonl": "nowhere.jsonl: no such file",
    "curation=level": "curation=level: no row of task/rows.jsonl has a level above 0",
    "curation=groups": "curation.keep=[]: name groups to keep, such as [better,okay], or to drop",
    "curation=scores": "curation.path: must be given",
    "algo=awr": "Could not find 'algo/awr'",
    "algo.kapa=1": "algo.kapa: no such setting; did you mean algo.kappa or ",
    "algo.kappa=-1": "algo.kappa=-1: must be finite and not negative",
    "reference=logp": "reference=logp: task/rows.jsonl has neither logp nor token_logps",
    "reference=other": "reference=other: must be one of fit, start, logp",
    "batch_size=0": "batch_size=0: must be positive",
    "epochs=2": "epochs=2.0: would change nothing; it needs steps=null",
    "lora.alpha=3": "lora.alpha=3.0: would change nothing; it needs lora.rank above 0",
    "prompts=task/prompts.jsonl": "prompts=task/prompts.jsonl: goes with verifier=…",
    "samples=3": "samples=3: would change nothing; it needs prompts=… and verifier=…",
    "trainer.gradient_accumulation_steps=0": "must be a whole number from 1 on",
    "max_length=5": "rows are longer than max_length=5",
    "trainer.fsdp=full_shard": "reference=fit: cannot be computed by a model that is split among processes",
    "trainer.eval_strategy=steps": "trainer.eval_strategy: cannot be set here, as rows are trained on; prompts=",
    "trainer.packing=true": "trainer.packing: cannot be set here, as a weight needs to know where its completion ends",
    "trainer.learning_rate=1": "trainer.learning_rate: is the setting lr; set that",
    "trainer.weight_decya=1": "trainer.weight_decya: SFTConfig has no such setting; did you mean trainer.weight_decay?",
    "trainer.optim=adm": "trainer: ",
    "trainer.gradient_accumulation_steps=3": "batch_size=8: must be a multiple of 3",
    "too_long=cut": "too_long=cut: must be one of refuse, drop",
}


@pytest.mark.parametrize("setting", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(place: Path, setting: str) -> None:
    outcome = train("out=run", setting)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert WRONG[setting] in outcome.err
    assert [path.name for path in place.iterdir()] == ["task"]


def test_settings_must_name_model_and_data(place: Path) -> None:
    for words, missing in ((["data=x"], "model"), (["model=x"], "data")):
        outcome = called(main, "iwbc.language.train", *words)
        assert (outcome.code, outcome.err) == (2, f"{missing}: must be given\n")


def test_every_preset_is_valid_and_named_apart() -> None:
    import hydra

    presets = [f"algo={path.stem}" for path in (Path(FOLDER) / "algo").glob("*.yaml")]
    presets += ["+method=sft_q", "algo=iw_sft algo.kappa=1", "curation=all", "curation=top_fraction"]
    with hydra_on_conf(FOLDER):
        made = [validate(hydra.compose("train", ["model=m", "data=d", *preset.split()])) for preset in presets]
    methods = [settings.method for settings in made]
    assert len(set(methods)) == len(methods)
    assert {"SFT(Q)", "iw-SFT success mean κ=1", "iw-SFT success clipped product ema"} <= set(methods)


@pytest.mark.robustness
def test_a_sweep_ends_with_the_table(place: Path) -> None:
    outcome = train("-m", "out=sweep", "algo.kappa=0,1")
    assert (outcome.code, outcome.err) == (0, "")
    folders = sorted((place / "sweep").glob("iw_sft-*"))
    assert len(folders) == 2
    table = outcome.out[outcome.out.index("┏") :]
    assert all(folder.name in table for folder in folders)
    assert {yaml.safe_load((folder / "config.yaml").read_text())["algo"]["kappa"] for folder in folders} == {0, 1}
    failed = train("-m", "out=sweep", "algo.kappa=0,2", "trainer.weight_decay=0", "lora.alpha=1")
    assert failed.code == 1
    assert "failed: lora.alpha=1.0: would change nothing" in failed.out


@pytest.mark.robustness
def test_it_is_launched_by_accelerate(place: Path) -> None:
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1", "--dynamo_backend=no")
    words = ("-m", "iwbc.language.train", *USUAL, *SHORT, "out=run", "reference=start")
    usual = [word for word in words if not word.startswith("fit.")]
    outcome = finish(python(*launch, "--mixed_precision=no", *usual, cwd=place))
    assert outcome.code == 0, outcome.err
    assert summary(place / "run")["steps"] == 6

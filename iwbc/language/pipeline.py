"""One training of a language model from end to end: rows → weights → reference → training → scores → the run's folder.

config.yaml    the settings
metrics.csv    a row per logged step: loss, nll without weights, ess_share, pareto_shape, kappa, quantiles of the weights
weights.csv    every row's id, curation weight and importance weight when last seen, empty where training never saw it
model/         the model or adapter, with its tokenizer
evaluation/, greedy/   completions and scores of the prompts, sampled and likeliest, where prompts are named
summary.json   method, data, reference, figures, versions, SHA-256 of the files; there only when the run is finished
checkpoints/   there only while it is not
"""

from __future__ import annotations

# mypy: disallow-untyped-calls=False
import contextlib
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from iwbc.data.curation import keeps_all, pinned
from iwbc.errors import UserError, warn
from iwbc.language import evaluate
from iwbc.language.curate import Weights, curation_weights, failures, log_probs_of, reference_of
from iwbc.language.jsonl import Rows, prompts_of, read_rows
from iwbc.language.sampling import Sampler, Sampling
from iwbc.language.settings import IWSFT, Train
from iwbc.language.start import fit, save, start
from iwbc.language.training import calmly, dataset_of, figures, is_main, is_split, make_trainer, settings_of, train_on
from iwbc.language.verifiers import check_verifier
from iwbc.language.verify import SCORES, SUMMARY, hashes, read_run
from iwbc.runs.folder import RunFolder
from iwbc.runs.results import versions
from iwbc.system.files import MALFORMED, read_json, read_yaml, write_bytes, write_csv, write_json
from iwbc.system.processes import set_threads

_LIBRARIES = ("transformers", "trl", "datasets", "accelerate", "peft")
_LONG = 100  # tokens, over whose product of clipped ratios is nearly always at a bound
_HARDLY = 0.05  # κ, with which weights say next to nothing


def run(train: Train, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, unless the folder holds the finished run, and return the summary.

    say: prints a line. Raises UserError, before anything is written, for bad input, and KeyboardInterrupt when told to stop.
    """
    set_threads(train.threads)
    train.curation = pinned(train.curation)
    with RunFolder(folder).lock() if is_main() else contextlib.nullcontext():
        _check_folder(folder, train)
        if (held := read_run(folder)) is not None:
            say("This run is finished; nothing was trained.")
            return held
        return _run(train, folder, say if is_main() else lambda line: None)


def begun(folder: Path) -> bool:
    """Tell whether a folder holds a run that the same command continues."""
    return (folder / "config.yaml").exists()


def _run(train: Train, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    begin = time.perf_counter()
    rows = read_rows(Path(train.data).expanduser())
    weights = curation_weights(rows, train)
    kind = reference_of(rows, weights, train)
    if train.weighted and kind != "logp" and is_split(train):
        raise UserError(
            f"reference={kind}: cannot be computed by a model that is split among processes (FSDP, DeepSpeed); set "
            "reference=logp, and give the rows logp or token_logps, computed where the model is whole"
        )
    if train.prompts is not None:
        assert train.verifier is not None
        check_verifier(train.verifier, prompts_of(Path(train.prompts)).answers)
    checkpoints = folder / "checkpoints"
    args = settings_of(train, train, train.algo, checkpoints)
    data = _data(rows, weights, train)
    method = train.method + (" (keeps all)" if keeps_all(weights, train.curation) else "")
    say(f"Data: {data['kept']:,} of {len(rows):,} rows are kept; {data['failures']:,} of the others are failures")
    model, tokenizer = start(train)
    if train.prompts is not None:  # what cannot be sampled at the end is refused now
        sampling = Sampling(train.samples, max_new_tokens=train.max_new_tokens)
        Sampler(model, tokenizer, prompts_of(Path(train.prompts)).prompts, sampling)
    if kind == "fit":
        fitted = fit(train, rows, weights, model, tokenizer, say)
        del model  # before another is loaded
        model, tokenizer = start(train, fitted)
    else:
        say({"start": f"Reference: {train.model}, as it is", "logp": "Reference: the log-likelihoods in the rows"}[kind])
    with calmly():
        reference = log_probs_of(rows, train) if kind == "logp" else None
        try:
            trainer = make_trainer(model, tokenizer, args, dataset_of(tokenizer, rows, weights, reference))
        except UserError:
            with contextlib.suppress(OSError):  # the library makes the folder first
                checkpoints.rmdir()
            raise
        trained: Any = trainer.train_dataset
        tokens = sum(label != -100 for labels in trained["labels"] for label in labels)
        say(f"{method}: {len(trained):,} rows with {tokens:,} tokens of completions")
        if isinstance(train.algo, IWSFT) and train.algo.level == "clipped_product" and tokens > _LONG * len(trained):
            warn(
                f"algo.level=clipped_product: completions have {tokens / len(trained):.0f} tokens on average, over which a "
                "product is nearly always at minimum or maximum; algo.level=sequence with kappa=auto adapts to them"
            )
        if is_main():
            _begin(folder, train, data)
        try:
            train_on(trainer, "Training", lambda log: write_csv(folder / "metrics.csv", log))
        except UserError as error:
            if is_main():
                RunFolder(folder).write_failure(str(error), [])
            raise
        if trainer.importance is not None and train.algo.kappa == "auto" and trainer.importance.kappa < _HARDLY:
            warn(
                f"algo.kappa=auto: came down to {trainer.importance.kappa:.2g}, with which this is nearly SFT: few rows would "
                "take most of the weight (metrics.csv); give more rows or a smaller lr, or trust them with algo.kappa=1"
            )
        log = figures(trainer.state.log_history)
        steps = trainer.state.global_step
        save(trainer, folder / "model")
        if not is_main():
            return {}
        _write_weights(folder, rows, weights, trainer)
    del trainer, model  # before the evaluation loads it again
    scores = {} if train.prompts is None else {name: _evaluated(train, folder, name) for name in ("evaluation", "greedy")}
    last = {name: value for name, value in log[-1].items() if name not in ("step", "epoch")} if log else {}
    summary = {
        **{"kind": "language", "method": method, "model": train.model, "data": {**data, "tokens": tokens}},
        **{"reference": kind, "trained": len(trained), "steps": steps, "figures": last, "scores": scores},
        **{"seconds": time.perf_counter() - begin},
        **{"versions": {**versions(), **{name: version(name) for name in _LIBRARIES}}},
    }
    shutil.rmtree(checkpoints, ignore_errors=True)
    (folder / "failure.json").unlink(missing_ok=True)
    write_json(folder / SUMMARY, {**summary, "sha256": hashes(folder)})
    return summary


def _data(rows: Rows, weights: Weights, train: Train) -> dict[str, Any]:
    successes = None if rows.successes is None else int(rows.successes.sum())
    kept, failed = int(np.count_nonzero(weights)), failures(rows, weights)
    digest = hashlib.sha256(f"{rows.content_hash()} {weights.tolist()}".encode()).hexdigest()
    return {"path": train.data, "sha256": digest, "rows": len(rows), "successes": successes, "kept": kept, "failures": failed}


def _plain(train: Train) -> dict[str, Any]:
    """Return what config.yaml holds: all settings but the folder's own name."""
    return {"kind": "language", **{name: value for name, value in asdict(train).items() if name != "out"}}


def _check_folder(folder: Path, train: Train) -> None:
    """Raise UserError where the folder holds another run, or other files, which would be taken for the run's."""
    if not begun(folder):
        others = [path.name for path in folder.glob("[!.]*") if path.name not in ("checkpoints", "failure.json")]
        if others:
            raise UserError(f"out={os.path.relpath(folder)}: holds other files, such as {min(others)}; choose another folder")
        return
    try:
        held = read_yaml(folder / "config.yaml")
        differing = [name for name, value in _plain(train).items() if held.get(name) != value]
    except MALFORMED as error:
        raise UserError(f"{folder / 'config.yaml'}: is damaged ({error}); choose another out=…") from None
    if differing:
        raise UserError(
            f"out={os.path.relpath(folder)}: holds a run with another {', '.join(differing)}; choose another folder"
        )


def _begin(folder: Path, train: Train, data: dict[str, Any]) -> None:
    """Write the settings, with which the run can be continued. Raises UserError where its rows have changed since."""
    path = folder / "checkpoints" / "data.json"
    if begun(folder) and path.exists() and read_json(path) != data:
        raise UserError(f"out={os.path.relpath(folder)}: holds a run with other rows in {train.data}; choose another folder")
    write_json(path, data)
    write_bytes(folder / "config.yaml", yaml.safe_dump(_plain(train), sort_keys=False, allow_unicode=True).encode())


def _write_weights(folder: Path, rows: Rows, weights: Weights, trainer: Any) -> None:
    trained = trainer.train_dataset["id"]
    last = [1.0] * len(trained) if trainer.importance is None else trainer.importance.last().tolist()
    by_id = {name: weight for name, weight in zip(trained, last, strict=True) if not math.isnan(weight)}
    pairs = zip(rows.ids, weights.tolist(), strict=True)
    lines = [{"id": name, "curation": weight, "importance": by_id.get(name, "")} for name, weight in pairs]
    write_csv(folder / "weights.csv", lines)


def _evaluated(train: Train, folder: Path, name: str) -> dict[str, Any]:
    """Score the trained model, unless it has been done before an interruption."""
    out = folder / name
    if not (out / SCORES).exists():
        assert train.prompts is not None and train.verifier is not None
        greedy = name == "greedy"
        options = evaluate.Options(
            run=folder,
            prompts=Path(train.prompts),
            verifier=train.verifier,
            samples=None if greedy else train.samples,
            greedy=greedy,
            max_new_tokens=train.max_new_tokens,
            seed=train.seed,
            out=out,
        )
        evaluate.evaluated(options)
    scores: dict[str, Any] = read_json(out / SCORES)["scores"]
    return scores

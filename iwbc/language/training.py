"""One training by TRL in a folder of checkpoints: bars and reports of the libraries are silenced, Ctrl-C ends after a
checkpoint, and the same call goes on from the last one that is whole."""

from __future__ import annotations

# mypy: disallow-untyped-calls=False
# Methods of TRL's trainer have no types.
import contextlib
import difflib
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from iwbc.errors import DataWarning, UserError, warn
from iwbc.language.jsonl import Rows
from iwbc.language.models import quietly
from iwbc.language.settings import DFT, IWSFT, Recipe, Train
from iwbc.language.tokens import readings
from iwbc.language.trainer import STATE, WeightedSFTConfig, WeightedSFTTrainer
from iwbc.system.interrupts import stop_requests
from iwbc.system.progress import tracked

# Of SFTConfig's names, those that have a setting here.
_NAMES = {
    **{"output_dir": "out", "learning_rate": "lr", "max_steps": "steps", "num_train_epochs": "epochs", "seed": "seed"},
    **{"per_device_train_batch_size": "batch_size", "lr_scheduler_type": "schedule", "warmup_steps": "warmup"},
    **{"max_length": "max_length", "logging_steps": "log_every", "save_steps": "checkpoint_every", "loss_type": "algo"},
    **{"curation_as": "curation_as", "too_long": "too_long", "model_init_kwargs": "dtype"},
    **{each.name: f"algo.{each.name}" for each in fields(IWSFT)},
}
# Those that would break what the command promises, with the reason.
_FIXED = {
    **dict.fromkeys(("packing", "padding_free", "eval_packing"), "a weight needs to know where its completion ends"),
    **dict.fromkeys(("save_strategy", "save_only_model", "save_total_limit"), "checkpoints are what a run goes on from"),
    **dict.fromkeys(("resume_from_checkpoint", "auto_find_batch_size"), "the same command goes on by itself"),
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), "completions alone are trained on"),
    "label_smoothing_factor": "weights have no place in that loss",
    **dict.fromkeys(("eval_strategy", "do_eval", "load_best_model_at_end"), "rows are trained on; prompts=… scores the end"),
    **dict.fromkeys(("trust_remote_code", "push_to_hub"), "no code of others is run, and nothing is uploaded"),
    **dict.fromkeys(("disable_tqdm", "remove_unused_columns", "chat_template_path"), "the command needs its own value"),
}


def processes() -> int:
    """Count the processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_split(train: Train) -> bool:
    """Tell whether the model is split among the processes, by FSDP or DeepSpeed."""
    launched = any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
    return launched or any(bool(train.trainer.get(name)) for name in ("fsdp", "deepspeed"))


def is_main() -> bool:
    """Tell the process that writes from those that train beside it."""
    return int(os.environ.get("RANK", "0")) == 0


def settings_of(train: Train, recipe: Recipe, algo: Any, folder: Path) -> WeightedSFTConfig:
    """Make TRL's settings of a training. Raises UserError for names and values that they do not have."""
    known = [each.name for each in fields(WeightedSFTConfig)]
    for name in train.trainer:
        if name in _NAMES:
            raise UserError(f"trainer.{name}: is the setting {_NAMES[name]}; set that")
        if name in _FIXED:
            raise UserError(f"trainer.{name}: cannot be set here, as {_FIXED[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean trainer.{near[0]}?" if near else "see TRL's documentation of SFTConfig"
            raise UserError(f"trainer.{name}: SFTConfig has no such setting; {hint}")
    accumulated = train.trainer.get("gradient_accumulation_steps", 1)
    if not isinstance(accumulated, int) or accumulated < 1:
        raise UserError(f"trainer.gradient_accumulation_steps={accumulated}: must be a whole number from 1 on")
    parts = processes() * accumulated
    if recipe.batch_size % parts:
        raise UserError(
            f"batch_size={recipe.batch_size}: must be a multiple of {parts}, the processes times gradient_accumulation_steps"
        )
    schedules = {"constant": "constant_with_warmup"}
    weights = asdict(algo) if isinstance(algo, IWSFT) else {"kappa": 0.0}
    usual = {"bf16": False, "report_to": "none"}
    named: dict[str, Any] = {
        **{"output_dir": str(folder), "learning_rate": recipe.lr, "warmup_steps": recipe.warmup, "seed": train.seed},
        **{"num_train_epochs": recipe.epochs, "max_steps": recipe.steps or -1},
        **{"lr_scheduler_type": schedules.get(recipe.schedule, recipe.schedule)},
        **{"per_device_train_batch_size": recipe.batch_size // parts, "max_length": train.max_length},
        **{"logging_steps": train.log_every, "save_strategy": "steps", "save_steps": train.checkpoint_every},
        **{"save_total_limit": 2, "disable_tqdm": True, "curation_as": train.curation_as, "too_long": train.too_long},
        **({"loss_type": "dft"} if isinstance(algo, DFT) else {}),
    }
    with calmly(), _refused(TypeError, RuntimeError):
        args = WeightedSFTConfig(**{**usual, **train.trainer, **named, **weights})
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs: a process trains on one; set CUDA_VISIBLE_DEVICES=0, or, for all of them, "
            "accelerate launch -m iwbc.language.train … out=…"
        )
    return args


@contextlib.contextmanager
def _refused(*others: type[Exception]) -> Iterator[None]:
    """Turn what TRL says of settings, by a ValueError, an ImportError or `others`, into a UserError of a line."""
    kinds: tuple[type[Exception], ...] = (ValueError, ImportError, *others)
    try:
        yield
    except kinds as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def dataset_of(tokenizer: Any, rows: Rows, weights: npt.NDArray[np.float64], reference: Sequence[Any] | None = None) -> Dataset:
    """Tokenise rows for TRL, with their curation weights, [N], without those of weight 0; `reference` is log π_ref of each.

    Here, and not by TRL, as a column of a Dataset has a type: messages with other keys than the rest would be filled up.
    Raises UserError where the tokenizer has no chat template for messages, or the template changes completions.
    """
    kept = np.flatnonzero(weights).tolist()
    read = readings(tokenizer, [rows.prompts[row] for row in kept], [rows.completions[row] for row in kept])
    _check_whole(rows, [row for row, reading in zip(kept, read, strict=True) if not reading.whole], len(kept))
    if apart := sum(not reading.follows for reading in read):
        warn(
            f"data: in {apart:,} of {len(kept):,} rows the completion's first tokens take the prompt's last with them, or the "
            "chat template writes another prompt: training reads another beginning than sampling writes after"
        )
    labels = [[-100] * reading.context + reading.completion for reading in read]
    columns: dict[str, Any] = {"input_ids": [reading.tokens for reading in read], "labels": labels}
    columns |= {"id": [rows.ids[row] for row in kept], "weight": weights[kept].tolist()}
    return Dataset.from_dict(columns if reference is None else {**columns, "reference_logp": [reference[row] for row in kept]})


def _check_whole(rows: Rows, changed: Sequence[int], count: int) -> None:
    """Raise UserError where the chat template leaves out parts of completions, such as the reasoning before an answer."""
    if changed:
        raise UserError(
            f"data: the chat template leaves out a part of {len(changed):,} of {count:,} completions (the first: id "
            f"{rows.ids[changed[0]]}), as some templates do with the reasoning of earlier turns; give texts (prompt and "
            "completion), or a tokenizer whose template keeps it"
        )


@contextlib.contextmanager
def calmly() -> Iterator[None]:
    """Let warnings of iwbc through, and nothing of the libraries'."""
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always" if is_main() else "ignore", DataWarning)
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()


def make_trainer(model: Any, tokenizer: Any, args: WeightedSFTConfig, rows: Dataset) -> WeightedSFTTrainer:
    """Make a trainer. Raises UserError for rows that the tokenizer or the model cannot take."""
    if args.dataloader_drop_last and len(rows) < (batch := args.per_device_train_batch_size * processes()):
        raise UserError(f"trainer.dataloader_drop_last: would drop all rows, as {len(rows):,} do not fill a batch of {batch:,}")
    model.config.use_cache = False
    # Beyond its positions a model has no likelihoods.
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and (args.max_length is None or args.max_length > positions):
        args.max_length = positions
    with _refused():
        trainer = WeightedSFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_on(trainer: WeightedSFTTrainer, title: str, logged: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
    """Train to the end, from the last whole checkpoint in the trainer's folder if there is one.

    logged: takes all rows of figures, whenever there is another. Raises KeyboardInterrupt after a checkpoint where the process
    is told to stop, UserError where training cannot go on, or memory does not suffice.
    """
    watch = _Watch(trainer, title, logged)
    trainer.add_callback(watch)
    checkpoint = last_checkpoint(Path(str(trainer.args.output_dir)))
    trainer.accelerator.wait_for_everyone()
    if checkpoint is not None and trainer.restore_finished(checkpoint):
        return
    try:
        with stop_requests(watch.stop), _refused():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise UserError(
            "not enough memory; try trainer.gradient_accumulation_steps=4, which splits a batch, a smaller max_length or "
            "model, or lora.rank=16"
        ) from None
    finally:
        watch.close()
    if watch.stopped:
        raise KeyboardInterrupt


def last_checkpoint(folder: Path) -> Path | None:
    """Find the last checkpoint that was written to its end; those after it are removed by the main process."""
    numbered = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in numbered:
        if (path / STATE).is_file():
            return path
        if is_main():
            shutil.rmtree(path)
    return None


def figures(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Select the rows of figures from a trainer's log, not the line of times at its end, in an order that outlasts a file."""
    first = ("step", "epoch", "loss", "nll")
    rows = [row for row in log if "loss" in row]
    others = [sorted(row.keys() - {*first, "num_tokens"}) for row in rows]  # TRL counts tokens since it was resumed
    return [{name: row[name] for name in (*first, *names)} for row, names in zip(rows, others, strict=True)]


class _Watch(TrainerCallback):
    """Shows the progress, hands on the figures, and ends the training after a checkpoint where that is asked for."""

    def __init__(self, trainer: WeightedSFTTrainer, title: str, logged: Callable[[Sequence[Mapping[str, Any]]], None]) -> None:
        self.stop, self.stopped = threading.Event(), False
        self._trainer, self._title, self._logged = trainer, title, logged
        self._bar: Iterator[int] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        remaining = range(state.global_step, state.max_steps)
        self._bar = iter(tracked(remaining, self._title, len(remaining)) if is_main() else remaining)
        next(self._bar, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        next(self._bar, None)
        if state.global_step >= state.max_steps:
            control.should_log = True
        stop = self.stop.is_set()
        if processes() > 1:  # all stop after the same step, as each waits for the others
            told = torch.tensor(float(stop), device=self._trainer.accelerator.device)
            stop = float(self._trainer.accelerator.reduce(told, "sum")) > 0
        if stop:
            self.stopped = control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if is_main():
            self._logged(figures(state.log_history))

    def close(self) -> None:
        """Remove the bar."""
        if close := getattr(self._bar, "close", None):
            close()

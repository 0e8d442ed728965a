"""The model that training starts from: as it is named, or fitted to all rows first, which is then the reference."""

from __future__ import annotations

# mypy: disallow-untyped-calls=False
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from transformers import set_seed

from iwbc.errors import UserError
from iwbc.language.batches import check_dropped
from iwbc.language.jsonl import Rows
from iwbc.language.models import base_of, digest, load, tokenizer_digest
from iwbc.language.settings import SFT, Train
from iwbc.language.training import calmly, dataset_of, is_main, make_trainer, processes, settings_of, train_on
from iwbc.system.files import cache_folder, read_json, write_json

# Bump when the same inputs give another reference than before.
_FORMAT = 2


def start(train: Train, fitted: Path | None = None) -> tuple[Any, Any]:
    """Load the model to be trained, with an adapter where one is, and its tokenizer; `fitted` is what `fit` returned.

    Raises UserError for whatever cannot be loaded or adapted.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = Path(train.model).expanduser()
    base, tokenizer = _base(train), train.tokenizer or train.model
    if base is None and not train.lora.rank:
        if fitted is not None:
            return load(str(fitted), None, train.dtype, "cpu")
        return load(train.model, train.tokenizer, train.dtype, "cpu", train.gguf)
    if base is not None and train.lora.rank:
        raise UserError(f"lora.rank={train.lora.rank}: the model is an adapter itself, whose training goes on; leave it out")
    model, loaded_tokenizer = load(base or train.model, tokenizer, train.dtype, "cpu", train.gguf)
    with calmly():
        if fitted is not None or base is not None:
            return PeftModel.from_pretrained(model, str(fitted or folder), is_trainable=True), loaded_tokenizer
        targets: Any = "all-linear" if train.lora.targets == ["all-linear"] else train.lora.targets
        alpha: Any = train.lora.alpha or 2 * train.lora.rank
        set_seed(train.seed)
        try:
            return get_peft_model(
                model, LoraConfig(r=train.lora.rank, lora_alpha=alpha, target_modules=targets)
            ), loaded_tokenizer
        except ValueError as error:
            raise UserError(f"lora.targets={','.join(train.lora.targets)}: {str(error).split('.')[0]}") from None


def _base(train: Train) -> str | None:
    try:
        return base_of(Path(train.model).expanduser())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model={train.model}: its adapter_config.json is damaged ({error})") from None


def fit(
    train: Train, rows: Rows, weights: npt.NDArray[np.float64], model: Any, tokenizer: Any, say: Callable[[str], None]
) -> Path:
    """Return the cached folder of the model fitted to all rows, which is trained first where there is none.

    weights: of the rows, [N], in the training that follows. model, tokenizer: what `start` returned. An entry's name is the
    hash of what it depends on. Interrupted training leaves its checkpoints beside it. Raises UserError as the trainer does,
    also, before it trains, for what the training that follows would refuse, and KeyboardInterrupt when told to stop.
    """
    names = ("max_length", "too_long", "dtype", "seed")
    contents = {
        **{"format": _FORMAT, "model": digest(model), "tokenizer": tokenizer_digest(tokenizer)},
        **{"rows": hashlib.sha256(json.dumps([rows.prompts, rows.completions]).encode()).hexdigest()},
        **{"recipe": asdict(train.fit), "lora": asdict(train.lora), **{name: getattr(train, name) for name in names}},
        **{"trainer": {name: value for name, value in train.trainer.items() if name != "report_to"}},
        **{"processes": processes()},
    }
    key = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    entry = cache_folder() / "references" / f"language-model-{key}"
    checkpoints = entry.with_name(f"{entry.name}.checkpoints")
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(entry.with_name(f"{entry.name}.lock"))
    if is_main():
        lock.acquire()
    try:
        args = settings_of(train, train.fit, SFT(), checkpoints)
        args.report_to = []
        # One process says what the cache holds: others might look before or after it is written.
        held = broadcast_object_list([_is_whole(entry)])[0] if processes() > 1 else _is_whole(entry)
        if held:
            say(f"Reference: the model fitted to all {len(rows):,} rows, from the cache ({key[:12]}…)")
            return entry
        say(f"Reference: the model fitted to all {len(rows):,} rows")
        with calmly():
            trainer = make_trainer(model, tokenizer, args, dataset_of(tokenizer, rows, np.ones(len(rows))))
            kept = {name for name, weight in zip(rows.ids, weights.tolist(), strict=True) if weight}
            dropped = len(kept.difference(trainer.train_dataset["id"]))
            check_dropped(dropped, len(kept), args.max_length, args.too_long == "drop")
            train_on(trainer, "Fitting the reference", lambda log: None)
            temporary = entry.with_name(f"{entry.name}.partial")
            save(trainer, temporary)
            if is_main():
                _put(temporary, entry)
                shutil.rmtree(checkpoints, ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
        return entry
    finally:
        lock.release()


def _is_whole(entry: Path) -> bool:
    try:
        names = read_json(entry / "files.json")
        return all((entry / name).stat().st_size == size for name, size in names.items())
    except (OSError, ValueError, AttributeError):
        return False


def _put(temporary: Path, entry: Path) -> None:
    """Let a folder become the entry, with a list of its files and their sizes."""
    write_json(temporary / "files.json", {path.name: path.stat().st_size for path in temporary.iterdir()})
    if entry.exists():
        shutil.rmtree(entry)
    temporary.rename(entry)


def save(trainer: Any, folder: Path) -> None:
    """Save a trained model, or its adapter with the place of its base, and the tokenizer; all processes have to call this."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    for adapter in getattr(model, "peft_config", {}).values():
        if Path(base := str(adapter.base_model_name_or_path)).is_dir():
            adapter.base_model_name_or_path = str(Path(base).absolute())
    model.config.use_cache = True
    if (fsdp := getattr(trainer.accelerator.state, "fsdp_plugin", None)) is not None:
        fsdp.set_state_dict_type("FULL_STATE_DICT")  # of parts, which are its default, `save_model` writes none
    trainer.save_model(str(folder))
    if is_main():
        if not any(folder.glob("*.safetensors")):
            raise UserError(
                f"{folder}: the model was not written whole; with DeepSpeed set stage3_gather_16bit_weights_on_model_save, and "
                "the same command writes it from the last checkpoint"
            )
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which could run code

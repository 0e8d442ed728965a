"""What the language tables share: tiny models trained on a task with known results, and the table's file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.language.tasks import Task, tiny_model, tiny_tokenizer


class Bench:
    """A task, its tokenizer, and the training of tiny models on it, which are kept in a folder."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self.task = folder, task
        self.tokenizer = tiny_tokenizer(task.alphabet)

    def dataset(
        self, prompts: Sequence[Any], completions: Sequence[Any], weights: npt.NDArray[np.float64] | None = None
    ) -> Any:
        """Tokenise rows once, as TRL would; `weights` are R_i."""
        from datasets import Dataset

        tokens, labels = [], []
        for prompt_text, completion_text in zip(prompts, completions, strict=True):
            prompt = self.tokenizer.encode(str(prompt_text))
            completion = [*self.tokenizer.encode(str(completion_text)), self.tokenizer.eos_token_id]
            tokens.append(prompt + completion)
            labels.append([-100] * len(prompt) + completion)
        columns = {} if weights is None else {"weight": weights.tolist()}
        return Dataset.from_dict({"input_ids": tokens, "labels": labels, **columns})

    def train(self, model: Any, dataset: Any, seed: int, steps: int, learning_rate: float, **settings: Any) -> Any:
        """Train a model with minibatches of 64 and return its trainer."""
        from iwbc.language import WeightedSFTConfig, WeightedSFTTrainer

        config = WeightedSFTConfig(
            output_dir=str(self.folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            seed=seed,
            use_cpu=True,
            gradient_checkpointing=False,
            bf16=False,
            max_length=None,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            ess_floor=0.0,
            **settings,
        )
        trainer = WeightedSFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=self.tokenizer)
        trainer.train()
        return trainer

    def untrained(self, seed: int) -> Any:
        """Make the model that training from scratch begins with."""
        return tiny_model(self.tokenizer, self.task.longest, seed)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a fresh copy of the model of that name, made once."""
        path = self.folder / name
        if not (path / "model.safetensors").exists():
            part = path.with_name(f"{path.name}.part")
            make().save_pretrained(part)
            part.rename(path)
        return self.load(name)

    def load(self, name: str) -> Any:
        """Read a model that the folder holds."""
        from transformers import GPT2LMHeadModel

        return GPT2LMHeadModel.from_pretrained(self.folder / name)


def spread(rows: Sequence[dict[str, str]], key: str) -> str:
    """Write a figure's mean ± standard deviation over seeds; a dash where no row has it."""
    values = np.array([float(row[key]) for row in rows if row.get(key)])
    if not len(values):
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")

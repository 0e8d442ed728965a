"""Draw completions of prompts from a model, verify them, and write them as rows for training.

    python -m iwbc.language.rows model=FOLDER prompts=prompts.jsonl verifier=number out=rows.jsonl

model           a folder, or a name on the Hugging Face Hub; nothing of its makers is run, and only safetensors are loaded
prompts         JSON Lines with prompt (or messages), answer, and perhaps id and choices
verifier        exact, number, choice, math, or module:function, a custom (prompt, completion, answer) → bool or reward
out             the file of rows: prompt, completion, reward, success, logp (of the model, nats), id, prompt_id
samples         completions of each prompt (default 8)
temperature     default 1, at which the rows are the model's own, and logp is the likelihood that they were drawn with
max_new_tokens  the longest completion (default 256); one that is cut there, or is empty, is left out, with a warning
batch_size      completions drawn at once (default 32); with the seed it decides what is drawn
seed            default 0

verifier_timeout  seconds after which a custom verifier, or math, counts a completion as wrong (default 5)
tokenizer         where it is not the model's: a folder or a name
gguf              the file in the model's folder that holds quantised weights
dtype, device     auto, float32, bfloat16 or float16; cpu, cuda, …

Failures stay in the file: they show what the model does, and a reference policy learns from them. After Ctrl-C the same command
goes on, to the same bytes. Needs the extra language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iwbc.errors import UserError, warn
from iwbc.language import answers
from iwbc.language.jsonl import Rows, write_rows
from iwbc.language.sampling import Sampling
from iwbc.system.arguments import at_least, parse, run


@dataclass(kw_only=True)
class Options(answers.Options):
    model: str
    out: Path
    samples: int = at_least(1, 8)


def main(arguments: Sequence[str]) -> None:
    """Write the file of rows."""
    options = parse(arguments, Options)
    sampling = Sampling(options.samples, options.temperature, options.max_new_tokens, options.batch_size, options.seed)
    if sampling.temperature != 1:
        warn(f"temperature={sampling.temperature:g}: the rows are not the model's own; logp is its likelihood at temperature 1")
    with answers.kept(options.out) as partial:
        answered = answers.answered(options.model, options, sampling, partial)
        rows = rows_of(answered)
        if left_out := len(answered.answers) - len(rows):
            cut = sum(answer.cut for answer in answered.answers)
            text = f"{cut:,} were cut by max_new_tokens={sampling.max_new_tokens}, {left_out - cut:,} are empty"
            if not len(rows):
                raise UserError(f"model={options.model}: writes nothing whole: {text}; raise max_new_tokens, or take another")
            warn(f"{left_out:,} of {len(answered.answers):,} completions are left out: {text}")
        if reread := sum(answer.reread for answer in answered.answers):
            warn(
                f"{reread:,} of {len(answered.answers):,} texts are read as other tokens than were drawn; logp is of what "
                "is read, as in training"
            )
        write_rows(options.out, rows)
    assert rows.successes is not None
    print(f"{options.out}: {len(rows):,} rows of {len(answered.prompts):,} prompts, {rows.successes.mean():.1%} of them right")


def rows_of(answered: answers.Answered) -> Rows:
    """Make rows of the completions that are whole, neither cut nor empty."""
    prompts = answered.prompts
    pairs = [
        (answer, verdict)
        for answer, verdict in zip(answered.answers, answered.verdicts, strict=True)
        if answer.text and not answer.cut
    ]
    texts = [prompts.prompts[answer.prompt] for answer, _ in pairs]
    return Rows(
        texts,
        [
            answer.text if isinstance(prompt, str) else [{"role": "assistant", "content": answer.text}]
            for prompt, (answer, _) in zip(texts, pairs, strict=True)
        ],
        rewards=np.array([verdict.reward for _, verdict in pairs], np.float64),
        successes=np.array([verdict.correct for _, verdict in pairs], np.bool_),
        ids=[f"{prompts.ids[answer.prompt]}-{answer.sample}" for answer, _ in pairs],
        prompt_ids=[prompts.ids[answer.prompt] for answer, _ in pairs],
        logps=np.array([answer.logp for answer, _ in pairs], np.float64),
    )


if __name__ == "__main__":
    run(main, __doc__)

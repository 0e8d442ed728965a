"""A model's completions of a file's prompts, with their verdicts: what the commands rows and evaluate share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from iwbc.errors import Interrupted, UserError
from iwbc.language.jsonl import Prompts, prompts_of
from iwbc.language.models import digest, load, tokenizer_digest
from iwbc.language.sampling import Answer, Sampling, sample
from iwbc.language.settings import DTYPES
from iwbc.language.verifiers import Verdict, check_verifier, verify_all
from iwbc.settings import Settings, not_negative, positive, setting
from iwbc.system.arguments import at_least
from iwbc.system.locks import exclusive_lock


@dataclass(kw_only=True)
class Options(Settings):
    """The options that both commands have."""

    prompts: Path
    verifier: str
    tokenizer: str | None = None
    gguf: str | None = None
    dtype: str = setting("auto", choices=DTYPES)
    device: str | None = None
    temperature: float = not_negative(1.0)
    max_new_tokens: int = at_least(1, 256)
    batch_size: int = at_least(1, 32)
    seed: int = at_least(0, 0)
    verifier_timeout: float = positive(5.0)


@dataclass(frozen=True)
class Answered:
    """Completions with verdicts, in the order of prompts and samples, and the hash of the model that they are of."""

    prompts: Prompts
    answers: list[Answer]
    verdicts: list[Verdict]
    model: str


def answered(model: str, options: Options, sampling: Sampling, partial: Path) -> Answered:
    """Complete and verify prompts; completions are kept in the file `partial`, from which the same call goes on.

    Raises UserError for whatever cannot be read, loaded or verified.
    """
    prompts = prompts_of(options.prompts)
    check_verifier(options.verifier, prompts.answers)
    loaded, tokenizer = load(model, options.tokenizer, options.dtype, options.device, options.gguf)
    of = {
        "model": digest(loaded),
        "tokenizer": tokenizer_digest(tokenizer),
        "prompts": prompts.content_hash(),
        "place": f"{loaded.dtype} {loaded.device.type}",
    }
    answers = sample(loaded, tokenizer, prompts.prompts, sampling, progress=True, partial=partial, of=of)
    asked = [(prompts.prompts[answer.prompt], answer.text, prompts.answers[answer.prompt]) for answer in answers]
    texts, completions, expected = zip(*asked, strict=True)
    verdicts = verify_all(options.verifier, texts, completions, expected, options.verifier_timeout, progress=True)
    return Answered(prompts, answers, verdicts, of["model"])


@contextmanager
def kept(out: Path) -> Iterator[Path]:
    """Give the file that keeps completions until `out` is written, for one process at a time; it is then removed.

    Raises UserError where `out` is there already, and for Ctrl-C Interrupted, which says what is left.
    """
    partial, is_new = out.with_name(f"{out.name}.partial"), not out.parent.exists()
    try:
        with exclusive_lock(out.with_name(f"{out.name}.lock")):
            if out.exists():
                raise UserError(f"out={out}: is there already; give another name, or remove it")
            yield partial
            partial.unlink(missing_ok=True)
    except KeyboardInterrupt:
        left = f"completions are kept in {partial}; the same command goes on" if partial.exists() else ""
        raise Interrupted(left) from None
    finally:
        if is_new:
            with suppress(OSError):  # where it holds something
                out.parent.rmdir()

"""Completions drawn from a model, batch by batch: the same bytes wherever drawing was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iwbc.errors import UserError
from iwbc.language.jsonl import Text
from iwbc.language.models import quietly
from iwbc.language.tokens import Reading, encoded, readings
from iwbc.system.files import MALFORMED, parse_json
from iwbc.system.progress import tracked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGITS = 2**27  # at once when likelihoods are computed: half a gigabyte of float32


@dataclass(frozen=True)
class Answer:
    """A completion of a prompt, both by number: its text, its tokens with the end of text, the log-likelihood of the text under
    the model (nats, at temperature 1), `cut` where it did not end within max_new_tokens, and `reread` where training reads the
    text as other tokens than were drawn, of which the log-likelihood then is."""

    prompt: int
    sample: int
    text: str
    tokens: int
    logp: float
    cut: bool
    reread: bool = False


@dataclass(frozen=True)
class Sampling:
    """The manner in which completions are drawn: `samples` of each prompt at a temperature (0: the likeliest token)."""

    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 256
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples != 1:
            raise UserError("temperature=0: draws the same completion each time; set samples=1")


class Sampler:
    """A model with the prompts that it completes, in batches of similar length, the longest first."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Text],
        sampling: Sampling,
    ) -> None:
        """Raises UserError for prompts without tokens, or too long for the model."""
        self._model, self._tokenizer, self._sampling = model, tokenizer, sampling
        self._decode: Any = tokenizer.decode  # declared to return a list, too
        self._texts = prompts
        self._prompts = [encoded(tokenizer, prompt) for prompt in prompts]
        longest = getattr(model.config, "max_position_embeddings", None)
        for number, tokens in enumerate(self._prompts, 1):
            if not tokens:
                raise UserError(f"prompts: prompt {number} has no tokens; give it a text")
            if longest is not None and len(tokens) + sampling.max_new_tokens > longest:
                raise UserError(
                    f"prompts: prompt {number} has {len(tokens):,} tokens, and the model takes {longest:,} with its "
                    f"completion; shorten it, or set max_new_tokens={max(1, longest - len(tokens))}"
                )
        places = [(i, j) for i in range(len(prompts)) for j in range(sampling.samples)]
        places.sort(key=lambda place: -len(self._prompts[place[0]]))
        size = sampling.batch_size
        self.batches = [places[first : first + size] for first in range(0, len(places), size)]

    def draw(self, number: int) -> list[Answer]:
        """Draw a batch, which depends on the seed and its number alone. Raises UserError where memory does not suffice."""
        places = self.batches[number]
        prompts = [self._prompts[prompt] for prompt, _ in places]
        ends = _ends(self._model, self._tokenizer)
        try:
            completions = self._generate(prompts, number)
            cuts = [tokens[-1] not in ends for tokens in completions]
            texts = [
                self._text(prompt, tokens if cut else tokens[:-1])
                for prompt, tokens, cut in zip(prompts, completions, cuts, strict=True)
            ]
            read = [
                Reading([*prompt, *tokens], len(prompt), prompt) if cut else reading
                for prompt, tokens, cut, reading in zip(
                    prompts, completions, cuts, self._read([self._texts[place] for place, _ in places], texts), strict=True
                )
            ]
            logps = log_likelihoods(self._model, [each.before for each in read], [each.completion for each in read])
        except RuntimeError as error:  # which of a GPU has a class of its own, that of processors none
            if "memory" not in str(error):
                raise
            size = self._sampling.batch_size
            raise UserError(f"batch_size={size}: does not fit into memory; set batch_size={max(1, size // 2)}") from None
        return [
            Answer(prompt, sample, text, len(tokens), logp, cut, _differs(reading, tokens))
            for (prompt, sample), text, tokens, logp, cut, reading in zip(
                places, texts, completions, logps, cuts, read, strict=True
            )
        ]

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        """Decode a completion after its prompt, as many tokenizers take the space from a text's first word."""
        before, whole, alone = (
            self._decode(each, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for each in (prompt, prompt + tokens, tokens)
        )
        return str(whole[len(before) :] if whole.startswith(before) else alone)

    def _read(self, prompts: Sequence[Text], texts: Sequence[str]) -> list[Reading]:
        """Return what training reads of prompts with the texts that complete them."""
        completions: list[Text] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return readings(self._tokenizer, prompts, completions)

    def _generate(self, prompts: Sequence[Sequence[int]], number: int) -> list[list[int]]:
        """Complete prompts; a completion ends with its end of text, or where it was cut."""
        import torch
        from transformers import GenerationConfig

        model: Any = self._model
        sampling = self._sampling
        ends, padding = _ends(model, self._tokenizer), self._tokenizer.pad_token_id
        width = max(map(len, prompts))
        ids = torch.tensor([[padding] * (width - len(tokens)) + list(tokens) for tokens in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in prompts], device=model.device)
        settings: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": ends, "pad_token_id": padding}
        if sampling.temperature:
            settings |= {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        seed = int(np.random.SeedSequence((sampling.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        devices = [model.device] if model.device.type == "cuda" else []
        usual = model.generation_config
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            try:
                model.generation_config = GenerationConfig()  # what a model's own adds would draw from something else
                sequences = model.generate(ids, attention_mask=mask, generation_config=GenerationConfig(**settings))
            finally:
                model.generation_config = usual
        completions = []
        for tokens in sequences[:, width:].tolist():
            end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
            completions.append(tokens[: end + 1])
        return completions


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    sampling: Sampling,
    progress: bool = False,
    partial: Path | None = None,
    of: Mapping[str, Any] | None = None,
) -> list[Answer]:
    """Draw completions, sorted by prompt and sample.

    With `partial`, a file, each batch is added to it as it is drawn, and those that it holds are not drawn again; `of` is what
    else they depend on. Raises UserError as Sampler does, and for a file of other settings.
    """
    sampler = Sampler(model, tokenizer, prompts, sampling)
    count = len(sampler.batches)
    done: list[list[Answer]] = []
    with contextlib.ExitStack() as stack:
        file = None
        if partial is not None:
            done = _resumed(partial, {**asdict(sampling), **(of or {})}, count)
            file = stack.enter_context(partial.open("ab"))
        remaining = range(len(done), count)
        for number in tracked(remaining, "Sampling", len(remaining)) if progress else remaining:
            with quietly():  # of prompts without padding it warns that they may have some
                done.append(sampler.draw(number))
            if file is not None:
                file.write(_line([asdict(answer) for answer in done[-1]]))
                file.flush()
                os.fsync(file.fileno())
    return sorted((answer for batch in done for answer in batch), key=lambda answer: (answer.prompt, answer.sample))


def _differs(reading: Reading, drawn: Sequence[int]) -> bool:
    """Tell whether training reads other tokens than were drawn; what a chat template puts after the end is none of them."""
    return not reading.follows or reading.completion[: len(drawn)] != list(drawn)


def log_likelihoods(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[float]:
    """Compute the log-likelihood of each completion's tokens after its prompt, in nats, at temperature 1."""
    import torch

    # Padded on the right, where it changes neither positions nor what tokens before it see.
    width = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    first = min(len(prompt) for prompt in prompts) - 1
    forward = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": width - first} if "logits_to_keep" in forward else {}
    skipped = first if options else 0
    vocabulary: Any = model.get_input_embeddings().num_embeddings
    at_once = max(1, _LOGITS // ((width - skipped) * int(vocabulary)))
    totals = []
    for start in range(0, len(prompts), at_once):
        pairs = list(zip(prompts[start : start + at_once], completions[start : start + at_once], strict=True))
        texts = [[*prompt, *completion] for prompt, completion in pairs]
        ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=model.device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, **options).logits
        for row, (prompt, completion) in enumerate(pairs):
            begin = len(prompt) - 1 - skipped
            totals.append(_log_likelihood(logits[row, begin : begin + len(completion)], ids.new_tensor(completion)))
    return totals


def _log_likelihood(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Sum over tokens [T] their log-likelihoods under logits [T, V]."""
    return float(logits.float().log_softmax(-1).gather(-1, tokens[:, None]).double().sum())


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the tokens that end a text: the tokenizer's, and those of the model, such as the end of a turn."""
    more = getattr(model.generation_config, "eos_token_id", None)
    tokens = more if isinstance(more, list) else [] if more is None else [more]
    return list(dict.fromkeys([tokenizer.eos_token_id, *tokens]))


def _line(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()


def _resumed(path: Path, settings: Mapping[str, Any], count: int) -> list[list[Answer]]:
    """Read the batches of a file, which begins with the hash of `settings`; begin it where there is none."""
    head = {"sampling": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]  # the last one may have been cut
    if not whole:
        path.write_bytes(_line(head))
        return []
    try:
        before, *batches = [parse_json(line.decode()) for line in whole]
        done = [[Answer(**answer) for answer in batch] for batch in batches]
    except MALFORMED as error:
        raise UserError(f"{path}: is damaged ({error}); delete it to begin again") from None
    if before != head or len(done) > count:
        raise UserError(f"{path}: is of another model, other prompts or settings; delete it, or give another out=…")
    if len(whole) < len(lines):
        os.truncate(path, sum(map(len, whole)))
    return done

"""Tokens that a model reads of a prompt, and of a prompt with its completion, as TRL makes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from iwbc.errors import UserError
from iwbc.language.jsonl import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Reading(NamedTuple):
    """Tokens of a prompt with its completion. The first `context` of them come before the completion; `prompt` are those of the
    prompt alone, of which the last may be others. `whole`: no message of the completion was changed by the chat template."""

    tokens: list[int]
    context: int
    prompt: list[int]
    whole: bool = True

    @property
    def before(self) -> list[int]:
        """The tokens before the completion."""
        return self.tokens[: self.context]

    @property
    def completion(self) -> list[int]:
        """The completion's tokens."""
        return self.tokens[self.context :]

    @property
    def follows(self) -> bool:
        """True where the completion comes after the prompt as it is sampled."""
        return self.context == len(self.prompt)


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Return the tokens of a prompt that is to be completed; messages go through the chat template.

    Raises UserError where there is none.
    """
    if isinstance(prompt, str):
        tokens: list[int] = tokenizer(prompt)["input_ids"]
    else:
        tokens = tokenizer(_rendered(tokenizer, prompt, True), add_special_tokens=False)["input_ids"]
    return tokens


def readings(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Reading]:
    """Return what training reads of prompts with their completions: a text ends with the tokenizer's end of text, messages as
    the chat template says; the completion begins where the prompt's own tokens end, or before, where they differ.

    Raises UserError where messages have no chat template.
    """
    read: list[Reading] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        whole = True
        if isinstance(prompt, str) or isinstance(completion, str):
            end = "" if str(completion).endswith(str(tokenizer.eos_token)) else tokenizer.eos_token
            tokens: list[int] = tokenizer(f"{prompt}{completion}{end}")["input_ids"]
        else:
            text = _rendered(tokenizer, [*prompt, *completion], False)
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            answer = _unspaced(text[_common(_rendered(tokenizer, prompt, False), text) :])
            # A template may space a message otherwise, but not take the reasoning before the answer.
            whole = all(_unspaced(str(message.get("content") or "")) in answer for message in completion)
        alone = encoded(tokenizer, prompt)
        read.append(Reading(tokens, max(1, _common(alone, tokens)), alone, whole))
    return read


def _common(first: Sequence[object], second: Sequence[object]) -> int:
    """Count the tokens, or characters, with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _unspaced(text: str) -> str:
    return "".join(text.split())


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[object], generation: bool) -> str:
    if tokenizer.chat_template is None:
        raise UserError("messages: the tokenizer has no chat template; give texts (the keys prompt and completion)")
    try:
        return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=generation, tokenize=False))
    except Exception as error:  # templates are programs, which raise their own
        raise UserError(f"messages: the chat template cannot take them ({error})") from None

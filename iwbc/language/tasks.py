"""Make a synthetic task whose answers can be verified:  python -m iwbc.language.tasks TASK out=FOLDER

parity   of 16 bits: careful demonstrations write the parity of each prefix and are right, hasty ones guess
bandit   two manners of a few tokens, whose rewards are drawn: careful 1, hasty 1 half of the time
sums     of six digits to base 5, their last digit: careful demonstrations write all steps, brief ones half, hasty ones none

out      the folder: rows.jsonl, prompts.jsonl (other prompts, with answers) and model, an untrained GPT-2 with its tokenizer
rows     how many demonstrations (default 20000)
careful  the share of careful ones (default 0.25); the other manners share the rest
prompts  how many prompts with answers (default 1000)
seed     the same seed gives the same bytes (default 0)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iwbc.errors import UserError, extra
from iwbc.language.jsonl import Prompts, Rows, write_prompts, write_rows
from iwbc.language.models import quietly
from iwbc.settings import Settings, share
from iwbc.system.arguments import at_least, parse, run

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
_HELD_OUT = 8  # one of so many prompts is for evaluation only

METHODS = ("reference", "sft", "dft", "mean", "sum", "clipped")


@dataclass(frozen=True)
class Task:
    """A task with demonstrations in several `manners`, of which the first is the careful one.

    `demonstrate` draws a completion of a prompt in a manner, and tells whether it succeeds. `longest`: tokens of a prompt, its
    completion and the end. `splits`: some prompts never have demonstrations, and are those for evaluation.
    """

    alphabet: str
    longest: int
    verifier: str
    manners: tuple[str, ...]
    prompt: Callable[[np.random.Generator], str]
    answer: Callable[[str], str]
    demonstrate: Callable[[str, str, np.random.Generator], tuple[str, bool]]
    splits: bool = True

    def rows(self, count: int, careful: float, seed: int) -> Rows:
        """Draw demonstrations, a share `careful` of them careful, with reward and success; the group is the manner."""
        random = np.random.default_rng((seed, 0))
        shares = [careful, *[(1 - careful) / (len(self.manners) - 1)] * (len(self.manners) - 1)]
        manners = [self.manners[i] for i in random.choice(len(self.manners), count, p=shares)]
        prompts = self._prompts(count, random, held_out=False)
        pairs = [self.demonstrate(prompt, manner, random) for prompt, manner in zip(prompts, manners, strict=True)]
        successes = np.array([success for _, success in pairs])
        completions = [text for text, _ in pairs]
        return Rows(prompts, completions, rewards=successes.astype(np.float64), successes=successes, groups=manners)

    def prompts(self, count: int, seed: int) -> Prompts:
        """Draw prompts, with answers, for evaluation."""
        prompts = self._prompts(count, np.random.default_rng((seed, 1)), held_out=True)
        return Prompts(prompts, [self.answer(prompt) for prompt in prompts], [str(i) for i in range(count)])

    def _prompts(self, count: int, random: np.random.Generator, held_out: bool) -> list[str]:
        prompts: list[str] = []
        while len(prompts) < count:
            prompt = self.prompt(random)
            if not self.splits or held_out == (hashlib.sha256(prompt.encode()).digest()[0] % _HELD_OUT == 0):
                prompts.append(prompt)
        return prompts


def parity(bits: int = 16) -> Task:
    """Make the task of the parity of `bits` bits.

    A careful completion is `c`, then for each bit one of w, x, y, z, which hold the bit and the parity so far (with parity
    alone, small transformers do not learn the steps), then `=p`. A hasty one is `h=` and a guess: without the steps parity
    cannot be learnt, so that the filter by success does not mend it.
    """

    def answer(prompt: str) -> str:
        return str(prompt.count("1") % 2)

    def demonstrate(prompt: str, manner: str, random: np.random.Generator) -> tuple[str, bool]:
        if manner == "hasty":
            guess = str(random.integers(2))
            return f"h={guess}", guess == answer(prompt)
        values = np.array([int(bit) for bit in prompt[:bits]])
        steps = "".join("wxyz"[2 * bit + sum_ % 2] for bit, sum_ in zip(values, values.cumsum(), strict=True))
        return f"c{steps}={answer(prompt)}", True

    return Task(
        alphabet="01>ch=wxyz",
        longest=2 * bits + 5,
        verifier="number",
        manners=("careful", "hasty"),
        prompt=lambda random: "".join(map(str, random.integers(2, size=bits))) + ">",
        answer=answer,
        demonstrate=demonstrate,
    )


def bandit() -> Task:
    """Make the task of two manners, `cc` with success and `h` with success half of the time, which nothing in it foretells.

    Its answer is the careful completion, so that the share of right answers is that of careful ones.
    """

    def demonstrate(prompt: str, manner: str, random: np.random.Generator) -> tuple[str, bool]:
        return ("cc", True) if manner == "careful" else ("h", bool(random.integers(2)))

    return Task(
        alphabet="01>ch",
        longest=6,
        verifier="exact",
        manners=("careful", "hasty"),
        prompt=lambda random: "".join(map(str, random.integers(2, size=2))) + ">",
        answer=lambda prompt: "cc",
        demonstrate=demonstrate,
        splits=False,
    )


def sums(terms: int = 6, base: int = 5) -> Task:
    """Make the task of the last digit of a sum of digits, all to a base of at most 10.

    Careful completions write each digit and the last digit of the sum so far, and are right, brief ones do so for the first
    half and are right in four of five, hasty ones write no steps and are right in two of five. Steps that are left out can
    hardly be learnt, so that the filter by success does not mend those manners. With a warm-up of 100 steps `tiny_model`
    learns the steps to base 5 in 500 minibatches of 64; without it not with every seed, and those to base 10 not in 1,500.
    """
    reliability = {"careful": 1.0, "brief": 0.8, "hasty": 0.4}
    written = {"careful": terms, "brief": terms // 2, "hasty": 0}

    def answer(prompt: str) -> str:
        return str(sum(map(int, prompt[:-1])) % base)

    def demonstrate(prompt: str, manner: str, random: np.random.Generator) -> tuple[str, bool]:
        sums_ = np.cumsum([int(digit) for digit in prompt[:-1]]) % base
        steps = "".join(f"{digit}{sum_}" for digit, sum_ in zip(prompt[: written[manner]], sums_, strict=False))
        success = bool(random.random() < reliability[manner])
        off = 0 if success else int(random.integers(1, base))
        return f"{manner[0]}{steps}={(sums_[-1] + off) % base}", success

    return Task(
        alphabet="0123456789"[:base] + ">=cbh",
        longest=3 * terms + 5,
        verifier="number",
        manners=tuple(reliability),
        prompt=lambda random: "".join(map(str, random.integers(base, size=terms))) + ">",
        answer=answer,
        demonstrate=demonstrate,
    )


TASKS: dict[str, Callable[[], Task]] = {"parity": parity, "bandit": bandit, "sums": sums}


def predicted(
    method: str,
    careful: float = 0.25,
    reference: float | None = None,
    kappa: float = 1.0,
    tokens: tuple[int, int] = (20, 4),
    ratio_bounds: tuple[float, float] = (0.2, 1.8),
) -> float:
    """Compute the share of careful completions that a method of METHODS ends with on the successes of `parity` or `bandit`.

    `careful` is the share in the data, of which hasty ones succeed half of the time, `reference` that of the reference policy,
    where training begins (default: the data's), `tokens` the lengths of careful and hasty completions. Their weights w of a
    policy with share c lead to odds(c) = odds(successes) · w_careful(c) / w_hasty(c), whose fixed point is approached from the
    reference: w = exp(κ · mean ρ) for mean, exp(κ · Σ ρ) for sum, the clipped ratio of the token that decides for clipped (the
    clipped product and weights of each token are the same here), and the likelihood itself for dft.
    """
    start = careful if reference is None else reference
    if method == "reference":
        return start
    successes = math.log(careful / ((1 - careful) / 2))
    low, high = map(math.log, ratio_bounds)

    def weight(ratio: float, likelihood: float, length: int) -> float:
        """Give the logarithm of a manner's weight; the ratio's and the likelihood's logarithms are of its first token."""
        return {
            "sft": 0.0,
            "dft": likelihood,
            "mean": kappa * ratio / length,
            "sum": kappa * ratio,
            "clipped": min(max(ratio, low), high),
        }[method]

    log_odds = math.log(start / (1 - start))
    before = [-_softplus(-log_odds), -_softplus(log_odds)]
    for _ in range(100_000):
        now = [-_softplus(-log_odds), -_softplus(log_odds)]
        weights = [weight(now[i] - before[i], now[i], tokens[i]) for i in range(2)]
        previous, log_odds = log_odds, successes + weights[0] - weights[1]
        if abs(log_odds - previous) < 1e-12 or abs(log_odds) > 500:
            break
    return math.exp(-_softplus(-log_odds))


def accuracy(careful: float) -> float:
    """Return the share of right answers where hasty ones are right half of the time."""
    return careful + (1 - careful) / 2


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def tiny_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of single characters. Raises UserError where the extra language is missing."""
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise UserError(f"a tokenizer: {extra('language')}") from None

    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate((PAD, EOS, *alphabet))}))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=EOS)


def tiny_model(
    tokenizer: PreTrainedTokenizerFast, longest: int, seed: int, layers: int = 2, width: int = 64
) -> GPT2LMHeadModel:
    """Make an untrained GPT-2 without dropout, of heads of 16, for texts of up to `longest` tokens."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=longest,
        n_layer=layers,
        n_embd=width,
        n_head=max(1, width // 16),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.eval()
    return model


@dataclass
class Options(Settings):
    tasks: list[str]
    out: Path
    rows: int = at_least(1, 20_000)
    careful: float = share(0.25)
    prompts: int = at_least(1, 1000)
    seed: int = at_least(0, 0)


def main(arguments: Sequence[str]) -> None:
    """Write a task's rows, prompts and model into a folder."""
    options = parse(arguments, Options)
    if len(options.tasks) != 1 or options.tasks[0] not in TASKS:
        raise UserError(f"{' '.join(options.tasks) or 'TASK'}: give one of {', '.join(TASKS)}")
    task = TASKS[options.tasks[0]]()
    tokenizer = tiny_tokenizer(task.alphabet)
    with quietly():
        tiny_model(tokenizer, task.longest, options.seed).save_pretrained(options.out / "model")
        tokenizer.save_pretrained(options.out / "model")
    write_prompts(options.out / "prompts.jsonl", task.prompts(options.prompts, options.seed))
    rows = task.rows(options.rows, options.careful, options.seed)
    write_rows(options.out / "rows.jsonl", rows)
    assert rows.successes is not None
    print(f"{options.out}: {len(rows):,} rows, {rows.successes.sum():,} of them successes; the verifier is {task.verifier}")


if __name__ == "__main__":
    run(main, __doc__)

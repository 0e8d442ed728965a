"""WeightedSFTTrainer: its weights by hand, SFT where κ is 0, and the same numbers however the work is cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from setups import finish, python

pytest.importorskip("trl")

from datasets import Dataset
from peft import LoraConfig
from transformers import OPTConfig, OPTForCausalLM
from trl import SFTConfig, SFTTrainer

from iwbc.errors import DataWarning, UserError
from iwbc.language import WeightedSFTConfig, WeightedSFTTrainer, batches
from iwbc.language.models import digest, tokenizer_digest
from iwbc.language.settings import IWSFT
from iwbc.language.tasks import bandit, predicted, tiny_model, tiny_tokenizer
from iwbc.language.trainer import STATE
from iwbc.language.weights import SequenceWeights

TASK = bandit()
TOKENIZER = tiny_tokenizer(TASK.alphabet)
# Prompts are three tokens long, careful completions two, hasty ones one, and each ends with one more.
LENGTHS = {"cc": 3, "h": 2}


def model(seed: int = 0, **others: Any) -> Any:
    return tiny_model(TOKENIZER, 16, seed, layers=1, width=16, **others)


def rows(count: int = 96, careful: float = 0.4, seed: int = 0) -> Dataset:
    """Successful and unsuccessful demonstrations alike."""
    drawn = TASK.rows(count, careful, seed)
    return Dataset.from_dict({"prompt": list(drawn.prompts), "completion": list(drawn.completions)})


def config(folder: Path, kind: Any = WeightedSFTConfig, **settings: Any) -> Any:
    usual = {
        **{"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"},
        **{"report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "bf16": False},
    }
    return kind(output_dir=str(folder), **(usual | settings))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(folder: Path, data: Dataset | None = None, start: Any = None, resume: str | None = None, **settings: Any) -> Any:
    named = {name: settings.pop(name) for name in ("peft_config", "compute_loss_func", "eval_dataset") if name in settings}
    trainer = WeightedSFTTrainer(
        model=start or model(),
        args=config(folder, **settings),
        train_dataset=data or rows(),
        processing_class=TOKENIZER,
        **named,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def difference(one: Any, other: Any) -> float:
    """The largest difference of two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((mine.detach() - theirs.detach()).abs().max()) for mine, theirs in pairs)


def test_without_temperature_it_is_trls_own_training_bit_for_bit(tmp_path: Path) -> None:
    plain = SFTTrainer(
        model=model(), args=config(tmp_path / "plain", SFTConfig), train_dataset=rows(), processing_class=TOKENIZER
    )
    plain.train()
    assert difference(plain.model, train(tmp_path / "ours", kappa=0.0).model) == 0.0
    weighted = train(tmp_path / "weighted", kappa=1.0, data=rows().add_column("reference_logp", [-1.0] * 96))
    assert difference(plain.model, weighted.model) > 1e-3


SPREAD = [0.0, 0.3, -0.4, 1.2]  # what π_ref of a row is below π_θ, at the start


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kappa": 1.0}, lambda ratio, length: np.exp(ratio)),
        ({"kappa": 0.5}, lambda ratio, length: np.exp(0.5 * ratio)),
        ({"kappa": 2.0, "level": "mean"}, lambda ratio, length: np.exp(2.0 * ratio / length)),
        ({"kappa": 1.0, "maximum": 1.5, "minimum": 0.8}, lambda ratio, length: np.clip(np.exp(ratio), 0.8, 1.5)),
        (
            {"level": "clipped_product", "step_ratio_bounds": [0.9, 1.2]},
            lambda ratio, length: np.clip(np.exp(ratio / length), 0.9, 1.2) ** length,
        ),
        (
            {"kappa": 1.0, "level": "token", "step_ratio_bounds": [0.9, 1.2]},
            lambda ratio, length: np.clip(np.exp(ratio / length), 0.9, 1.2),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
def test_a_step_follows_the_gradient_written_out_by_hand(tmp_path: Path, settings: dict[str, Any], expected: Any) -> None:
    """∇ (1/tokens) Σ_b w_b Σ_t −log π_θ, and w of each level, whose reference differs from the policy by SPREAD."""
    texts = [("01>", "cc"), ("00>", "h"), ("11>", "cc"), ("10>", "h")]
    start = model(3)
    log_probs = [by_hand(start, *text) for text in texts]
    reference = [
        (value.detach() - gap / len(value)).tolist() for value, gap in zip(log_probs, SPREAD, strict=True)
    ]  # spread over the tokens
    data = Dataset.from_dict(
        {"prompt": [a for a, _ in texts], "completion": [b for _, b in texts], "reference_logp": reference}
    )
    weights = [float(expected(gap, LENGTHS[text])) for gap, (_, text) in zip(SPREAD, texts, strict=True)]
    loss = -sum(weight * value.sum() for weight, value in zip(weights, log_probs, strict=True)) / sum(map(len, log_probs))
    start.zero_grad()
    loss.backward()
    stepped = [parameter.detach() - 0.1 * parameter.grad for parameter in start.parameters()]

    usual = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "max_grad_norm": 0.0, "weight_decay": 0.0}
    trainer = train(tmp_path, data, model(3), per_device_train_batch_size=4, self_normalise=False, **usual, **settings)
    for parameter, by_this in zip(trainer.model.parameters(), stepped, strict=True):
        torch.testing.assert_close(parameter.detach(), by_this, rtol=0, atol=2e-6)


def by_hand(start: Any, prompt: str, completion: str) -> torch.Tensor:
    """Log-likelihoods of a completion's tokens and its end, from the logits."""
    tokens = torch.tensor([*TOKENIZER.encode(prompt + completion), TOKENIZER.eos_token_id])
    log_probs = start(tokens[None]).logits[0].log_softmax(-1)
    places = torch.arange(len(prompt), len(tokens))
    return log_probs[places - 1, tokens[places]]


STATEFUL = {"kappa": "auto", "ess_count": 10.0, "proposal": "ema", "refresh_every": 1}


def test_micro_batches_and_whole_batches_give_the_same_policy(tmp_path: Path) -> None:
    settings = STATEFUL | {"learning_rate": 1e-3, "max_steps": 10}
    whole = train(tmp_path / "whole", per_device_train_batch_size=32, **settings)
    parts = train(tmp_path / "parts", per_device_train_batch_size=8, gradient_accumulation_steps=4, **settings)
    assert parts.importance.kappa == pytest.approx(whole.importance.kappa, rel=1e-3)
    assert difference(whole.model, parts.model) < 2e-6


@pytest.mark.parametrize("proposal", ["policy", "ema", "copy"])
def test_a_run_continues_from_a_checkpoint_bit_for_bit(tmp_path: Path, proposal: str) -> None:
    data = rows(40).add_column("weight", [float(1 + row % 3) for row in range(40)])
    settings = {name: value for name, value in STATEFUL.items() if name != "proposal"} | {"proposal": proposal}
    settings |= {"copy_every": 4} if proposal == "copy" else {}
    settings |= {"max_steps": 12, "save_strategy": "steps", "save_steps": 7, "seed": 5}
    whole = train(tmp_path / "whole", data, **settings)
    checkpoint = tmp_path / "whole" / "checkpoint-7"  # in the second of three epochs
    again = train(tmp_path / "again", data, resume=str(checkpoint), **settings)
    assert difference(whole.model, again.model) == 0.0
    assert whole.importance.kappa == again.importance.kappa
    torch.testing.assert_close(whole.importance.table, again.importance.table, rtol=0, atol=0)
    with pytest.raises(UserError, match="is of other rows, or another reference"):
        train(tmp_path / "other", data, model(9), resume=str(checkpoint), **settings)
    (checkpoint / STATE).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"checkpoint-7.*cannot be continued from"):
        train(tmp_path / "damaged", data, resume=str(checkpoint), **settings)


def test_a_reference_is_computed_once_and_then_read_from_the_cache(tmp_path: Path, cache: Path) -> None:
    first = train(tmp_path / "first", kappa=1.0)
    (entry,) = cache.rglob("language-*.safetensors")
    written = entry.stat().st_mtime_ns
    again = train(tmp_path / "again", kappa=1.0)
    assert (difference(first.model, again.model), entry.stat().st_mtime_ns) == (0.0, written)
    train(tmp_path / "other", start=model(1), kappa=1.0)
    assert len(list(cache.rglob("language-*.safetensors"))) == 2
    entry.write_bytes(b"damaged")
    assert difference(first.model, train(tmp_path / "mended", kappa=1.0).model) == 0.0


def test_an_adapter_is_trained_and_its_moving_average_alone_is_kept(tmp_path: Path) -> None:
    adapter = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1)
    with pytest.warns(DataWarning, match="dropout"):
        trainer = train(tmp_path, peft_config=adapter, kappa=1.0, proposal="ema", max_steps=6)
    assert all("lora" in name for name in trainer._proposal.state())
    assert all(module.p == 0.0 for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout))
    assert float(trainer.importance.table.abs().max()) > 1e-3
    assert trainer.state.log_history[0]["proposal_bound"] == pytest.approx(1.0, abs=1e-6)


def test_on_the_language_bandit_weights_choose_the_careful_manner_and_sft_keeps_the_datas(tmp_path: Path) -> None:
    """The closed form: a success is careful with 2/5 · … of what the data holds; exact weights lead to 1, DFT to the mode."""
    demonstrations = TASK.rows(1200, 0.25, 0)
    texts = {"prompt": list(demonstrations.prompts), "completion": list(demonstrations.completions)}
    every = Dataset.from_dict(texts)
    assert demonstrations.successes is not None
    successes = every.select(np.flatnonzero(demonstrations.successes).tolist())
    usual = {"per_device_train_batch_size": 64, "learning_rate": 3e-3}
    reference = train(tmp_path / "reference", every, kappa=0.0, max_steps=150, **usual).model
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    shares = {}
    for method, settings in {"sft": {"kappa": 0.0}, "sum": {"kappa": 1.0}, "dft": {"kappa": 0.0, "loss_type": "dft"}}.items():
        start = model()
        start.load_state_dict(state)
        shares[method] = careful(train(tmp_path / method, successes, start, max_steps=200, **usual, **settings).model)
    assert shares["sft"] == pytest.approx(predicted("sft", 0.25), abs=0.07)
    assert shares["sum"] > 0.95
    assert shares["dft"] < 0.05


def careful(trained: Any) -> float:
    """The probability with which a careful completion begins, over the four prompts."""
    prompts = torch.tensor([TOKENIZER.encode(prompt) for prompt in ("00>", "01>", "10>", "11>")])
    probabilities = trained(prompts).logits[:, -1].softmax(-1)
    return float(probabilities[:, TOKENIZER.convert_tokens_to_ids("c")].mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": -1.0}, "kappa=-1.0: must be finite and not negative"),
        ({"kappa": "auto", "level": "token"}, "kappa=auto: auto needs level=sequence or level=mean"),
        ({"kappa": 1.0, "level": "clipped_product"}, "kappa=1.0: would change nothing"),
        ({"kappa": 1.0, "ess_count": 10.0}, "ess_count=10.0: would change nothing; it needs kappa=auto"),
        ({"kappa": 1.0, "decay": 0.5}, "decay=0.5: would change nothing; it needs proposal=ema"),
        ({"kappa": 1.0, "packing": True}, "packing=True: a weight needs to know where its completion ends"),
        ({"kappa": 1.0, "padding_free": True}, "padding_free=True: a weight needs"),
        ({"kappa": 1.0, "loss_type": "dft"}, "loss_type=dft: has weights itself; set kappa=0"),
        ({"curation_as": "both"}, "curation_as=both: must be one of sampler, loss"),
        ({"too_long": "cut"}, "too_long=cut: must be one of refuse, drop"),
        ({"max_length": 5}, r"train_dataset: .* of 96 rows are longer than max_length=5.*too_long=drop"),
        ({"completion_only_loss": False}, "completion_only_loss=False: a weight is a ratio of completions"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1: weights have no place in this loss"),
        ({"compute_loss_func": lambda *_, **__: None}, "compute_loss_func: has a loss of its own, without weights"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha=5: noise in likelihoods would be noise in the weights"),
        ({"kappa": "much"}, "kappa=much: must be finite and not negative"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path, **settings)


def test_without_an_accelerator_it_trains_in_float32_on_the_cpu(tmp_path: Path) -> None:
    if not torch.accelerator.is_available():
        config = WeightedSFTConfig(output_dir=str(tmp_path))
        assert (config.use_cpu, config.bf16) == (True, False)


def test_rows_that_are_too_long_are_dropped_and_counted_and_never_cut(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"\d+ of 96 rows are longer than max_length=5 .*dropped"):
        trainer = train(tmp_path, kappa=1.0, max_length=5, too_long="drop")
    assert set(map(len, trainer.train_dataset["input_ids"])) == {5}
    assert all(tokens[-1] == TOKENIZER.eos_token_id for tokens in trainer.train_dataset["input_ids"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["01>cc"]}, "needs the columns prompt and completion, or messages .* it has text"),
        (
            {"prompt": ["01>"], "completion": ["cc"], "weight": [0.0]},
            "weight: must be finite and not negative, and some above 0",
        ),
        ({"prompt": ["01>"] * 2, "completion": ["cc"] * 2, "weight": [1.0, -1.0]}, "weight: must be finite"),
        ({"prompt": ["01>"], "completion": ["cc"], "reference_logp": [[-1.0]]}, "row 0 has 1 numbers for 3 tokens"),
        ({"prompt": ["01>"], "completion": ["cc"], "reference_logp": [float("nan")]}, "log π_ref .* not finite"),
        ({"prompt": ["01>"] * 2, "completion": ["cc"] * 2, "reference_logp": [-1.0, None]}, "row 1 has none"),
        ({"prompt": ["01>"] * 2, "completion": ["cc"] * 2, "weight": [1.0, None]}, "weight: row 1 has none"),
    ],
)
def test_rows_that_cannot_be_weighed_are_refused_in_one_line(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path, Dataset.from_dict(columns), kappa=1.0)


def test_parsers_of_command_lines_read_the_settings(tmp_path: Path) -> None:
    from transformers import HfArgumentParser

    words = [f"--output_dir={tmp_path}", "--kappa=0.5", "--level=mean", "--maximum=16"]
    (parsed,) = HfArgumentParser(WeightedSFTConfig).parse_args_into_dataclasses(words, look_for_args_file=False)
    assert (parsed.kappa, parsed.level) == (0.5, "mean")
    assert WeightedSFTConfig(output_dir=str(tmp_path)).kappa == "auto"


def test_adapters_that_lengthen_the_prompt_are_refused(tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(UserError, match=r"peft_config: .* puts tokens before the prompt"):
        train(tmp_path, peft_config=adapter)


def test_rows_to_evaluate_on_may_have_a_column_of_any_name(tmp_path: Path) -> None:
    data = rows(16).add_column("row", ["a"] * 16)
    trainer = train(tmp_path, rows(), kappa=1.0, eval_dataset=data)
    assert trainer.evaluate()["eval_loss"] > 0


def test_both_masks_of_tokenised_rows_count() -> None:
    row = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}
    assert batches._masked(row) == {"labels": [-100, 6, -100, 8]}


def test_weights_are_proportional_draws_or_factors(tmp_path: Path) -> None:
    data = rows(60).add_column("weight", [0.0, 1.0, 3.0] * 20)
    drawn = train(tmp_path / "drawn", data, kappa=0.0)
    assert len(drawn.train_dataset) == 40  # 0 drops a row
    sampler = drawn._get_train_sampler()
    picked = torch.cat([torch.tensor(list(epoch(sampler, number))) for number in range(50)])
    weights = torch.tensor(drawn.train_dataset["weight"])
    assert float(weights[picked].mean()) == pytest.approx(2.5, abs=0.1)  # Σ R² / Σ R
    assert list(epoch(sampler, 3)) == list(epoch(sampler, 3)) != list(epoch(sampler, 4))
    factors = train(tmp_path / "factors", data, kappa=0.0, curation_as="loss")
    assert type(factors._get_train_sampler()) is not type(sampler)
    plain = train(tmp_path / "plain", data.remove_columns("weight"), kappa=0.0)
    assert difference(factors.model, plain.model) > 1e-4


def epoch(sampler: Any, number: int) -> Any:
    sampler.set_epoch(number)
    return sampler


def test_weights_that_collapse_stop_the_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged at step \d+: the weights' effective sample size .*ess_floor=0.9"):
        train(tmp_path, kappa=1.0, learning_rate=0.1, ess_floor=0.9, refresh_every=1, max_steps=20)


def weights_of(count: int, **settings: Any) -> SequenceWeights:
    return SequenceWeights(IWSFT(**settings), torch.ones(count), torch.full((count,), 4))


@pytest.mark.parametrize("count", [400, 100_000])
def test_rows_that_were_never_seen_say_nothing_of_the_weights(count: int) -> None:
    ratios = torch.randn(320, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    importance = weights_of(count)
    importance.learn(torch.arange(320), ratios, torch.zeros(320).double())
    importance.refresh(10)
    alone = weights_of(320)
    alone.learn(torch.arange(320), ratios, torch.zeros(320).double())
    alone.refresh(10)
    assert importance.kappa == alone.kappa > 0.0
    mean = float(torch.exp(importance.kappa * ratios).mean())
    assert importance.normaliser == pytest.approx(mean) == pytest.approx(importance.metrics()["weight_mean"])
    assert importance.metrics() == alone.metrics() | {"rows_seen": 320 / count}
    assert int(importance.last().isnan().sum()) == count - 320


def test_the_temperature_is_set_after_each_of_the_first_steps() -> None:
    importance = weights_of(1000, refresh_every=10)
    importance.learn(torch.arange(64), torch.linspace(-20.0, 20.0, 64, dtype=torch.float64), torch.zeros(64).double())
    importance.refresh(1)
    assert importance.kappa < 0.5
    importance.learn(torch.arange(64), torch.zeros(64, dtype=torch.float64), torch.zeros(64).double())
    importance.refresh(11)
    assert importance.kappa < 0.5
    importance.refresh(20)
    assert importance.kappa == 1.0


@pytest.mark.parametrize("count", [4, 100, 1100])
def test_all_weight_on_one_row_stops_the_training_however_few_there_are(count: int) -> None:
    importance = weights_of(count, kappa=1.0)
    importance.learn(torch.arange(count), torch.zeros(count, dtype=torch.float64), torch.zeros(count).double())
    assert importance.trouble() is None
    importance.learn(torch.tensor([0]), torch.tensor([30.0], dtype=torch.float64), torch.zeros(1).double())
    importance._settings.maximum = 1e15
    trouble = importance.trouble()
    assert trouble is not None and "effective sample size is 1 of" in trouble


def test_a_temperature_that_is_set_is_not_that_of_a_checkpoint() -> None:
    importance = weights_of(10, kappa=0.25)
    importance.load(weights_of(10, kappa=1.0).state())
    assert importance.kappa == 0.25


def test_rows_to_evaluate_on_are_never_trained_on(tmp_path: Path) -> None:
    trainer = WeightedSFTTrainer(
        model(),
        config(tmp_path, kappa=0.0, eval_strategy="steps", eval_steps=3, logging_steps=4),
        None,
        rows(),
        {"train": rows(5, seed=1)},
        TOKENIZER,
    )
    assert len(trainer.train_dataset) == 96
    trainer.train()
    assert [("nll" in row, "eval_train_loss" in row) for row in trainer.state.log_history[:2]] == [(False, True), (True, False)]


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_the_log_likelihood_is_of_tokens_and_at_no_temperature_the_loss(tmp_path: Path, micro_batches: int) -> None:
    trainer = train(
        tmp_path, kappa=0.0, per_device_train_batch_size=8 // micro_batches, gradient_accumulation_steps=micro_batches
    )
    for row in trainer.state.log_history[:-1]:
        assert row["nll"] == pytest.approx(row["loss"], abs=1e-4)  # which is rounded


def test_tokens_of_the_prompt_are_not_weighed_however_the_completion_is_told(tmp_path: Path) -> None:
    tokens, mask = [2, 3, 4, 5, 5, 1], [0, 0, 0, 1, 1, 1]
    trainer = train(tmp_path, Dataset.from_dict({"input_ids": [tokens] * 4, "completion_mask": [mask] * 4}), kappa=1.0)
    assert trainer.train_dataset["labels"][0] == [-100, -100, -100, 5, 5, 1]


def test_a_column_that_trl_would_take_for_the_text_is_left_out(tmp_path: Path) -> None:
    trainer = train(tmp_path, rows().add_column("text", ["a note"] * 96), kappa=1.0)
    assert all(tokens[-1] == TOKENIZER.eos_token_id for tokens in trainer.train_dataset["input_ids"])


def test_in_mixed_precision_the_reference_is_computed_as_the_policy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, seen = model(3), []
    for parameter in start.parameters():
        parameter.data *= 10.0  # far apart logits, which bfloat16 rounds by a tenth of a nat
    trainer = WeightedSFTTrainer(start, config(tmp_path, kappa=1.0, bf16=True, max_steps=1), None, rows(), None, TOKENIZER)
    observe = trainer.importance.observe
    monkeypatch.setattr(trainer.importance, "observe", lambda *notes: seen.append(notes[1]) or observe(*notes))
    trainer.train()
    assert float(seen[0].abs().max()) < 0.03


def test_dropout_that_modules_keep_as_a_number_is_set_to_0(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    opt = OPTForCausalLM(OPTConfig(vocab_size=len(TOKENIZER), max_position_embeddings=32, dropout=0.1, **sizes))
    with pytest.warns(DataWarning, match="dropout is set to 0"):
        trainer = WeightedSFTTrainer(opt, config(tmp_path, kappa=1.0), None, rows(), None, TOKENIZER)
    rates = {getattr(module, "dropout", 0.0) for module in trainer.model.modules()}
    assert {rate for rate in rates if isinstance(rate, float)} == {0.0}


def test_rows_drawn_by_weight_are_drawn_in_no_other_order(tmp_path: Path) -> None:
    data = rows(60).add_column("weight", [1.0, 2.0, 3.0] * 20)
    with pytest.raises(UserError, match=r"train_sampling_strategy=group_by_length: .* set curation_as=loss"):
        train(tmp_path, data, kappa=0.0, train_sampling_strategy="group_by_length")


@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
def test_training_that_goes_on_from_itself_is_not_taken_for_a_reference_that_differs(tmp_path: Path) -> None:
    trainer = train(tmp_path, kappa=1.0, learning_rate=0.05, max_steps=20)
    trainer.train()
    assert trainer.state.global_step == 20


def test_models_and_tokenizers_that_compute_otherwise_have_another_digest() -> None:
    one, two = model(), model()
    two.config.n_head = 2
    assert digest(one) == digest(model()) != digest(two)
    other = tiny_tokenizer(TASK.alphabet)
    assert tokenizer_digest(other) == tokenizer_digest(TOKENIZER)
    other.eos_token = "h"
    assert tokenizer_digest(other) != tokenizer_digest(TOKENIZER)


def test_a_policy_that_does_not_begin_at_its_reference_is_noticed(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="the model does not begin at the reference of that column"):
        train(tmp_path, rows().add_column("reference_logp", [-1.0] * 96), kappa=1.0)


TWO = """
import sys
sys.path.insert(0, {tests!r})
import torch
from pathlib import Path
from test_language_trainer import STATEFUL, train
settings = STATEFUL | {{"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": int(sys.argv[2])}}
trainer = train(Path(sys.argv[1]), **settings)
if trainer.accelerator.is_main_process:
    torch.save({{"kappa": trainer.importance.kappa, **trainer.model.state_dict()}}, sys.argv[1] + ".pt")
"""


@pytest.mark.robustness
def test_two_processes_train_the_policy_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent)))
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        arguments = [str(script), str(out), str(16 // processes)]
        run = finish(python(*launch, *arguments, cwd=tmp_path))
        assert run.code == 0, run.err
        results.append(torch.load(f"{out}.pt", weights_only=True))
    one, two = results
    assert one.pop("kappa") == pytest.approx(two.pop("kappa"), rel=1e-3)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6


RESUMED = """
import sys
sys.path.insert(0, {tests!r})
import torch
from pathlib import Path
from test_language_trainer import rows, train
data = rows(64).add_column("weight", [1.0 + row % 5 for row in range(64)])
settings = {{"kappa": 1.0, "max_steps": 12, "per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 7}}
resume = sys.argv[1] + "/checkpoint-7" if sys.argv[2] == "resumed" else None
trainer = train(Path(sys.argv[1]), data, resume=resume, **settings)
if trainer.accelerator.is_main_process:
    torch.save(trainer.model.state_dict(), sys.argv[1] + sys.argv[2] + ".pt")
"""


@pytest.mark.robustness
def test_two_processes_go_on_within_a_later_epoch_with_the_same_rows(tmp_path: Path) -> None:
    script = tmp_path / "resumed.py"
    script.write_text(RESUMED.format(tests=str(Path(__file__).parent)))
    out, results = tmp_path / "out", []
    for what in ("whole", "resumed"):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        run = finish(python(*launch, str(script), str(out), what, cwd=tmp_path))
        assert run.code == 0, run.err
        results.append(torch.load(f"{out}{what}.pt", weights_only=True))
    one, two = results
    assert all(torch.equal(one[name], two[name]) for name in one)

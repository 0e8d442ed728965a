"""Models that are loaded, the synthetic tasks, and completions that are drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from setups import command

pytest.importorskip("trl")

import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from iwbc.errors import DataWarning, UserError
from iwbc.language import sampling as drawing
from iwbc.language.jsonl import prompts_of, read_rows
from iwbc.language.models import digest, load, load_tokenizer, without_dropout
from iwbc.language.sampling import Answer, Sampling, log_likelihoods, sample
from iwbc.language.tasks import TASKS, accuracy, bandit, parity, predicted, sums, tiny_model, tiny_tokenizer
from iwbc.language.tokens import readings
from iwbc.language.verifiers import verify_all

TASK = bandit()
TOKENIZER = tiny_tokenizer(TASK.alphabet)
PROMPTS = ["01>", "1>", "0>", "11>", "1"]
FEW = Sampling(samples=3, max_new_tokens=6, batch_size=4, seed=7)


def make_model(seed: int = 0) -> Any:
    return tiny_model(TOKENIZER, 16, seed, layers=1, width=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with its tokenizer."""
    path = tmp_path_factory.mktemp("models") / "model"
    make_model().save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Models


def test_a_model_is_loaded_as_it_was_saved(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    model, tokenizer = load(str(folder))
    assert digest(model) == digest(make_model()) != digest(make_model(1))
    assert not model.training
    assert tokenizer("01>c")["input_ids"] == TOKENIZER("01>c")["input_ids"] == [2, 3, 4, 5]
    assert tokenizer.decode([2, 3, 4, 1], skip_special_tokens=True) == "01>"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert not [warning for warning in recwarn if issubclass(warning.category, DataWarning)]


def test_dropout_is_switched_off(damaged: Path) -> None:
    edit(damaged / "config.json", attn_pdrop=0.1, resid_pdrop=0.2)
    with pytest.warns(DataWarning, match="resid_pdrop, attn_pdrop set to 0, as noise in likelihoods") as warned:
        model, _ = load(str(damaged))
    assert len(warned) == 1
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    without_dropout(model.config, "again")


def test_an_adapter_is_loaded_with_its_base(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng():
        adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, init_lora_weights=False, fan_in_fan_out=True))
    adapted.save_pretrained(tmp_path / "adapter")
    TOKENIZER.save_pretrained(tmp_path / "adapter")
    model, _ = load(str(tmp_path / "adapter"))
    ids = torch.tensor([[2, 3, 4]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, adapted.eval()(ids).logits)
        assert not torch.equal(model(ids).logits, load(str(folder))[0](ids).logits)
    assert sample(model, TOKENIZER, PROMPTS, FEW) == sample(adapted, TOKENIZER, PROMPTS, FEW)


def test_what_cannot_be_loaded_is_one_line(damaged: Path, tmp_path: Path) -> None:
    def message(name: str | Path = damaged, **options: Any) -> str:
        with pytest.raises(UserError) as error:
            load(str(name), **options)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"model={name}: ")

    assert message(tmp_path / "nowhere") == "no such folder"
    assert (
        message("nobody/nothing")
        == "is no folder here, nor in the cache of the Hub, which is offline; correct the name, or connect"
    )
    assert message("a b") == "is no folder here, and no name of a model of the Hub"
    assert message(gguf="x.gguf").startswith("cannot be read as GGUF")
    weights, config = damaged / "model.safetensors", damaged / "config.json"
    tensors, whole = load_file(weights), weights.read_bytes()
    save_file({name: tensor for name, tensor in tensors.items() if "wpe" not in name}, weights, {"format": "pt"})
    assert message() == "is damaged: its file has no transformer.wpe.weight, one of 1; get it again"
    weights.write_bytes(whole[:100])
    assert message() == "is damaged: its weights cannot be read; get it again"
    weights.unlink()
    torch.save(tensors, damaged / "pytorch_model.bin")
    assert message().startswith("has no model.safetensors; a model pickled in .bin is not loaded")
    weights.write_bytes(whole)
    edit(config, n_embd=32)
    assert message().startswith("is damaged: the sizes of its weights")
    edit(config, n_embd=16, model_type="another", auto_map={"AutoConfig": "code.Config"})
    (damaged / "code.py").write_text("raise SystemExit('it ran')")
    assert message().startswith("needs code of its own, which is not run")
    config.write_text("{")
    assert "cannot be loaded, damaged or of an unknown kind" in message()


def test_tokenizers_that_cannot_serve(damaged: Path, tmp_path: Path) -> None:
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="has no end of text"):
        load_tokenizer(str(tmp_path / "bare"))
    bare.eos_token = "<eos>"
    bare.save_pretrained(tmp_path / "ended")
    assert load_tokenizer(str(tmp_path / "ended")).pad_token == "<eos>"
    tiny_tokenizer("abcdefghijklm").save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="has 15 tokens, the model 7; choose the model's"):
        load(str(damaged), str(tmp_path / "other"))
    for path in damaged.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="tokenizer="):
        load(str(damaged))


# Tasks


def test_demonstrations_are_as_they_are_described() -> None:
    for make in TASKS.values():
        task = make()
        rows = task.rows(2000, 0.25, 3)
        assert rows.content_hash() == task.rows(2000, 0.25, 3).content_hash() != task.rows(2000, 0.25, 4).content_hash()
        groups, successes = np.array(rows.groups), rows.successes
        assert successes is not None and rows.rewards is not None
        assert rows.rewards.tolist() == successes.tolist()
        assert abs((groups == "careful").mean() - 0.25) < 0.05
        assert successes[groups == "careful"].all()
        tokenizer = tiny_tokenizer(task.alphabet)
        texts = [f"{prompt}{text}" for prompt, text in zip(rows.prompts, rows.completions, strict=True)]
        lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]
        assert max(lengths) == task.longest
        assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts[:50]] == texts[:50]


def test_rewards_are_what_the_verifier_says() -> None:
    for task in (parity(), parity(4), sums()):
        rows = task.rows(500, 0.25, 0)
        answers = [task.answer(str(prompt)) for prompt in rows.prompts]
        verdicts = verify_all(task.verifier, rows.prompts, rows.completions, answers)
        assert rows.successes is not None
        assert [verdict.correct for verdict in verdicts] == rows.successes.tolist()


def test_prompts_for_evaluation_have_no_demonstrations() -> None:
    task = parity(8)
    assert not set(task.rows(2000, 0.25, 0).prompts) & set(task.prompts(500, 0).prompts)
    prompts = task.prompts(500, 0)
    assert all(
        answer == str(str(prompt).count("1") % 2) for prompt, answer in zip(prompts.prompts, prompts.answers, strict=True)
    )


def test_sums_write_their_steps() -> None:
    random, task = np.random.default_rng(0), sums(4)
    assert task.demonstrate("3413>", "careful", random) == ("c33421331=1", True)
    brief = {task.demonstrate("3413>", "brief", random) for _ in range(100)}
    assert brief == {("b3342=1", True), *((f"b3342={digit}", False) for digit in "0234")}


def test_parity_s_steps_hold_bit_and_parity() -> None:
    text, success = parity(4).demonstrate("0110>", "careful", np.random.default_rng(0))
    assert (text, success) == ("cwzyw=0", True)


@pytest.mark.parametrize(
    ("method", "options", "share"),
    [
        ("reference", {}, 0.25),
        ("sft", {}, 0.4),
        ("sft", {"careful": 0.75}, 6 / 7),
        ("dft", {}, 0.0),
        ("dft", {"careful": 0.5}, 1.0),
        ("mean", {}, 0.4221),
        ("mean", {"kappa": 4.0}, 0.5946),
        ("mean", {"kappa": 6.0}, 1.0),
        ("clipped", {}, 6 / 7),
        ("sum", {}, 1.0),
        ("sum", {"reference": 0.5}, 0.0),
        ("mean", {"reference": 0.5}, 0.3845),
    ],
)
def test_predictions_in_closed_form(method: str, options: dict[str, float], share: float) -> None:
    assert predicted(method, **options) == pytest.approx(share, abs=1e-4)  # type: ignore[arg-type]


def test_accuracy_of_a_share_of_careful_answers() -> None:
    assert (accuracy(0.4), accuracy(1.0)) == (0.7, 1.0)


def test_a_task_s_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        outcome = command("iwbc.language.tasks", "bandit", f"out={tmp_path / name}", "rows=50", "prompts=5", "seed=2")
        assert (outcome.code, outcome.err) == (0, "")
        assert "50 rows" in outcome.out
    written = {name: {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()} for name in ("a", "b")}
    assert written["a"] == written["b"]
    assert len(read_rows(tmp_path / "a" / "rows.jsonl")) == 50
    assert prompts_of(tmp_path / "a" / "prompts.jsonl").answers == ["cc"] * 5
    assert load(str(tmp_path / "a" / "model"))[0].num_parameters() == 100_928
    assert command("iwbc.language.tasks", "riddle", f"out={tmp_path}").err == "riddle: give one of parity, bandit, sums\n"


# Sampling


def test_completions_come_in_the_order_of_their_prompts() -> None:
    answers = sample(make_model(), TOKENIZER, PROMPTS, FEW)
    assert [(answer.prompt, answer.sample) for answer in answers] == [(i, j) for i in range(5) for j in range(3)]
    assert answers == sample(make_model(), TOKENIZER, PROMPTS, FEW)
    assert answers != sample(make_model(), TOKENIZER, PROMPTS, Sampling(samples=3, max_new_tokens=6, batch_size=4, seed=8))


def test_drawing_leaves_the_global_seed_and_the_model_s_settings_alone() -> None:
    model = make_model()
    model.generation_config.update(top_k=1, repetition_penalty=5.0)  # which would change what is drawn
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert sample(model, TOKENIZER, PROMPTS, FEW) == sample(make_model(), TOKENIZER, PROMPTS, FEW)
    assert torch.equal(state, torch.get_rng_state())
    assert model.generation_config.top_k == 1


def test_log_likelihoods_are_those_of_a_pass_without_padding() -> None:
    model = make_model()
    for answer in sample(model, TOKENIZER, PROMPTS, FEW):
        prompt = TOKENIZER(PROMPTS[answer.prompt])["input_ids"]
        with torch.inference_mode():
            tokens = prompt + TOKENIZER(answer.text)["input_ids"] + ([] if answer.cut else [1])
            logps = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        expected = sum(float(logps[place - 1, tokens[place]]) for place in range(len(prompt), len(tokens)))
        assert len(tokens) - len(prompt) == answer.tokens
        assert answer.logp == pytest.approx(expected, abs=1e-4)
        assert answer.cut is (answer.tokens == 6 and tokens[-1] != 1)


WORDS = ["<pad>", "<eos>", "▁The", "▁answer", "▁is", "▁5", "▁Q:", "<unk>", "▁an", "swer"]


def word_tokenizer() -> Any:
    """A tokenizer that keeps the space before a word in its token, as Llama's, and has a special token for thoughts."""
    core = Tokenizer(models.BPE({word: number for number, word in enumerate(WORDS)}, [("▁an", "swer")], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("drawn", "text", "read"),
    [
        ([2, 3, 4, 5, 1], " The answer is 5", [2, 3, 4, 5, 1]),
        ([2, 10, 4, 1], " The<think> is", [2, 10, 4, 1]),
        ([2, 8, 9, 1], " The answer", [2, 3, 1]),  # the tokenizer has a longer token for it
    ],
)
def test_a_completion_s_text_is_what_was_drawn_and_its_likelihood_that_of_what_is_read(
    drawn: list[int], text: str, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = word_tokenizer()
    model = tiny_model(tokenizer, 16, 0, layers=1, width=16)
    sampler = drawing.Sampler(model, tokenizer, ["Q:"], Sampling(samples=1, max_new_tokens=8))
    monkeypatch.setattr(sampler, "_generate", lambda prompts, number: [drawn])
    (answer,) = sampler.draw(0)
    assert (answer.text, answer.tokens, answer.reread) == (text, len(drawn), drawn != read)
    assert answer.logp == pytest.approx(log_likelihoods(model, [[6]], [read])[0])


def test_samples_are_as_likely_as_the_model_says() -> None:
    answers = sample(make_model(), TOKENIZER, ["0>"], Sampling(samples=4000, max_new_tokens=1, batch_size=500))
    with torch.inference_mode():
        likely = make_model()(torch.tensor([TOKENIZER("0>")["input_ids"]])).logits[0, -1].softmax(-1)
    counts = {token: sum(answer.text == char for answer in answers) / 4000 for token, char in enumerate(TASK.alphabet, 2)}
    assert all(abs(share - float(likely[token])) < 0.04 for token, share in counts.items())
    ends = [answer for answer in answers if not answer.cut]
    assert abs(len(ends) / 4000 - float(likely[1])) < 0.04
    assert all(answer.text == "" and answer.tokens == 1 for answer in ends)


def test_likelihoods_of_few_rows_at_once_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, completions = [[2, 3, 4], [3], [2, 2]], [[5, 1], [6, 6, 1], [1]]
    whole = log_likelihoods(make_model(), prompts, completions)
    monkeypatch.setattr(drawing, "_LOGITS", 1)
    assert log_likelihoods(make_model(), prompts, completions) == pytest.approx(whole, abs=1e-5)


def test_greedy_takes_the_likeliest_token() -> None:
    model = make_model()
    (answer,) = sample(model, TOKENIZER, ["01>"], Sampling(samples=1, temperature=0, max_new_tokens=1))
    with torch.inference_mode():
        logps = model(torch.tensor([TOKENIZER("01>")["input_ids"]])).logits[0, -1].log_softmax(-1)
    assert answer.logp == pytest.approx(float(logps.max()), abs=1e-5)
    with pytest.raises(UserError, match="temperature=0: draws the same completion each time; set samples=1"):
        Sampling(samples=2, temperature=0)


def test_padding_changes_nothing() -> None:
    alone, together = (Sampling(samples=1, temperature=0, max_new_tokens=4, batch_size=size) for size in (1, 5))
    model = make_model()
    answers = [sample(model, TOKENIZER, PROMPTS, sampling) for sampling in (alone, together)]
    for first, second in zip(*answers, strict=True):
        assert (first.text, first.tokens, first.cut) == (second.text, second.tokens, second.cut)
        assert first.logp == pytest.approx(second.logp, abs=1e-4)


def batches_then_stop(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    draw, drawn = drawing.Sampler.draw, iter(range(count))

    def stopping(self: drawing.Sampler, number: int) -> list[Answer]:
        if next(drawn, None) is None:
            raise KeyboardInterrupt
        return draw(self, number)

    monkeypatch.setattr(drawing.Sampler, "draw", stopping)


def test_drawing_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(make_model(), TOKENIZER, PROMPTS, FEW)
    path = tmp_path / "answers.partial"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        batches_then_stop(patch, 2)
        sample(make_model(), TOKENIZER, PROMPTS, FEW, partial=path)
    path.write_bytes(path.read_bytes() + b'[{"prompt": 0, "samp')  # as a kill would leave it
    with monkeypatch.context() as patch:
        batches_then_stop(patch, 2)  # of four
        assert sample(make_model(), TOKENIZER, PROMPTS, FEW, partial=path) == whole
    with pytest.raises(UserError, match="is of another model, other prompts or settings; delete it"):
        sample(make_model(), TOKENIZER, PROMPTS, FEW, partial=path, of={"model": "another"})
    path.write_text("{}\n[3]\n")
    with pytest.raises(UserError, match="is damaged"):
        sample(make_model(), TOKENIZER, PROMPTS, FEW, partial=path)


@pytest.fixture
def chatting() -> Iterator[None]:
    TOKENIZER.chat_template = (
        "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    yield
    TOKENIZER.chat_template = None


def test_messages_go_through_the_chat_template(chatting: None) -> None:
    talk: Any = [[{"role": "user", "content": "01"}]]
    assert drawing.encoded(TOKENIZER, talk[0]) == drawing.encoded(TOKENIZER, "01>")
    texts = [[answer.text for answer in sample(make_model(), TOKENIZER, each, FEW)] for each in (talk, ["01>"])]
    assert texts[0] == texts[1]


def test_what_training_reads_begins_where_the_prompt_s_tokens_end(chatting: None) -> None:
    end = TOKENIZER.eos_token_id
    (text,) = readings(TOKENIZER, ["01>"], ["cc"])
    assert (text.prompt, text.completion) == (TOKENIZER("01>")["input_ids"], [*TOKENIZER("cc")["input_ids"], end])
    assert text.follows and text.whole
    (ended,) = readings(TOKENIZER, ["01>"], [f"cc{TOKENIZER.eos_token}"])
    assert ended == text
    talk: Any = [{"role": "user", "content": "01"}]
    call: Any = [{"role": "assistant", "content": "c", "tool_calls": [{"arguments": {"a": 1}}]}]
    # The template puts > after the prompt that is to be completed alone.
    (apart,) = readings(TOKENIZER, [talk], [call])
    assert (apart.completion, apart.follows, apart.whole) == (TOKENIZER("c")["input_ids"], False, True)
    mixed = readings(TOKENIZER, ["01>", talk], ["cc", call])
    assert mixed == [text, apart]


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ("{{ message['content'] | trim }}", True),
        ("{{ message['content'].split('>')[0] }}> {{ message['content'].split('>')[-1] }}", True),
        ("{{ message['content'].split('>')[-1] }}", False),
    ],
)
def test_what_a_template_leaves_out_of_a_completion_is_told_from_its_space(answer: str, whole: bool, chatting: None) -> None:
    user = "{% if message['role'] == 'user' %}{{ message['content'] }}>{% else %}"
    TOKENIZER.chat_template = f"{{% for message in messages %}}{user}{answer}{{% endif %}}{{% endfor %}}"
    talk: Any = [{"role": "user", "content": "01"}]
    (read,) = readings(Spaced(), [talk], [[{"role": "assistant", "content": " c>c\n"}]])  # type: ignore[arg-type]
    assert read.whole is whole
    assert read.follows


class Spaced:
    """The tokenizer of the tests, to which space is nothing."""

    chat_template = True

    def __call__(self, text: str, **options: Any) -> Any:
        return TOKENIZER("".join(text.split()), **options)

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return str(TOKENIZER.apply_chat_template(messages, **options))


def test_the_log_likelihood_of_a_row_is_of_what_training_reads(chatting: None) -> None:
    model = make_model()
    answers = sample(model, TOKENIZER, [[{"role": "user", "content": "01"}]], FEW)
    whole = [answer for answer in answers if not answer.cut]
    assert whole and all(answer.reread for answer in whole)
    for answer in whole:
        (read,) = readings(TOKENIZER, [[{"role": "user", "content": "01"}]], [[{"role": "assistant", "content": answer.text}]])
        (expected,) = drawing.log_likelihoods(model, [read.tokens[: read.context]], [read.completion])
        assert answer.logp == pytest.approx(expected, abs=1e-4)


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore.")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(UserError, match="batch_size=4: does not fit into memory; set batch_size=2"):
        sample(model, TOKENIZER, PROMPTS, FEW)


def test_prompts_that_cannot_be_completed() -> None:
    with pytest.raises(UserError, match="the tokenizer has no chat template; give texts"):
        sample(make_model(), TOKENIZER, [[{"role": "user", "content": "01"}]], FEW)
    with pytest.raises(UserError, match="prompt 2 has no tokens"):
        sample(make_model(), TOKENIZER, ["0", ""], FEW)
    with pytest.raises(UserError, match=r"prompt 1 has 12 tokens, and the model takes 16 .*max_new_tokens=4"):
        sample(make_model(), TOKENIZER, ["0" * 12], FEW)

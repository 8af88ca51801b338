"""What a model will take is told before it is loaded, near what it takes."""

import os
import sys
from pathlib import Path

import pytest

from node.engine.convert.conversion import convert
from node.engine.memory import estimate
from node.engine.weights import inspect
from tests import models
from tests.node.engine.llama import open_llama

MIB = 1 << 20


def test_the_parts_add_up(tmp_path: Path) -> None:
    """Context costs what is kept of it, in every slot alike; weights cost their size."""
    os.link(models.smollm2_gguf(), tmp_path / "model.gguf")
    weights = inspect(tmp_path)
    kept = 2 * 2 * 30 * 3 * 64  # bytes of a token: keys and values, layers, heads, their size
    assert estimate(weights, 2048, 1) - estimate(weights, 1024, 1) == 1024 * kept
    assert estimate(weights, 1024, 4) == estimate(weights, 4096, 1)
    assert weights.size < estimate(weights, 1, 1) < weights.size + 100 * MIB


def test_an_encoder_takes_what_a_text_takes() -> None:
    """An encoder keeps nothing for a slot, and never reads more than it was trained for."""
    weights = inspect(models.minilm())
    assert estimate(weights, 512, 1) == estimate(weights, 512, 8) == estimate(weights, 8192, 1)
    assert estimate(weights, 128, 1) < estimate(weights, 512, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of another's memory")
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_the_estimate_is_near(tmp_path: Path, kind: str) -> None:
    """A real model with a full context takes what was estimated, within 15 %."""
    (tmp_path / "model").mkdir()
    model = tmp_path / "model" / "model.gguf"
    if kind == "decoder":
        os.link(models.smollm2_gguf(), model)
    else:
        convert(models.minilm(), model, "auto", lambda done, total: None)
    need = estimate(inspect(model.parent), 512, 1)
    with open_llama(model, tmp_path, embed=kind == "encoder") as llama:
        if kind == "decoder":
            llama.likely([100] * 500)
        else:
            llama.embed([100] * 500)
        taken = llama.peak_memory()
    assert 0.85 < taken / need < 1.15, (taken // MIB, need // MIB)

"""Looped models from their folders, natively: logits and greedy tokens are those of plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from tests.fake_models import VOCAB_SIZE  # noqa: E402
from tests.looped_models import LOOPED, loop_logits, write_looped  # noqa: E402
from tests.native_models import open_target  # noqa: E402
from tests.rows import on, opened  # noqa: E402

PROMPT = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB_SIZE - 4, 45)]


@pytest.mark.parametrize("name", LOOPED)
def test_logits(name: str, tmp_path: Path) -> None:
    write_looped(tmp_path / "model", name)
    target = open_target(tmp_path / "model", tmp_path / "cache", kv="f32")
    rows, _ = opened(target, [PROMPT[:20]])
    scores = target.score(on(rows, [TokenTree.chain(PROMPT[20], PROMPT[21:])]))
    found = scores.logits(0, range(len(PROMPT) - 20))
    expected = loop_logits(tmp_path / "model", PROMPT)[-1, 20:].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", LOOPED)
def test_greedy_tokens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    write_looped(tmp_path / "model", name)
    model = outpace.load(tmp_path / "model", kv="f32", threads=1)
    for draft in ("none", "ngram"):
        made = model.generate(outpace.Prompt(PROMPT), draft=draft, max_tokens=12).token_ids
        text = list(PROMPT)
        for token in made:
            assert token == loop_logits(tmp_path / "model", text)[-1, -1].argmax()
            text.append(token)

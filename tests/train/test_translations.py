"""States of an encoder-decoder model over outputs: those of its own call, in order, again after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.heads.markov_heads import scaled  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from outpace.train import translations  # noqa: E402
from outpace.train.features import FeatureFile  # noqa: E402
from outpace.train.translations import add_translations  # noqa: E402
from tests.hf_seq2seq_families import START_ID, tiny_seq2seq  # noqa: E402

TAPS = ("0", "final")
PAIRS = [([5, 6, 7], [11, 12, 13, 14]), ([8], [15]), ([9, 10, 3, 4], [16, 17]), ([5, 5], [18, 19])]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_seq2seq("marian", encoder_layers=1, decoder_layers=2)


def written(folder: Path, model: Any, pairs: Any = PAIRS, **options: Any) -> FeatureFile:
    target = HfSeq2SeqTarget(model)
    file = FeatureFile(folder, 2 * target.hidden_size)
    add_translations(file, target, pairs, start=START_ID, taps=TAPS, **options)
    return file


def test_each_token_has_the_states_it_was_chosen_from(model: Any, tmp_path: Path) -> None:
    """One text at a time by the model itself, no padding; shorter outputs first."""
    found = written(tmp_path, model).read()
    order = [PAIRS[number] for number in (1, 3, 2, 0)]
    assert found.tokens.tolist() == [token for _, output in order for token in output]
    assert found.ends.tolist() == [1, 3, 5, 9]
    expected = []
    for source, output in order:
        with torch.no_grad():
            said = model(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([[START_ID, *output[:-1]]]),
                output_hidden_states=True,
            )
        first, last = said.decoder_hidden_states[1][0].numpy(), said.decoder_hidden_states[2][0].numpy()
        expected.append(np.concatenate([scaled(first), last], axis=1))
    np.testing.assert_allclose(found.states, np.concatenate(expected), rtol=2e-2, atol=2e-3)


def test_what_is_there_is_not_computed_again(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translations, "BATCH", 2)
    whole = written(tmp_path / "whole", model).read()
    file = written(tmp_path / "parts", model)
    file.keep(2)
    seen: list[tuple[int, int]] = []
    again = written(tmp_path / "parts", model, progress=lambda done, of, _: seen.append((done, of))).read()
    assert seen == [(4, 4)] and again.tokens.tolist() == whole.tokens.tolist()
    np.testing.assert_array_equal(again.states, whole.states)
    with pytest.raises(OutpaceError, match="holds states of other data"):
        written(tmp_path / "parts", model, PAIRS[:2])


def test_rows_are_given_back(model: Any, tmp_path: Path) -> None:
    target = HfSeq2SeqTarget(model)
    file = FeatureFile(tmp_path, target.hidden_size)
    add_translations(file, target, PAIRS, start=START_ID)
    assert target.num_sources == 0 and file.num_tokens == 9

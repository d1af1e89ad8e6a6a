"""Folders of transformers models, as trainings open them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")
from outpace.core.errors import OutpaceError
from outpace.train.opened import is_seq2seq, open_transformers
from tests.fake_models import write_hf


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_hf(tmp_path / "tiny", "llama", num_hidden_layers=1)
    assert not is_seq2seq("~/tiny")
    model, tokenizer = open_transformers("~/tiny", seq2seq=False)
    assert model.config.num_hidden_layers == 1 and tokenizer is None
    with pytest.raises(OutpaceError, match="~/other is no folder of a transformers model"):
        open_transformers("~/other", seq2seq=False)

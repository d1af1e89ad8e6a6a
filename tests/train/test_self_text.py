"""Text of a model's own: a group is a function of model, seed and number; answers are plain decoding's."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import outpace
from outpace.core.sampling import Sampling
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.models.text import Model
from outpace.rules.match import Match
from outpace.train.self_text import write_text
from tests.fake_models import write_gguf
from tests.fakes import whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("model")
    write_gguf(folder / "tiny.gguf", "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        return outpace.load(folder / "tiny.gguf")


def test_groups_are_the_same_however_they_are_reached(model: Model) -> None:
    whole = list(islice(write_text(model, seed=3, batch=8, max_answer=9), 3))
    resumed = next(write_text(model, seed=3, first_group=2, batch=8, max_answer=9))
    assert whole[2] == resumed
    assert whole[0] != next(write_text(model, seed=4, batch=8, max_answer=9))


def test_answers_are_those_of_plain_decoding(model: Model) -> None:
    documents = [d for group in islice(write_text(model, batch=8, max_answer=9), 6) for d in group]
    assert documents, "a random model rarely ends a message in time, but in 48 some do"
    for document in documents[:5]:
        request = Request(document.prompt_ids, Sampling(), 9)
        alone = whole(generate(model.target, NoDraft(), Match(), request))[1]
        assert document.token_ids == alone.token_ids


def test_without_a_chat_template_the_beginning_of_text_is_continued(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "chat", None)
    documents = next(write_text(model, batch=5, max_answer=7))
    assert len(documents) == 5 and len({tuple(d.token_ids) for d in documents}) > 1

"""Settings, the models that they draft for, and by how much a model preferred what it wrote."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from experiments.kit import subjects
from experiments.kit.heads import trainings_of
from experiments.kit.markdown import exactness
from experiments.kit.results import Results
from experiments.kit.subjects import EXACT, Setting, Subject, by_model, one_by_one, settings_of
from outpace.core.errors import OutpaceError

FROZEN, TWO, FOUR = trainings_of("gold", "base", frozen=4, finetuned=(2, 4))
FOLDER = Path("somewhere")


def test_frozen_heads_serve_every_k() -> None:
    ways = [("chain", EXACT), ("tree", "other")]
    frozen, four = (settings_of(training, (2, 4), ways) for training in (FROZEN, FOUR))
    assert [(one.k, one.draft, one.rule) for one in frozen] == [
        (2, "chain", EXACT), (2, "tree", "other"), (4, "chain", EXACT), (4, "tree", "other"),
    ]  # fmt: skip
    assert four == [Setting(FOUR, 4, "chain"), Setting(FOUR, 4, "tree", "other")]
    assert four[0].record == {"regime": "finetuned", "data": "gold", "k": 4, "draft": "chain", "rule": EXACT}
    assert Setting(FOUR, 4, "lattice", alpha=0.5).record == {
        **four[0].record,
        "draft": "lattice",
        "alpha": 0.5,
    }


def test_settings_of_one_model_are_together() -> None:
    own = trainings_of("own", "base", frozen=4, finetuned=())[0]
    rows = [Setting(one, 4, "chain") for one in (FROZEN, FOUR, own, TWO)]
    assert by_model(rows, FOLDER) == [[rows[0], rows[2]], [rows[1]], [rows[3]]]
    base, four, _ = (Subject(FOLDER, some) for some in by_model(rows, FOLDER))
    assert (base.name, base.where) == ("base", FOLDER / "base")
    assert (four.name, four.where) == ("finetuned-gold-4", FOUR.model(FOLDER))
    assert set(base.trained) == {"base", "frozen-gold-4", "frozen-own-4"}
    assert four.trained == {"finetuned-gold-4": FOUR.heads(FOLDER)}


def test_a_margin_is_where_outputs_first_differ() -> None:
    subject = Subject(FOLDER, [Setting(TWO, 2, "chain")])
    logits = torch.arange(24.0).reshape(4, 6).square()
    tokens = [1, 5, 2, 0]
    assert subject.margin(tokens, list(tokens), logits.__getitem__) is None
    assert subject.margin(tokens, [1, 5, 4, 3], logits.__getitem__) == 16**2 - 14**2
    assert subject.margin(tokens, [0, 5, 2, 0], logits.__getitem__) == 1
    assert subject.margin(tokens, [1, 3], logits.__getitem__) == 11**2 - 9**2  # another one may end sooner


def test_a_model_is_described_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = TWO.heads(tmp_path)
    where.mkdir(parents=True)
    run = {"steps_done": 7, "seconds": 90.0, "dev_bleu": 3.5, "losses": []}
    (where / "run.json").write_text(json.dumps(run))
    subject = Subject(tmp_path, [Setting(TWO, 2, "chain")])
    subject.model = "abc"
    monkeypatch.setattr(subjects, "short_fingerprint", lambda model: model)
    results = Results(tmp_path / "results.jsonl")
    subject.describe(results, lambda: {"weights": 5})
    subject.describe(results, lambda: pytest.fail("measured again"))
    trained = {"finetuned-gold-2": {"steps": 7, "minutes": 1.5, "dev_bleu": 3.5}}
    assert results.records == [
        {"kind": "model", "model": TWO.name, "fingerprint": "abc", "trainings": trained, "weights": 5}
    ]
    subject.model = "other"
    with pytest.raises(OutpaceError, match="another model finetuned-gold-2; remove it"):
        subject.describe(results, dict)


def test_tasks_are_done_in_their_order() -> None:
    done: list[str] = []
    one_by_one([(name, partial(done.append, name)) for name in "cab"])
    assert done == ["c", "a", "b"]


def test_exactness_says_how_near_the_tie_was() -> None:
    assert (
        exactness(8, [], what="texts", token="word") == "8 of 8 texts with the exact rule are greedy's own."
    )
    text = exactness(8, [1e-6, 3e-5], what="texts", token="word")
    assert text.startswith("6 of 8 texts") and "greedy's word by a logit of 3e-05 at most." in text

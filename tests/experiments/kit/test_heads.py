"""Trainings of heads: which there are, what each begins with, and what it reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from experiments.kit import heads
from experiments.kit.heads import Training, train_heads, trainings_of

FOLDER = Path("somewhere")


@dataclass
class Named:
    name: str


def test_one_training_serves_a_frozen_base_and_finetuning_goes_from_k_to_k() -> None:
    frozen, *finetuned = trainings_of("own", "mine", frozen=8, finetuned=(4, 2, 8))
    assert frozen == Training("frozen", "own", 8, "mine")
    assert [one.name for one in finetuned] == ["finetuned-own-2", "finetuned-own-4", "finetuned-own-8"]
    assert [one.before for one in finetuned] == [None, *finetuned[:-1]]
    assert frozen.begin(FOLDER) == frozen.model(FOLDER) == finetuned[0].begin(FOLDER) == FOLDER / "mine"
    two = FOLDER / "heads" / "finetuned-own-2"
    assert finetuned[0].heads(FOLDER) == two
    assert finetuned[0].model(FOLDER) == finetuned[1].begin(FOLDER) == two / "model"


def test_each_goes_on_from_the_k_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model, its heads, the batches after those that it has read; and a training that is done is left."""
    seen: dict[str, Any] = {}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pace.json").write_text(json.dumps({"precision": "bfloat16", "steps": 9}))

    def train_blockwise(base: Named, batches: Any, where: Path, **options: Any) -> None:
        seen[where.name] = base.name, batches(3), options
        where.mkdir(parents=True)
        settings = {"seed": options["plan"].seed, "model": base.name}
        run = {"settings": settings, "steps_done": options["plan"].steps, "seconds": 1.0, "finished": {}}
        (where / "run.json").write_text(json.dumps(run))

    def named(path: Path) -> Any:
        return Named(str(path.relative_to(tmp_path)))

    def all_of_them() -> None:
        for training, steps in zip(trainings, (30, 50, 70, 90), strict=True):
            train_heads(
                training, tmp_path, named, lambda step: step,
                lr=0.1, minutes=0, steps=steps, seed=5, data="d",
            )  # fmt: skip

    monkeypatch.setattr(heads, "train_blockwise", train_blockwise)
    monkeypatch.setattr(heads, "read_heads", lambda path: path.name)
    trainings = trainings_of("gold", "mine", frozen=6, finetuned=(2, 4, 6))
    all_of_them()
    found = {
        name: (base, batch, options["start"], options["plan"].steps, options["num_heads"])
        for name, (base, batch, options) in seen.items()
    }
    assert found == {
        "frozen-gold-6": ("mine", 3, None, 30, 6),
        "finetuned-gold-2": ("mine", 3, None, 50, 2),
        "finetuned-gold-4": ("heads/finetuned-gold-2/model", 53, "finetuned-gold-2", 70, 4),
        "finetuned-gold-6": ("heads/finetuned-gold-4/model", 123, "finetuned-gold-4", 90, 6),
    }
    for name, (_, _, options) in seen.items():
        frozen = name.startswith("frozen")
        assert options["precision"] == ("float32" if frozen else "bfloat16")
        assert options["data"] == "d"
    seen.clear()
    all_of_them()
    assert seen == {}

"""Super-resolution: the whole run on synthetic pictures, again, and after a kill between steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import torch

from experiments.kit.heads import Training
from experiments.kit.results import Results
from experiments.kit.subjects import EXACT
from experiments.superres import heads, pictures, run
from experiments.superres.evaluate import DISTANCE, HEADS, JACOBI, NEAR, Pixels, settings
from experiments.superres.heads import trainings
from experiments.superres.scales import SCALES
from experiments.superres.summary import PAPER, Row, findings
from outpace.core.errors import OutpaceError
from outpace.targets.pixel_model import PixelConfig
from tests.experiment_runs import check_report, kill, state, synthetic

SMOKE = SCALES["smoke"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a whole run, and its patches."""
    work = tmp_path_factory.mktemp("superres")
    write_patches(work)
    run_smoke(work)
    return work


def write_patches(work: Path) -> None:
    splits: dict[str, Any] = {"train": synthetic(256, 0), "dev": synthetic(16, 1), "test": synthetic(16, 2)}
    np.savez(work / "patches.npz", **splits)


def run_smoke(work: Path) -> None:
    patches = str(work / "patches.npz")
    run.main(["--scale", "smoke", "--work", str(work), "--patches", patches, "--threads", "1"])


def of(work: Path, kind: str, **values: Any) -> list[dict[str, Any]]:
    return Results(work / "smoke" / "results.jsonl").of(kind, **values)


def test_a_short_run_comes_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step once, with hardly any training; what comes out of more is what the slow tests look at."""
    short = replace(SMOKE, steps=4, pictures=2, timed=1, num_heads=(2, 4), own_pictures=4)
    monkeypatch.setitem(SCALES, "smoke", short)
    write_patches(tmp_path)
    run_smoke(tmp_path)
    for setting in settings(short):
        assert len(of(tmp_path, "picture", **setting.record)) == 2
        assert len(of(tmp_path, "time", **setting.record)) == 1
    check_report(tmp_path / "smoke", "blocks.png", "pictures.png")


@pytest.mark.slow
def test_every_setting_has_its_pictures_and_times(made: Path) -> None:
    rows = settings(SMOKE)
    with_heads = [one for one in rows if one.draft != JACOBI]
    assert {(one.training.regime, one.training.data, one.k) for one in with_heads} == {
        ("frozen", "gold", 2), ("frozen", "gold", 4), ("finetuned", "gold", 2), ("finetuned", "gold", 4),
        ("frozen", "own", 2), ("frozen", "own", 4), ("finetuned", "own", 4),
    }  # fmt: skip
    assert {(one.training.name, one.rule) for one in rows if one.draft == JACOBI} == {
        (name, rule) for name in ("frozen-gold-4", "finetuned-gold-4") for rule in (EXACT, DISTANCE)
    }
    for setting in rows:
        written = of(made, "picture", **setting.record)
        assert len({record["picture"] for record in written}) == len(written) == SMOKE.pictures
        assert all(record["tokens"] == SMOKE.config.num_intensities for record in written)
        assert all(record["tokens"] / setting.k <= record["calls"] <= record["tokens"] for record in written)
        times = of(made, "time", **setting.record)
        assert len(times) == SMOKE.timed
        assert all(record["wall_s"] > 0 and record["greedy_wall_s"] > 0 for record in times)
    for record in of(made, "picture", rule="greedy"):
        assert record["calls"] == record["tokens"] and record["mse_greedy"] == 0
    models = {"base", *(one.name for one in trainings(SMOKE) if one.regime == "finetuned")}
    assert {record["model"] for record in of(made, "model")} == models


@pytest.mark.slow
def test_exact_is_greedy_and_distance_accepts_more(made: Path) -> None:
    exact = of(made, "picture", rule="match")
    assert exact
    for record in exact:
        # Where rounding decides, two pictures may part, at no more than a rounding error.
        assert record["mse_greedy"] == 0 if record["margin"] is None else record["margin"] < 1e-4
    calls = {
        rule: sum(r["calls"] for r in of(made, "picture", draft=HEADS, rule=rule))
        for rule in (EXACT, DISTANCE)
    }
    # Slopes are flat: heads that repeat head 1 already save calls, and the distance rule more of them.
    assert calls[DISTANCE] < 0.95 * calls[EXACT]
    assert calls[EXACT] < 0.95 * sum(r["tokens"] for r in of(made, "picture", draft=HEADS, rule=EXACT))


@pytest.mark.slow
def test_heads_have_learned_the_models_own_pictures(made: Path) -> None:
    """The first losses are those of heads that repeat what head 1 says."""
    run_json = json.loads((made / "smoke" / "heads" / "frozen-own-4" / "run.json").read_text())
    losses = [loss for _, loss in run_json["losses"]]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


def test_all_that_is_finetuned_makes_as_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many fit into the minutes is measured with the fewest heads."""
    asked: dict[str, tuple[float, int | None]] = {}

    def train_heads(
        training: Training, folder: Path, *_: Any, minutes: float, steps: int | None, **__: Any
    ) -> None:
        asked[training.name] = minutes, steps
        training.heads(folder).mkdir(parents=True)
        run_json = json.dumps({"steps_done": steps or 77, "seconds": 1.0})
        (training.heads(folder) / "run.json").write_text(run_json)

    monkeypatch.setattr("experiments.kit.heads.train_heads", train_heads)
    scale = replace(SMOKE, num_heads=(4, 2), steps=None, frozen_minutes=3, finetuned_minutes=5)
    data = pictures.Pictures.of(synthetic(4, 0)[..., :1], scale.config)
    for training in trainings(scale):
        heads._train(training, data, tmp_path, scale, "cpu", 0)
    assert asked == {
        "frozen-gold-4": (3, None), "finetuned-gold-2": (5, None), "finetuned-gold-4": (0, 77),
        "frozen-own-4": (3, None), "finetuned-own-4": (0, 77),
    }  # fmt: skip


def test_the_report_begins_with_what_was_found() -> None:
    """Of models trained on real pictures: the most kept, the fastest; the paper's figure where it has one."""

    def row(
        regime: str, k: int, draft: str, rule: str, block: float, speed: float, data: str = "gold"
    ) -> Row:
        return Row(f"{regime}-{k}", regime, data, k, draft, rule, block, 9, speed, [], 20, -0.3, 30, 3, 4)

    rows = [
        row(regime, k, draft, rule, block + k / 10, block - k / 10)
        for regime, start in (("frozen", 1.0), ("finetuned", 2.0))
        for k in (2, 3)
        for draft, rule, block in ((HEADS, EXACT, start), (HEADS, DISTANCE, start + 1), (NEAR, DISTANCE, 9.0))
    ]
    rows += [row("frozen", 24, JACOBI, EXACT, 7, 4), row("frozen", 8, HEADS, EXACT, 99, 99, data="own")]
    text = " ".join(findings(rows).split())
    assert text.startswith("- The exact rule writes greedy's own picture in 18 of 24 cases. - Frozen heads")
    assert "to 1.30 intensities per call with the exact rule (k = 3), and up to 2.30 with the" in text
    assert "to 2.30 intensities per call with the exact rule (k = 3), and up to 3.30 with the" in text
    assert "`frozen-2`, distance rule, draft `near`) are 8.80 times as fast as greedy" in text
    assert "a PSNR 0.30 dB below" in text and "keep 7.00" in text and "99" not in text
    assert "(k = 2; the paper 1.07)" in findings(rows[:3] + rows[6:9] + rows[-2:])


@pytest.mark.slow
def test_the_report_shows_ours_beside_the_papers(made: Path) -> None:
    report = check_report(made / "smoke", "blocks.png", "pictures.png")
    line = next(line for line in report.splitlines() if line.startswith("| 4 |"))
    for points in PAPER.values():
        assert f"({points[4]:.2f})" in line
    mine = of(made, "picture", regime="finetuned", data="gold", k=4, draft=HEADS, rule="match")
    size = sum(r["tokens"] for r in mine) / sum(r["calls"] for r in mine)
    assert f"{size:.2f} ({PAPER['finetuned', 'match'][4]:.2f})" in line
    first, second = report.splitlines()[2:4]
    exact = of(made, "picture", rule="match")
    assert f"in {sum(r['mse_greedy'] == 0 for r in exact)} of {len(exact)} cases" in first
    assert second.startswith("- Frozen heads keep up to")


@pytest.mark.slow
def test_a_second_run_does_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(made)
    run_smoke(made)
    assert state(made) == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(made: Path) -> None:
    smoke = made / "smoke"
    before = state(made)
    weights = {name: data for name, (_, data) in before.items() if name.endswith("model.safetensors")}
    assert len(weights) == 1 + 5 + 3  # base, heads, finetuned models
    where = smoke / "heads" / "finetuned-gold-4"
    lines = kill(smoke, where, where / "model.safetensors")
    run_smoke(made)
    after = state(made)
    assert {name: after[name][1] for name in weights} == weights
    assert before["smoke/base/model.safetensors"] == after["smoke/base/model.safetensors"]
    again = (smoke / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert again[: len(lines) - 5] == lines[:-5]
    assert len(again) == len(lines) + 1  # another run, which says so
    assert (smoke / "REPORT.md").exists()


@pytest.mark.slow
def test_results_of_other_models_are_refused(made: Path, tmp_path: Path) -> None:
    lines = (made / "smoke" / "results.jsonl").read_text()
    fingerprint = of(made, "model", model="base")[0]["fingerprint"]
    (made / "smoke" / "results.jsonl").write_text(lines.replace(fingerprint, "0" * 12))
    with pytest.raises(SystemExit, match=r"error: .*another model base; remove it"):
        run_smoke(made)
    (made / "smoke" / "results.jsonl").write_text(lines)


@pytest.mark.slow
def test_margin_is_where_pictures_first_differ(made: Path) -> None:
    rows = [one for one in settings(SMOKE) if one.training.regime == "frozen"]
    subject = Pixels(made / "smoke", rows, "cpu")
    small = np.full(SMOKE.config.small_shape, 100, np.uint8)
    (_, (greedy,)) = next(subject.all_settings(small[None]))
    assert subject.parting(small, greedy.token_ids, greedy.token_ids) is None
    other = [*greedy.token_ids[:9], (greedy.token_ids[9] + 128) % 256, *greedy.token_ids[10:]]
    margin = subject.parting(small, greedy.token_ids, other)
    assert margin is not None and margin > 1e-3


def test_patches_larger_than_the_models_pictures_are_made_smaller(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "patches.npz", test=patches)
    config = PixelConfig(height=8, width=8, channels=3)
    read = pictures.read(tmp_path / "patches.npz", "test", config)
    mean = patches[1, 2:4, 6:8, 0].mean()
    assert read.large[1, 1, 3, 0] in (np.floor(mean), np.ceil(mean))
    mean = read.large[2, 4:, :4, 2].mean()
    assert read.small[2, 1, 0, 2] in (np.floor(mean), np.ceil(mean))


def test_patches_that_are_none_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="missing, run"):
        pictures.read(tmp_path / "none.npz", "test", SMOKE.config)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not a whole file")
    with pytest.raises(OutpaceError, match="cannot be read"):
        pictures.read(tmp_path / "cut.npz", "test", SMOKE.config)
    np.savez(tmp_path / "odd.npz", test=np.zeros((2, 12, 12, 3), np.uint8))
    with pytest.raises(OutpaceError, match="multiples of 8 x 8"):
        pictures.read(tmp_path / "odd.npz", "test", SMOKE.config)


def test_what_a_model_reads_in_training_is_off_by_some_levels() -> None:
    labels = torch.full((64, 256), 100)
    read = pictures.jittered(labels, 24, np.random.default_rng(0))
    off = (read - labels).float()
    by_picture = off.std(dim=1)
    assert abs(float(off.mean())) < 0.5 and 10 < float(by_picture.mean()) < 14  # 0 to 24 levels, evenly
    assert float(by_picture.min()) < 3 and 21 < float(by_picture.max()) < 27
    dark = pictures.jittered(torch.zeros(4, 256, dtype=torch.int64), 24, np.random.default_rng(1))
    assert int(dark.min()) == 0 < int(dark.max()) and dark.dtype == torch.int64


def test_a_batch_is_a_function_of_its_step() -> None:
    all_pictures = pictures.Pictures.of(synthetic(16, 0)[..., :1], PixelConfig(height=8, width=8))
    first, again, second = (all_pictures.batch(4, 7, step, 24.0) for step in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in ("small", "labels", "read"))
    noise = [one["read"] - one["labels"] for one in (first, second)]
    assert not torch.equal(*noise) and bool(noise[0].any())
    assert "read" not in all_pictures.batch(4, 7, 0)

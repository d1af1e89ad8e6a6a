"""Speculative sampling of mixtures and images: the run at the smallest scale, again, and after a kill."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")
import torch
from PIL import Image

from experiments.diffusion import run
from experiments.diffusion.denoisers import PIPELINE, as_pictures, as_tensor
from experiments.diffusion.digits import DIGITS_FILE, read_digits
from experiments.diffusion.images import ImageSubject, decoded, encoded
from experiments.diffusion.measure import draw
from experiments.diffusion.mixtures import MixtureSubject, merged
from experiments.diffusion.scales import DIGITS, MERGED, PATCHES, QUARTER, SCALES
from experiments.diffusion.settings import INDEPENDENT, Chain, Setting, Sweep
from experiments.diffusion.tables import Found, times_text
from experiments.kit.results import Record, Results
from outpace.core.errors import OutpaceError
from outpace.diffusion import accelerate
from outpace.diffusion.folders import load_pipeline
from outpace.diffusion.mixture import GaussianMixture
from tests.experiment_runs import check_report, kill, state, synthetic

SMOKE = SCALES["smoke"]
DIMS = [f"{dim} dimensions" for dim in SMOKE.mixtures.dims]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a run of both parts, its pictures in it."""
    work = tmp_path_factory.mktemp("diffusion")
    write_pictures(work)
    run_smoke(work)
    return work


def write_pictures(work: Path) -> None:
    np.savez(work / "patches.npz", train=synthetic(128, 0), test=synthetic(64, 1))
    np.savez(work / DIGITS_FILE, train=synthetic(128, 2), test=synthetic(64, 3))


def run_smoke(work: Path, *parts: str) -> None:
    patches = str(work / "patches.npz")
    for part in parts or ("mixtures", "images"):
        options = ["--part", part, "--patches", patches, "--threads", "1"]
        run.main(["--scale", "smoke", "--work", str(work), *options])


def of(work: Path, kind: str, **values: Any) -> list[Record]:
    return Results(work / "smoke" / "results.jsonl").of(kind, **values)


def sweeps() -> dict[str, Sweep]:
    found = dict.fromkeys(DIMS, SMOKE.mixtures.sweep)
    return found | {name: scale.sweep for name, scale in SMOKE.images.items()}


def test_a_short_run_comes_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step once, with hardly any training; what comes out of more is what the slow tests look at."""
    few = replace(SMOKE.images[DIGITS].sweep, drafts=("frozen", INDEPENDENT + QUARTER), leading=("stale",))
    images = {name: replace(of, steps=4, samples=24, sweep=few) for name, of in SMOKE.images.items()}
    monkeypatch.setitem(SCALES, "smoke", replace(SMOKE, images=images))
    write_pictures(tmp_path)
    run_smoke(tmp_path, "images")
    for subject in images:
        assert len(of(tmp_path, "setting", subject=subject)) == len(few.settings())
    report = check_report(tmp_path / "smoke", "images.png", f"{DIGITS}.png", f"{PATCHES}.png")
    assert "Not measured in this run (`--part mixtures`)" in report


@pytest.mark.slow
def test_every_setting_is_measured_once(made: Path) -> None:
    for subject, sweep in sweeps().items():
        settings = sweep.settings()
        assert len(settings) > len(sweep.drafts)
        assert len(of(made, "setting", subject=subject)) == len(settings)
        for setting in settings:
            (record,) = of(made, "setting", subject=subject, **setting.record)
            assert record["plain_calls"] == record["num"] * setting.chain.steps
            assert record["verification_calls"] <= record["sequential_calls"] <= record["evaluations"]
            sure = setting.draft.startswith(("frozen", "picard"))  # of the window's first step
            assert (record["tested"][0] == record["accepted"][0]) == sure
            assert 0 < record["p"] <= 1 and record["wall_s"] > 0
            assert len(of(made, "plain", subject=subject, **setting.chain.record)) == 1
        base = [one for one in settings if one.chain == sweep.base]
        assert len(of(made, "time", subject=subject)) == len(base)


@pytest.mark.slow
def test_no_setting_is_told_from_plain_sampling_and_other_models_are(made: Path) -> None:
    """The seeds are fixed; false alarms of both parts together had a chance of 10 %."""
    report = (made / "smoke" / "REPORT.md").read_text()
    for subjects in (DIMS, [DIGITS, PATCHES]):
        count = sum(len(sweeps()[subject].settings()) for subject in subjects)
        assert f"Of {count} settings, 0 are told from plain sampling" in report
        assert f" 0 of {count} (" in " ".join(report.partition("De Bortoli")[0].split())
    assert of(made, "control", subject=DIMS[-1], draft=MERGED)[0]["p"] < 0.005
    assert of(made, "control", subject=PATCHES, draft=QUARTER)[0]["p"] < 0.005


@pytest.mark.slow
def test_the_report_shows_what_was_measured(made: Path) -> None:
    report = (made / "smoke" / "REPORT.md").read_text()
    assert "$" not in report and str(made) not in report
    assert not any(f"--part {part}`)" in report for part in ("mixtures", "images"))
    base = SMOKE.mixtures.sweep.base
    line = next(line for line in report.splitlines() if line.startswith("| `carried` |"))
    for subject in DIMS:
        where = {**base.record, "draft": "carried", "window": SMOKE.mixtures.sweep.window}
        (record,) = of(made, "setting", subject=subject, **where)
        assert f"{record['plain_calls'] / record['sequential_calls']:.2f} / " in line
    for name, least in {"mixtures": 200, "images": 200, DIGITS: 400, PATCHES: 400}.items():
        with Image.open(made / "smoke" / f"{name}.png") as image:
            assert min(image.size) > least


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
    weights = {name: data for name, (_, data) in before.items() if name.endswith(".safetensors")}
    assert len(weights) == 4
    assert "patches, plain and drafted" in (smoke / "REPORT.md").read_text()
    (smoke / DIGITS / PIPELINE / "model_index.json").unlink()
    cut, pipeline = 14, smoke / DIGITS / PIPELINE
    lines = kill(smoke, smoke / DIGITS, next(pipeline.rglob("*.safetensors")), cut=cut)
    run_smoke(made, "mixtures")
    # What is half measured is not in the report.
    assert "patches, plain and drafted" not in (smoke / "REPORT.md").read_text()
    assert "digits, plain and drafted" in (smoke / "REPORT.md").read_text()
    run_smoke(made)
    after = state(made)
    assert {name: after[name][1] for name in weights} == weights
    again = (smoke / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert again[: len(lines) - cut] == lines[:-cut]
    assert len(again) == len(lines) + 1  # another run, which says so
    assert timeless(again[1 - cut :]) == timeless(lines[1 - cut :])
    assert (smoke / "REPORT.md").exists()


@pytest.mark.slow
def test_controls_and_prices_that_are_missing_are_measured(made: Path) -> None:
    """A kill may come between the last setting and them."""
    path = made / "smoke" / "results.jsonl"
    before = [json.loads(line) for line in path.read_text().splitlines()]

    def late(record: Record) -> bool:
        return record["kind"] == "control" or bool(record["kind"] == "price" and record["model"])

    assert {one["kind"] for one in before if late(one)} == {"control", "price"}
    path.write_text("".join(json.dumps(one) + "\n" for one in before if not late(one)))
    run_smoke(made)

    def names(records: list[Record]) -> list[tuple[str, ...]]:
        some = [one for one in records if late(one)]
        return sorted((one["kind"], one["subject"], one.get("draft") or one["model"]) for one in some)

    assert names(Results(path).of("control") + Results(path).of("price")) == names(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads is 0, accepted are whole numbers >= 1"),
        (["--part", "policy"], r"the policy needs gym-pusht: pip install"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    with pytest.raises(SystemExit, match=f"error: {message}"):
        run.main(["--scale", "smoke", "--work", str(tmp_path / "work"), *arguments])
    assert not (tmp_path / "work").exists()


def timeless(lines: list[bytes]) -> list[Record]:
    """Records without what a clock said."""
    records = [json.loads(line) for line in lines]
    return [{key: value for key, value in one.items() if "wall" not in key} for one in records]


@pytest.mark.slow
def test_results_of_other_models_are_refused(made: Path) -> None:
    path = made / "smoke" / "results.jsonl"
    lines = path.read_text()
    path.write_text(lines.replace(of(made, "model", model=DIGITS)[0]["fingerprint"], "0" * 12))
    with pytest.raises(SystemExit, match=r"error: .*another model digits; remove it"):
        run_smoke(made)
    path.write_text(lines)


@pytest.mark.slow
def test_the_pipeline_is_an_ordinary_one(made: Path) -> None:
    """What is measured is what `accelerate` samples from the folder as diffusers opens it."""
    folders = {name: made / "smoke" / name for name in (DIGITS, f"{DIGITS}-{QUARTER}")}
    subject = ImageSubject(
        DIGITS, folders[DIGITS], {QUARTER: folders[f"{DIGITS}-{QUARTER}"]}, SMOKE.images[DIGITS]
    )
    chain = Chain("ddpm", 6)
    ours = draw(subject, chain, 3, 7, Setting(chain, "stale", "4")).samples
    fast = accelerate(load_pipeline(folders[DIGITS] / PIPELINE), draft="stale", window=4)
    theirs = fast(3, num_inference_steps=6, seed=7, output_type="latent").images
    assert torch.allclose(ours, theirs, atol=1e-5)
    other = draw(subject, Chain("ddpm", 6, churn=1.5), 3, 7).samples
    assert not torch.allclose(ours, other, atol=1e-2)
    wide, narrow = subject.model, load_pipeline(folders[f"{DIGITS}-{QUARTER}"] / PIPELINE).unet
    assert wide.config.block_out_channels[0] > narrow.config.block_out_channels[0]


def test_one_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(SMOKE.mixtures.sweep, drafts=("frozen",), leading=("stale",))
    small = replace(SMOKE.mixtures, dims=(8,), samples=8, sweep=few)
    monkeypatch.setitem(SCALES, "smoke", replace(SMOKE, mixtures=small))
    run.main(["--scale", "smoke", "--work", str(tmp_path), "--part", "mixtures", "--threads", "1"])
    report = (tmp_path / "smoke" / "REPORT.md").read_text()
    assert "Not measured in this run (`--part images`)" in report and "8 dimensions" in report
    results = Results(tmp_path / "smoke" / "results.jsonl")
    chain = few.base.record
    (frozen,) = results.of("setting", draft="frozen", window=few.window, **chain)
    fewer = [one["plain_calls"] / one["sequential_calls"] for one in results.of("setting", **chain)]
    times = [median(one["plain_wall_s"] / one["wall_s"] for one in results.of("time", **setting.record))
             for setting in few.settings() if setting.chain == few.base]  # fmt: skip
    first, second, third = " ".join(report.split("\n\n")[1].split()).split("- ")[1:]
    kept = frozen["plain_calls"] / frozen["sequential_calls"]
    assert first.startswith(f"Mixtures: `frozen` needs {kept:.2f} times fewer sequential calls")
    assert f"the best setting {max(fewer):.2f} times fewer." in first
    assert f" of {len(results.of('setting'))} (mixtures) settings" in second
    assert f" {max(times):.2f} (8 dimensions) times as fast" in third


def test_the_report_says_whether_drafts_pay(tmp_path: Path) -> None:
    """By three of four samples, not by the mean, which one of them may lift."""
    chain = Chain("p", 50)
    sweep = Sweep(chain, ("stale",), ())
    for subject, ratios, verdict in (
        ("fast", [1.2, 1.1, 1.3, 0.8], "it pays"),
        ("slow", [0.9, 0.9, 9.0, 9.0], "it does not pay"),
    ):
        results = Results(tmp_path / f"{subject}.jsonl")
        results.add(
            {"kind": "price", "subject": subject, "model": "", "states": [1, 8], "seconds": [0.1, 0.4]}
        )
        for number, ratio in enumerate(ratios):
            where = {**Setting(chain, "stale", "8").record, "seed": number, "subject": subject}
            results.add({"kind": "time", **where, "wall_s": 1.0, "plain_wall_s": ratio})
        text = times_text(Found(results, sweep, [subject, "another"]))
        assert text.startswith(
            f"- {subject}: {verdict}. A call with 8 states takes 4.0 times as long as with 1."
        )
        assert "another" not in text and "`stale` with window 8" in text


def test_a_sweep_is_one_axis_at_a_time() -> None:
    base = Chain("p", 50)
    sweep = Sweep(
        base, ("a", "b"), ("b",), "8", windows=("2",), steps=(30, 50), churns=(2.0,), processes=("q",)
    )
    assert sweep.settings() == [
        Setting(base, "a", "8"), Setting(base, "b", "8"), Setting(base, "b", "2"),
        Setting(Chain("p", 30), "b", "8"), Setting(Chain("p", 50, 2.0), "b", "8"),
        Setting(Chain("q", 50), "b", "8"),
    ]  # fmt: skip


@pytest.mark.parametrize("process", ["variance preserving", "variance exploding", "linear interpolant"])
def test_plain_samples_of_every_process_are_of_the_mixture(process: str) -> None:
    """Means and variances by coordinate after 100 steps, with room for what the steps leave out."""
    subject = MixtureSubject(2, 4000)
    law = GaussianMixture.random(2, 5).draw(4000, seed=1)
    samples = draw(subject, Chain(process, 100), 4000, 0).samples
    assert torch.allclose(samples.mean(0).double(), law.mean(0), atol=0.08)
    assert torch.allclose(samples.var(0).double(), law.var(0), rtol=0.12)
    assert not torch.allclose(
        draw(subject, Chain(process, 3), 4000, 0).samples.var(0).double(), law.var(0), rtol=0.12
    )


def test_merged_mixture_has_the_same_mean_and_variance() -> None:
    law = GaussianMixture.random(32, 5, width=0.5)
    one, many = merged(law).draw(20_000, seed=0), law.draw(20_000, seed=1)
    assert torch.allclose(one.mean(0), many.mean(0), atol=0.06)
    assert float(one.var(0).mean()) == pytest.approx(float(many.var(0).mean()), rel=0.02)


def test_unknown_names_get_one_line() -> None:
    subject = MixtureSubject(2, 4)
    with pytest.raises(OutpaceError, match="process 'x' is unknown, accepted are variance preserving"):
        draw(subject, Chain("x", 4), 1, 0)
    chain = Chain("linear interpolant", 4)
    with pytest.raises(OutpaceError, match="mixture 'x' is unknown, accepted are perturbed, merged"):
        draw(subject, chain, 1, 0, Setting(chain, "independent:x", "2"))


def test_pictures_survive_the_record_and_the_model() -> None:
    for channels in (1, 3):
        shown = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8)
        assert np.array_equal(decoded(encoded(shown)), shown)
        tensor = as_tensor(torch.from_numpy(shown))
        assert tensor.shape == (5, channels, 8, 8) and tensor.abs().max() <= 1
        assert np.array_equal(as_pictures(tensor).numpy(), shown)


def test_digits_are_read() -> None:
    lines = [[*range(16), *[0] * 47, 16, 7], [*[8] * 64, 3]]
    digits = read_digits("\n".join(",".join(map(str, line)) for line in lines))
    assert digits.shape == (2, 8, 8, 3)
    assert digits[0, 0, 3].tolist() == [48] * 3 and digits[0, 1, 0, 0] == 128 and digits[0, 7, 7, 0] == 255
    assert digits[1].min() == digits[1].max() == 128

"""`outpace diffusion`: samples and tables are those of the library; slips get one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.diffusion.windows import Window

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from PIL import Image  # noqa: E402

from outpace import diffusion  # noqa: E402
from outpace.diffusion import measure  # noqa: E402
from outpace.diffusion.folders import load_pipeline  # noqa: E402
from outpace.diffusion.sources import open_source  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.diffusion_pipelines import save_pipeline  # noqa: E402

Run = Callable[..., Outcome]
MIXTURE = "mixture:dimensions=6,components=3"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pipeline(tmp_path_factory.mktemp("pipeline")))


def cells(table: str) -> list[list[str]]:
    """Of a table whose lines are of one length."""
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1 and len({line.count("|") for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_samples_of_a_mixture(run: Run, tmp_path: Path) -> None:
    args = ["diffusion", "sample", MIXTURE, "--steps", "20", "--num", "5", "--seed", "3", "--threads", "1"]
    out = tmp_path / "samples.npy"
    outcome = run(*args, "--draft", "carried:held=output", "--window", "4", "--batch", "2", "--out", str(out))
    levels = diffusion.variance_preserving(20)
    model = diffusion.GaussianMixture.random(6, 3).denoiser(levels)
    result = diffusion.sample(
        model, diffusion.chain(levels), (6,), 5, seed=3, window=4, draft=diffusion.Carried(diffusion.Output())
    )
    np.testing.assert_allclose(np.load(out), result.samples.numpy(), atol=1e-5)
    assert outcome.status == 0 and outcome.err == ""
    path, figures = outcome.out.splitlines()
    assert path == str(out)
    calls, fewer = result.stats.sequential_calls.double().mean(), result.stats.speedup_calls
    assert figures.startswith(
        f"5 samples of 20 steps: {calls:.1f} calls one after another ({fewer:.2f} times fewer), "
    )
    plain = run(*args, "--draft", "none")
    assert plain.out.startswith(
        "5 samples of 20 steps: 20.0 calls one after another (1.00 times fewer), 1.00 "
    )
    assert run(*args, "--seed", "4", "--out", str(tmp_path / "other.npy")).status == 0
    assert not np.allclose(np.load(out), np.load(tmp_path / "other.npy"), atol=0.1)


def test_a_grid_of_a_pipelines_images(run: Run, folder: str, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    args = ["diffusion", "sample", folder, "--steps", "10", "--num", "3", "--window", "3", "--seed", "2"]
    outcome = run(*args, "--out", str(out))
    assert (
        outcome.status == 0
        and outcome.err == ""
        and outcome.out.startswith(f"{out}\n3 samples of 10 steps: ")
    )
    fast = diffusion.accelerate(load_pipeline(folder), window=3)
    images = fast(3, num_inference_steps=10, seed=2).images
    grid = Image.open(out)
    assert grid.size == (17, 17)
    for box, image in zip([(0, 0), (9, 0), (0, 9)], images, strict=True):
        shown = np.array(grid.crop((*box, box[0] + 8, box[1] + 8)), dtype=int)
        assert np.abs(shown - np.array(image)).max() <= 1
    assert run(*args, "--out", str(tmp_path / "samples.npy")).status == 0
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (3, 3, 8, 8)
    np.testing.assert_allclose((samples[0] / 2 + 0.5) * 255, np.array(images[0]).transpose(2, 0, 1), atol=1)


def test_samples_go_to_the_home_of_a_user(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("diffusion", "sample", MIXTURE, "--num", "2", "--out", "~/it.npy").status == 0
    assert np.load(tmp_path / "it.npy").shape == (2, 6)
    (tmp_path / "folder.npy").mkdir()
    outcome = run("diffusion", "sample", MIXTURE, "--num", "2", "--out", "~/folder.npy")
    assert outcome.status == 2 and "accepted are names of files in a folder that exists" in outcome.err
    assert outcome.err.count("\n") == 1


def test_weights_that_are_no_numbers_are_one_line(run: Run, folder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    for value in float("nan"), float("inf"):
        weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
        weights["conv_out.bias"][0] = value
        save_file(weights, path)
        for verb in "sample", "bench":
            outcome = run("diffusion", verb, str(copy), "--steps", "4", "--num", "2")
            assert outcome.status == 2 and outcome.err.count("\n") == 1
            assert "step 0 of 4 (time 750): the model's output is not finite" in outcome.err


def test_code_of_a_folder_is_not_run(run: Run, folder: str, tmp_path: Path) -> None:
    copy, mark = Path(shutil.copytree(folder, tmp_path / "copy")), tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nfrom diffusers import UNet2DModel as Mine\n"
    (copy / "unet" / "mine.py").write_text(code)
    index = json.loads((copy / "model_index.json").read_text()) | {"unet": ["mine", "Mine"]}
    (copy / "model_index.json").write_text(json.dumps(index))
    for verb in "sample", "bench":
        outcome = run("diffusion", verb, str(copy), "--steps", "4", "--num", "2")
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and outcome.out == ""
        assert "its unet is 'Mine' of 'mine', whose code is not run" in outcome.err
    assert not mark.exists()


def test_a_table_of_drafts_and_windows(run: Run) -> None:
    drafts = ["frozen", "picard:draft=[stale:held=output],sweeps=2"]
    outcome = run(
        "diffusion", "bench", MIXTURE, "--steps", "20", "--num", "4", "--draft", drafts[0],
        "--draft", drafts[1],
        "--window", "4", "--window", "adaptive:most=6,price=0.1", "--repeats", "2", "--seed", "5",
    )  # fmt: skip
    assert outcome.status == 0 and outcome.err == ""
    methods, prices, notes = outcome.out.split("\n\n")
    header, _, plain, *rows = cells(methods)
    assert header[:2] == ["draft", "window"] and len(rows) == 4
    assert plain[:7] == ["none", "1", "20.0", "1.00", "0.0", "1.00", "-"] and plain[-1] == "1.00"
    source = open_source(MIXTURE, 20)
    windows: list[Window] = [diffusion.Fixed(4), diffusion.Adaptive(6, price=0.1)]
    made = [
        (draft, window)
        for draft in (diffusion.Frozen(), diffusion.Picard(diffusion.Stale(diffusion.Output()), sweeps=2))
        for window in windows
    ]
    for row, (draft, window) in zip(rows, made, strict=True):
        stats = diffusion.sample(
            source.model, source.process, source.shape, 4, draft=draft, window=window, seed=5
        ).stats
        assert row[2] == f"{stats.sequential_calls.double().mean():.1f}"
        assert row[3] == f"{stats.speedup_calls:.2f}"
        assert row[4] == f"{stats.verification_calls.double().mean():.1f}"
        assert row[5] == f"{stats.evaluations_per_step:.2f}"
        assert row[6] == " ".join(f"{rate:.2f}" for rate in stats.acceptance[:4].tolist())
        assert float(row[7]) >= 0 and float(row[8]) > 0
    assert [row[0] for row in rows] == [drafts[0]] * 2 + [drafts[1]] * 2
    assert [row[0] for row in cells(prices)[2:]] == ["1", "2", "4", "8", "16"]
    assert "4 samples of 20 steps, 4 at a time, median of 2 runs on cpu" in notes
    advised = notes.splitlines()[-1].rpartition(" ")[2]
    assert run("diffusion", "sample", MIXTURE, "--num", "1", "--window", advised).status == 0


def test_the_fitted_price() -> None:
    line = {size: 0.004 + 0.001 * size for size in measure.SIZES}
    assert measure.fitted_price(line) == pytest.approx(0.25)
    assert measure.fitted_price(line, batch=8) == pytest.approx(2.0)
    assert measure.fitted_price({size: 0.004 for size in measure.SIZES}) == pytest.approx(0, abs=1e-9)
    proportional = measure.fitted_price({size: 0.001 * size for size in measure.SIZES})
    assert 50 < proportional < 200, "a price, though nothing is shared"


def test_seconds_are_a_median_and_runs_go_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    source, order, sample = open_source(MIXTURE, 5), [], diffusion.sample
    seconds = iter([5.0, 1.0, 9.0, 3.0, 6.0, 2.0])

    def timed(*args: Any, draft: Any, **options: Any) -> Any:
        order.append("plain" if draft is None else "stale")
        result = sample(*args, draft=draft, **options)
        result.stats.wall_s = next(seconds)
        return result

    monkeypatch.setattr(measure, "sample", timed)
    told: list[tuple[int, int]] = []
    plain, stale = measure.measure(
        source, [measure.Method("stale", "3")], num=2, seed=0, batch=None, repeats=3,
        on_progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert order == ["plain", "stale"] * 3
    assert (plain.wall_s, stale.wall_s) == (6.0, 2.0)
    assert told == sorted(told) and told[-1] == (60, 60)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sample", "nowhere"], "'nowhere' is no folder of a diffusers pipeline and no name, accepted"),
        (["sample", "{tmp}"], "has no model_index.json"),
        (["sample", "mixture:depth=3"], "model 'mixture' has no option 'depth', accepted are dim"),
        (["sample", "mixture:components=0"], "components is 0, accepted are whole numbers from 1"),
        (["sample", MIXTURE, "--draft", "frosen"], "unknown draft 'frosen', accepted are carried, frozen"),
        (["sample", MIXTURE, "--draft", "stale:hold=output"], "draft 'stale' has no option 'hold', accepted"),
        (["sample", MIXTURE, "--window", "wide"], "window is 'wide', accepted are whole numbers >= 1, adapt"),
        (["sample", MIXTURE, "--window", "0"], "window is 0"),
        (["sample", MIXTURE, "--steps", "0"], "number of steps is 0"),
        (["sample", MIXTURE, "--num", "0"], "num is 0"),
        (["sample", MIXTURE, "--batch", "0"], "batch is 0"),
        (["sample", MIXTURE, "--threads", "0"], "threads is 0"),
        (["sample", MIXTURE, "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["sample", MIXTURE, "--out", "{tmp}/x.gif"], "accepted are names that end in .png or .npy"),
        (["sample", MIXTURE, "--out", "{tmp}/x.png"], "samples of shape (6,), accepted is a name in"),
        (["sample", MIXTURE, "--out", "{tmp}/none/x.npy"], "accepted are names of files in a folder"),
        (["sample", MIXTURE, "--threads", "-1"], "threads is -1, accepted are whole numbers from 1 to 1024"),
        (["bench", MIXTURE, "--repeats", "0"], "repeats is 0"),
        (["sample", MIXTURE, "--steps", "1000000000000"], "the number of steps is 1000000000000, accepted"),
        (["sample", MIXTURE, "--num", "1000000000000"], "num is 1000000000000, accepted are whole numbers"),
        (["sample", "mixture:dimensions=100000", "--num", "4000000"], "not enough memory for 4000000 sa"),
        (["sample", MIXTURE, "--seed", "1" * 30], "accepted are whole numbers of 64 bits"),
        (["sample", "mixture:dimensions=2000000000,components=2000000"], "memory for 2000000 comp"),
        (["sample", MIXTURE, "--window", "1000000000"], "window is 1000000000, accepted are whole numbers"),
        (["sample", MIXTURE, "--device", "meta"], "device 'meta' cannot be used here"),
        (["bench", MIXTURE, "--num", "0"], "num is 0"),
        (["bench", MIXTURE, "--batch", "-1"], "batch is -1"),
        (["bench", MIXTURE, "--draft", "stale", "--draft", "x"], "unknown draft 'x'"),
    ],
)  # fmt: skip
def test_slips_get_one_line(run: Run, tmp_path: Path, args: list[str], message: str) -> None:
    outcome = run("diffusion", *(arg.format(tmp=tmp_path) for arg in args))
    assert outcome.status == 2 and outcome.out == "" and list(tmp_path.iterdir()) == []
    assert message in outcome.err and outcome.err.count("\n") == 1

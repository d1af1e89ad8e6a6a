"""Readers that need the extras: training data and runs, pixel models, pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz import seeds
from tests.fuzz.mutations import Files
from tests.fuzz.reader import Reader


def _pairs(folder: Path) -> None:
    from outpace.train.data import data_hash, read_pairs

    data_hash(read_pairs([folder / "a.jsonl"]))


def _run_seeds() -> list[Files]:
    settings = {
        "settings": {"seed": 0, "rate": 0.1},
        "steps_done": 3,
        "losses": [[1, 2.5], [3, 1.0]],
        "versions": {},
        "seconds": 1.0,
    }
    return [{"run.json": seeds.lines(settings)}]


def _run(folder: Path) -> None:
    from outpace.train.checkpoint import Checkpoint

    Checkpoint(folder, {"seed": 0, "rate": 0.1}).load()


def _folder_of(save: Callable[[Path], object]) -> Files:
    with TemporaryDirectory() as name:
        save(Path(name))
        return {str(p.relative_to(name)): p.read_bytes() for p in Path(name).rglob("*") if p.is_file()}


def _diffusion_seeds() -> list[Files]:
    from tests.diffusion_pipelines import save_pipeline

    return [_folder_of(save_pipeline)]


def _diffusion(folder: Path) -> None:
    from outpace.diffusion import sampler
    from outpace.diffusion.names import make_draft, make_window
    from outpace.diffusion.sources import open_source

    source = open_source(str(folder), 3)
    sampler.sample(
        source.model,
        source.process,
        source.shape,
        1,
        draft=make_draft("stale"),
        window=make_window("2"),
        seed=0,
        batch=None,
        device=source.device,
        on_progress=None,
    )


def _pixel_seeds() -> list[Files]:
    from tests.pixel_models import tiny_pixel_model

    return [_folder_of(tiny_pixel_model().save)]


def _pixel(folder: Path) -> None:
    from outpace.targets.pixel_model import PixelModel

    PixelModel.open(folder)


def _pair_seeds() -> list[Files]:
    return [
        {"a.jsonl": seeds.lines({"source": "a", "target": "b"}, {"prompt_ids": [1], "token_ids": [2, 3]})}
    ]


EXTRA_READERS: dict[str, Reader] = {
    "pairs": Reader(_pair_seeds, _pairs, ("torch",)),
    "run": Reader(_run_seeds, _run, ("torch",)),
    "pixel": Reader(_pixel_seeds, _pixel, ("torch", "safetensors")),
    "diffusion": Reader(_diffusion_seeds, _diffusion, ("torch", "diffusers")),
}

"""`outpace diffusion`: samples of a diffusion model, and what drafts and windows bring on this machine."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli import options
from outpace.core.errors import OutpaceError
from outpace.progress import Progress, progress_bar

if TYPE_CHECKING:
    from outpace.diffusion.measure import Measured

app = options.group("Diffusion models: sample, measure drafts.")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a diffusers pipeline, or mixture:dimensions=32,components=5, which needs no file.",
    ),
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", help="Steps of the chain.")]
Num = Annotated[int, typer.Option("--num", metavar="N", help="Samples.")]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="N", help="So many samples at a time; all if left out.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Same seed, draft and window, same samples.")]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where to compute: cpu, cuda.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="Threads to compute with; torch's own choice if left out."),
]

POSITIONS = 4


@app.command("sample")
def sample(
    model: Model,
    steps: Steps = 50,
    num: Num = 16,
    draft: Annotated[
        str,
        typer.Option(
            "--draft",
            metavar="DRAFT",
            help="NAME:option=value,... such as stale:held=output; none for plain sampling.",
        ),
    ] = "stale",
    window: Annotated[
        str,
        typer.Option(
            "--window", metavar="WINDOW", help="Steps that are drafted at once, or adaptive:price=0.05."
        ),
    ] = "8",
    seed: Seed = 0,
    batch: Batch = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="A .png with a grid of the images, or a .npy with the samples."
        ),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Sample, with fewer calls one after another than steps."""
    with _torch_needed():
        from outpace.diffusion import sampler
        from outpace.diffusion.names import make_draft, make_window
        from outpace.diffusion.sources import open_source

    made = make_draft(draft), make_window(window)
    if out is not None and out.suffix not in (".png", ".npy"):
        raise OutpaceError(f"--out is {str(out)!r}, accepted are names that end in .png or .npy")
    out = None if out is None else options.expanded(out)
    if out is not None and (not out.parent.is_dir() or out.is_dir()):
        raise OutpaceError(f"--out is {str(out)!r}, accepted are names of files in a folder that exists")
    source = open_source(model, steps, device=device, threads=threads)
    if (
        out is not None
        and out.suffix == ".png"
        and not (len(source.shape) == 3 and source.shape[0] in (1, 3))
    ):
        raise OutpaceError(f"{out} cannot hold samples of shape {source.shape}, accepted is a name in .npy")
    with progress_bar() as progress:
        result = sampler.sample(
            source.model, source.process, source.shape, num, draft=made[0], window=made[1], seed=seed,
            batch=batch, device=source.device, on_progress=_told(progress),
        )  # fmt: skip
    stats = result.stats
    if out is not None:
        _write(out, result.samples)
        print(out)
    calls = stats.sequential_calls.double().mean()
    print(
        f"{num} samples of {steps} steps: {calls:.1f} calls one after another"
        f" ({stats.speedup_calls:.2f} times fewer), {stats.evaluations_per_step:.2f} evaluations per step,"
        f" {stats.wall_s:.2f} s"
    )


@app.command("bench")
def bench(
    model: Model,
    steps: Steps = 50,
    num: Num = 32,
    draft: Annotated[
        list[str] | None,
        typer.Option("--draft", metavar="DRAFT", help="What to measure; may be repeated, stale if left out."),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option("--window", metavar="WINDOW", help="With each draft; may be repeated, 8 if left out."),
    ] = None,
    seed: Seed = 0,
    batch: Batch = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", help="Runs of each; the median of the seconds counts.")
    ] = 3,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Measure drafts against plain sampling.

    Prints the calls and seconds of each draft with each window, what a call of 1 to 16 states costs, and the
    adaptive window that fits these prices.
    """
    from outpace.bench.report import markdown_table

    with _torch_needed():
        from outpace.diffusion import measure
        from outpace.diffusion.sources import open_source

    methods = [measure.Method(name, size) for name in draft or ["stale"] for size in window or ["8"]]
    for method in methods:
        method.make()
    source = open_source(model, steps, device=device, threads=threads)
    times = measure.call_times(source, repeats=max(repeats, 9))
    with progress_bar() as progress:
        measured = measure.measure(
            source, methods, num=num, seed=seed, batch=batch, repeats=repeats, on_progress=_told(progress)
        )  # fmt: skip
    header = (
        "draft", "window", "calls", "times fewer", "verifications", "evaluations/step",
        f"accepted 1 to {POSITIONS}", "seconds", "plain/this",
    )  # fmt: skip
    print(markdown_table(header, [_row(one, measured[0]) for one in measured], num_text_columns=2))
    rows = [
        (str(size), f"{1e3 * time:.3f}", f"{1e3 * time / size:.3f}", f"{time / times[1]:.2f}")
        for size, time in times.items()
    ]
    print()
    print(markdown_table(("states", "ms", "ms per state", "t(M)/t(1)"), rows, num_text_columns=0))
    at_once = min(num, batch or num)
    price = measure.fitted_price(times, batch=at_once)
    print(
        f"\n{num} samples of {steps} steps, {at_once} at a time, median of {repeats} runs on {source.device}"
    )
    print(f"the window that fits these prices: adaptive:price={price:.3g}")


def _row(one: Measured, plain: Measured) -> tuple[str, ...]:
    stats = one.stats
    return (
        one.method.draft,
        one.method.window,
        f"{stats.sequential_calls.double().mean():.1f}",
        f"{stats.speedup_calls:.2f}",
        f"{stats.verification_calls.double().mean():.1f}",
        f"{stats.evaluations_per_step:.2f}",
        "-" if one is plain else " ".join(map(_share, stats.acceptance[:POSITIONS].tolist())),
        f"{one.wall_s:.3f}",
        f"{plain.wall_s / one.wall_s:.2f}",
    )


def _share(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{rate:.2f}"


@contextmanager
def _torch_needed() -> Iterator[None]:
    """Says what is missing where an import fails."""
    try:
        yield
    except ImportError as error:
        raise OutpaceError(
            f"diffusion needs the extra torch (pip install 'outpace[torch]'): {error}"
        ) from None


def _told(progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(done, total, "sampling")


def _write(path: Path, samples: Any) -> None:
    import numpy as np

    from outpace.diffusion.images import grid
    from outpace.files.whole import write_whole

    data = io.BytesIO()
    if path.suffix == ".png":
        grid(samples).save(data, "png")
    else:
        np.save(data, samples.cpu().numpy())
    write_whole(path, data.getbuffer())

"""`outpace profile`: what one call costs for blocks of 1 to 64 tokens, and how near that is to the floor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar


def profile(
    model: options.Model = options.DEFAULT_MODEL,
    sizes: Annotated[
        str, typer.Option("--sizes", metavar="M,M,...", help="Block sizes to time.")
    ] = "1,2,3,4,6,8,12,16,24,32,48,64",
    context: Annotated[
        int, typer.Option("--context", metavar="N", help="Tokens in the cache before the block.")
    ] = 256,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Rounds; the median counts.")] = 15,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON record and nothing else.")] = False,
) -> int:
    """Time one call of the model for blocks of 1 to 64 tokens."""
    from outpace.bench.bandwidth import Floor, resident_bytes
    from outpace.bench.call_times import call_times, sampling_cost
    from outpace.bench.report import markdown_table
    from outpace.core.sampling import Sampling

    block_sizes = _parse_sizes(sizes)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    loaded = render.load_model(model, threads=threads)
    with progress_bar() as progress:
        done = 0

        def on_round() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, repeats, "timing")

        times = call_times(
            loaded.target,
            sizes=block_sizes,
            context=context,
            repeats=repeats,
            sampling=sampling,
            on_round=on_round,
        )
    resident = resident_bytes()
    sampled = sampling_cost(loaded.target, context=context)
    floor = Floor.measure(loaded)
    first = next((time.latency_ms for time in times if time.num_tokens == 1), None)
    reached = None if first is None else floor.weight_bytes / (first / 1e3)
    shares = {time.num_tokens: 1e3 * floor.seconds(time.num_tokens) / time.latency_ms for time in times}
    if as_json:
        record = {
            "model": model,
            "threads": loaded.num_threads,
            "context": context,
            "sampling": {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "seed": seed,
            },
            "latency_ms": {str(time.num_tokens): time.latency_ms for time in times},
            "temperature_1_to_greedy": sampled,
            "weight_bytes": floor.weight_bytes,
            "resident_bytes": resident,
            "weight_bytes_per_s": reached,
            "memory_bytes_per_s": floor.read_per_s,
            "multiply_adds": floor.multiply_adds,
            "multiply_adds_per_s": floor.multiply_adds_per_s,
            "floor_share": {str(size): share for size, share in shares.items()},
        }
        print(json.dumps(record))
        return 0
    rows = [
        (
            str(time.num_tokens),
            f"{time.latency_ms:.2f}",
            f"{time.latency_ms / time.num_tokens:.2f}",
            "-" if first is None else f"{time.latency_ms / first:.2f}",
            f"{1e3 * floor.seconds(time.num_tokens):.2f}",
            f"{shares[time.num_tokens]:.2f}",
        )
        for time in times
    ]
    print(
        markdown_table(
            ("M", "ms", "ms per token", "t(M)/t(1)", "floor ms", "floor/ms"), rows, num_text_columns=0
        )
    )
    print(f"\n{loaded.num_threads} threads, {context} tokens of context, median of {repeats} rounds")
    print(f"sampling at temperature 1: {sampled:.2f} times a greedy call of one token")
    print(f"memory: {resident / 1e6:.0f} MB resident")
    print(f"weights: {floor.weight_bytes / 1e6:.1f} MB per call", end="")
    print("" if reached is None else f", {reached / 1e9:.1f} GB/s at M = 1")
    reads = ", ".join(f"{rate / 1e9:.1f} GB/s in {name} pages" for name, rate in floor.read_per_s.items())
    print(f"a plain read of as many bytes: {reads}")
    eight_bit, floats = floor.multiply_adds_per_s
    isa = getattr(loaded.target, "isa", "")
    print(
        f"multiply-adds on registers alone ({isa}): {eight_bit / 1e9:.0f} billion/s in 8 bit, "
        f"{floats / 1e9:.0f} in floats; a token takes {sum(floor.multiply_adds) / 1e9:.2f} billion"
    )
    return 0


def _parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise OutpaceError(f"sizes must be whole numbers from 1 on with commas between them, not {text!r}")
    return sizes

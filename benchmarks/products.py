"""Products of a float32 matrix with some rows: by torch, and by the block kernels on one thread.

What a call of a model costs by its number of nodes is mostly this. Microseconds, medians.

    python benchmarks/products.py --rows 8000 --cols 192 --threads 2
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from time import perf_counter

import numpy as np
import torch

from outpace import _native
from outpace.bench.report import markdown_table
from outpace.targets.native_products import packed_matrix

NUM_NODES = (1, 2, 4, 8, 16, 32)


def microseconds(run: Callable[[], object], repeats: int) -> float:
    """The median of some runs after as many that warm up."""
    times = []
    for _ in range(2 * repeats):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return 1e6 * statistics.median(times[repeats:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--cols", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, help="of torch")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    random = np.random.default_rng(0)
    weight = random.standard_normal((args.rows, args.cols), dtype=np.float32)
    kinds = {kind: packed_matrix(weight, kind) for kind in ("f32", "q8s")}
    tensor, lines = torch.from_numpy(weight), []
    for num_nodes in NUM_NODES:
        x = random.standard_normal((num_nodes, args.cols), dtype=np.float32)
        states = torch.from_numpy(x)
        runs: list[Callable[[], object]] = [partial(torch.nn.functional.linear, states, tensor)]
        runs += [partial(_native.multiply, *matrix, x) for matrix in kinds.values()]
        lines.append((str(num_nodes), *(f"{microseconds(run, args.repeats):.0f}" for run in runs)))
    print(f"{args.rows} x {args.cols}, torch {torch.__version__} on {torch.get_num_threads()} threads\n")
    header = ("nodes", "torch", *(f"block kernels, {kind}" for kind in kinds))
    print(markdown_table(header, lines, num_text_columns=1))


if __name__ == "__main__":
    main()

"""What a pass of a looped model costs by the number of tokens that share it: the premise of pipelines.

    python -m benchmarks.passes --model smollm2-135m-instruct --loops 4

runs all layers of the model so many times over. What that says is of no use, but its time is that of a
looped model of these layers. A pass ends with the output matrix, as a whole call does; so R passes cost
more than one call. Every size of a pass is timed in turns with the others, behind 64 tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import outpace
from outpace.core.call import Call, Pass, begin
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.pricing.clock import now
from outpace.targets.native import NativeTarget

CONTEXT = 64


def looped(source: str, loops: int) -> NativeTarget:
    """All layers of a model, so many times over."""
    once = outpace.load(source)
    config = replace(
        once.config,
        num_layers=once.config.num_layers * loops,
        layer_order=tuple(range(once.config.num_layers)) * loops,
        layer_rope=once.config.layer_rope * loops,
        layer_window=once.config.layer_window * loops,
    )
    return NativeTarget(config, once.weights, context_length=512)


def pass_seconds(target: NativeTarget, row: int, size: int) -> float:
    """A pass of so many tokens, each a loop behind the one before, and the choice after the first of them."""
    tree = TokenTree.chain(7, [7] * (size - 1))
    loops, took = target.num_loops, 0.0
    for step in range(min(size, loops)):  # until the oldest is as many loops ahead
        nodes = TokenTree.chain(7, [7] * min(step, size - 1))
        ages = [step - i for i in range(nodes.num_nodes)]
        one = Pass(row, nodes, ages, [i if age else -1 for i, age in enumerate(ages)], [0])
        began = now()
        target.advance([one]).choose([Sampling()], [CONTEXT])
        took = now() - began
    assert nodes.num_nodes == tree.num_nodes, "as many tokens as there are loops, at most"
    return took


def call_seconds(target: NativeTarget, row: int) -> float:
    """A whole call of one token."""
    began = now()
    target.score([Call.on(row, TokenTree.root(7))]).choose([Sampling()], [CONTEXT])
    return now() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(arguments)
    target = looped(options.model, options.loops)
    row = begin(target, [5] * CONTEXT)
    sizes = range(1, options.loops + 1)
    took: dict[int, list[float]] = {size: [] for size in sizes}
    whole = []
    for _ in range(options.rounds):
        whole.append(call_seconds(target, row))
        for size in sizes:
            took[size].append(pass_seconds(target, row, size))
    print(f"{options.model}, {options.loops} loops, {target.threads} threads, {target.isa}")
    print(f"| a token by a whole call | {1e3 * min(whole):6.2f} ms ({1e3 * median(whole):.2f}) |")
    for size in sizes:
        few, mid = min(took[size]), median(took[size])
        ratio = median(whole) / mid
        print(f"| a pass of {size} | {1e3 * few:6.2f} ms ({1e3 * mid:.2f}) | {ratio:.2f} passes in a call |")


if __name__ == "__main__":
    main()

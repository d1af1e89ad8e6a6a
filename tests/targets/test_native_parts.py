"""Parts of the model: what they compute, and that a call in parts has the bits of a call at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.contracts import Layered
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.targets.native import NativeTarget
from tests.fake_models import VOCAB_SIZE, write_gguf
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set, open_target
from tests.rows import on, opened
from tests.strategies import trees

RNG = np.random.default_rng(11)
PROMPTS = [[int(t) for t in RNG.integers(0, VOCAB_SIZE, n)] for n in (29, 3)]
MODELS = [("llama", "Q4_1", "f16"), ("gemma3", "F32", "f32"), ("qwen3", "Q5_0", "f32")]


@pytest.fixture(params=MODELS, ids=lambda m: "-".join(m), scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    family, tensor_type, kv = request.param
    return gguf_target(tmp_path_factory.mktemp("model"), family, tensor_type, kv=kv, threads=2)


def random_tree(rng: np.random.Generator, num_nodes: int) -> TokenTree:
    parents = [-1, *(int(rng.integers(i)) for i in range(1, num_nodes))]
    return TokenTree(rng.permutation(num_nodes).tolist(), parents)


def all_logits(target: NativeTarget, rows: list[int], trees: list[TokenTree]) -> list[np.ndarray]:
    scores = target.score(on(rows, trees))
    return [scores.logits(row, range(tree.num_nodes)) for row, tree in enumerate(trees)]


def work(target: NativeTarget) -> int:
    """Sublayers that the last call ran, each node counted."""
    return target._decoder.work


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("model", MODELS, ids="-".join)
def test_a_call_in_parts_has_the_bits_of_a_call_at_once(
    model: tuple[str, str, str], isa: str, tmp_path: Path
) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, *model[:2], kv=model[2], threads=2)
    rng = np.random.default_rng(4)
    rows, _ = opened(target, PROMPTS)
    for layers in range(1, target.num_layers + 1):
        for both in (
            [random_tree(rng, 30), random_tree(rng, 9)],
            [TokenTree.chain(3, [1, 4, 1, 5]), random_tree(rng, 20)],
        ):
            whole = all_logits(target, rows, both)
            for sizes in ((1, 3, 8), (40,), (2, 50, 5)):  # growing, all at once, shrinking
                for size in sizes:
                    parts = [t.prune(rng.integers(0, t.num_nodes, size).tolist()) for t in both]
                    target.run(on(rows, parts), layers=layers)
                resumed = all_logits(target, rows, both)
                if layers < target.num_layers:  # all of them would be a score, which nothing goes on from
                    nodes, known = (sum(tree.num_nodes for tree in some) for some in (both, parts))
                    assert work(target) == 2 * (nodes * target.num_layers - known * layers)
                for ours, theirs in zip(resumed, whole, strict=True):
                    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=30)
@given(
    drafted=trees(vocab_size=4, max_nodes=10),
    scored=trees(vocab_size=4, max_nodes=10),
    layers=st.integers(1, 3),
    skip=st.sets(st.integers(0, 5), max_size=2),
)
def test_whatever_was_run_before_changes_no_bit(
    target: NativeTarget, drafted: TokenTree, scored: TokenTree, layers: int, skip: set[int]
) -> None:
    rows, _ = opened(target, [PROMPTS[1]])
    whole = all_logits(target, rows, [scored])[0]
    target.run(
        on(rows, [drafted]), layers=min(layers, target.num_layers), skip=skip if target.num_layers > 2 else ()
    )
    np.testing.assert_array_equal(all_logits(target, rows, [scored])[0], whole)
    for part in ({"layers": 1}, {"skip": [1, 2]}):
        expected = target.run(on(rows, [scored]), **part).logits(0, range(scored.num_nodes))
        target.score(on(rows, [TokenTree.root(0)]))
        target.run(on(rows, [drafted]), **part)
        again = target.run(on(rows, [scored]), **part).logits(0, range(scored.num_nodes))
        np.testing.assert_array_equal(again, expected)
    target.free(rows)


def test_a_kept_path_of_a_resumed_call_equals_a_fresh_row(target: NativeTarget) -> None:
    rng = np.random.default_rng(9)
    rows, _ = opened(target, [PROMPTS[0]])
    text = list(PROMPTS[0])
    for step in range(6):
        tree = random_tree(rng, 14)
        target.run(on(rows, [tree.prune([2, 5, 9])]), layers=1)
        target.run(on(rows, [tree.prune([2, 5, 9, 10, 12])]), layers=1)
        target.score(on(rows, [tree]))
        path = tree.paths()[step % len(tree.paths())]
        target.keep(rows, [path[1:]])
        text += [tree.token_list[node] for node in path]
        fresh, _ = opened(target, [text])
        probe = TokenTree.chain(1, [2, 3])
        one, other = (all_logits(target, [row], [probe])[0] for row in (rows[0], fresh[0]))
        np.testing.assert_array_equal(one, other)
        target.free(fresh)


def test_each_node_runs_once_through_each_layer(target: NativeTarget) -> None:
    rows, _ = opened(target, [PROMPTS[0]])
    num_layers = target.num_layers
    for length in range(4):  # as a draft grows
        target.run(on(rows, [TokenTree.chain(1, range(2, 2 + length))]), layers=1)
        assert work(target) == 2
    further = num_layers - 1
    target.run(on(rows, [TokenTree.chain(1, [2, 3, 4])]), layers=further)
    assert work(target) == 2 * 4 * (further - 1)
    target.score(on(rows, [TokenTree.chain(1, [2, 3, 4, 5])]))
    assert work(target) == 2 * (5 * num_layers - 4 * further)


def test_what_forgets(target: NativeTarget) -> None:
    chain = TokenTree.chain(1, [2, 3])
    num_layers = target.num_layers
    rows, _ = opened(target, PROMPTS[:1])

    def cost(**part: object) -> int:
        target.run(on(rows, [chain]), **part)  # type: ignore[arg-type]
        return work(target)

    assert [cost(layers=1), cost(layers=1)] == [6, 0]
    assert cost(layers=1, skip=[1]) == 3  # without that, the state is another
    assert cost(layers=1) == 3  # what was left out at the end comes later
    assert cost(layers=1, skip=[0]) == 3
    assert cost(layers=1) == 6
    assert cost(layers=2, skip=[3]) == 3  # what is left out comes later
    assert cost(layers=1) == 6  # there is no way back
    target.score(on(rows, [chain]))
    assert work(target) == 6 * (num_layers - 1)
    target.score(on(rows, [chain]))
    assert work(target) == 6 * num_layers
    assert cost(layers=1) == 6
    target.score(on(rows, [TokenTree.root(1)]))
    target.keep(rows, [[]])
    assert cost(layers=1) == 6
    target.run(on(rows, [TokenTree.chain(2, [2, 3])]), layers=1)
    assert work(target) == 6  # another root
    other, _ = opened(target, PROMPTS[1:])
    assert cost(layers=1) == 6
    target.score(on(other, [chain]))  # another row is no matter
    assert cost(layers=1) == 0
    target.free(rows)
    again, _ = opened(target, PROMPTS[:1])
    assert again == rows and cost(layers=1) == 6
    target.free([*rows, *other])


def test_rows_of_one_call_may_have_come_differently_far(target: NativeTarget) -> None:
    rows, _ = opened(target, [*PROMPTS, PROMPTS[0]])
    trees = [TokenTree.chain(1, [2, 3]), TokenTree([4, 5, 5, 6], [-1, 0, 0, 2]), TokenTree.root(7)]
    whole = all_logits(target, rows, trees)
    target.run(on(rows[:1], trees[:1]), layers=1)
    target.run(on(rows[1:2], trees[1:2]), layers=2)
    for ours, theirs in zip(all_logits(target, rows, trees), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    target.free(rows)


def test_nothing_of_a_part_can_be_kept(target: NativeTarget) -> None:
    rows, _ = opened(target, PROMPTS[:1])
    for part in ({"layers": 1}, {"skip": [0]}):
        target.run(on(rows, [TokenTree.chain(1, [2])]), **part)
        with pytest.raises(ValueError, match="no scored tree"):
            target.keep(rows, [[1]])
    target.run(on(rows, [TokenTree.chain(1, [2])]))  # all of it is as good as a score
    target.keep(rows, [[1]])
    target.free(rows)


def test_taps_are_there_after_a_resumed_call(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", taps=[0, 2])
    rows, _ = opened(target, PROMPTS[:1])
    tree = TokenTree.chain(1, [2, 3])
    scores = target.score(on(rows, [tree]))
    expected = [scores.hidden(tap) for tap in ("0", "2", "final")]
    target.run(on(rows, [tree]), layers=2)
    scores = target.score(on(rows, [tree]))
    for tap, hidden in zip(("0", "2", "final"), expected, strict=True):
        np.testing.assert_array_equal(scores.hidden(tap), hidden)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_part_is_the_model_without_the_rest(family: str, tmp_path: Path) -> None:
    """transformers, with sublayers that return nothing and with its last layers taken away."""
    model = write_gguf(tmp_path / "model.gguf", family)
    target = open_target(tmp_path / "model.gguf", tmp_path / "cache", kv="f32")
    tokens = PROMPTS[1]
    rows, _ = opened(target, [tokens[:1]])
    tree = TokenTree.chain(tokens[1], tokens[2:])
    skip = [1, 2, 4]

    def nothing(_: object, __: object, output: Any) -> Any:
        return (
            (torch.zeros_like(output[0]), *output[1:])
            if isinstance(output, tuple)
            else torch.zeros_like(output)
        )

    layers = model.model.layers
    hooks = []
    for s in skip:
        layer = layers[s // 2]
        names = ("post_feedforward_layernorm", "mlp") if s % 2 else ("post_attention_layernorm", "self_attn")
        # Gemma 3 has norms behind its sublayers, Llama norms of that name before them.
        hooks.append(getattr(layer, names[0 if family == "gemma3" else 1]).register_forward_hook(nothing))
    # The first token, in the cache, has run through the whole model: here, so it must have to be comparable.
    rows_alone = [target._decoder.open()]
    alone = TokenTree.chain(tokens[0], tokens[1:])
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    ours = target.run(on(rows_alone, [alone]), skip=skip).logits(0, range(len(tokens)))
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)
    for hook in hooks:
        hook.remove()
    model.model.layers = layers[:2]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    ours = target.run(on(rows_alone, [alone]), layers=2).logits(0, range(len(tokens)))
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)
    # Behind a cached text, all layers have seen that text.
    ours = target.run(on(rows, [tree]), layers=2).logits(0, range(len(tokens) - 1))
    np.testing.assert_allclose(ours, expected[1:], atol=1e-4, rtol=1e-4)
    chosen = target.run(on(rows, [tree]), layers=2).choose([Sampling()], [1])[0]
    assert chosen == expected[1:].argmax(axis=1).tolist()


def test_bad_parts_are_refused_and_leave_the_target_usable(target: NativeTarget) -> None:
    assert isinstance(target, Layered)
    rows, _ = opened(target, PROMPTS[:1])
    num_layers = target.num_layers
    for part, message in (
        ({"layers": 0}, f"1 to {num_layers} layers, not 0"),
        ({"layers": num_layers + 1}, f"1 to {num_layers} layers"),
        ({"skip": [2 * num_layers]}, f"accepted are 0 to {2 * num_layers - 1}"),
        ({"skip": [-1]}, "no sublayer -1"),
    ):
        with pytest.raises(ValueError, match=message):
            target.run(on(rows, [TokenTree.root(1)]), **part)
    target.run(
        on(rows, [TokenTree.root(1)]), skip=range(2 * num_layers)
    )  # nothing is left: embedding and output
    assert work(target) == 0
    target.free(rows)

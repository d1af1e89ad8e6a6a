"""Bit-exactness: chunks, trees, companions, threads and instruction sets change no bit; rows roll back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.edits import Edit, edited
from outpace.core.errors import CacheFull, OutpaceError, PromptTooLong
from outpace.core.sampling import Sampling, choose
from outpace.core.tree import TokenTree
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.native import NativeTarget
from tests.fake_models import VOCAB_SIZE, write_gguf
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set, open_target
from tests.rows import on, opened

RNG = np.random.default_rng(7)
PROMPT = [int(t) for t in RNG.integers(0, VOCAB_SIZE, 61)]
# Gemma 3 has windows of 8 and two rotary tables; Qwen 3 norms its heads; both cache types.
MODELS = [
    ("llama", "Q4_1", "f16"),
    ("gemma3", "F32", "f32"),
    ("gemma3", "Q8_0", "f16"),
    ("qwen3", "Q5_0", "f32"),
]


@pytest.fixture(params=MODELS, ids=lambda m: "-".join(m), scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    family, tensor_type, kv = request.param
    return gguf_target(tmp_path_factory.mktemp("model"), family, tensor_type, kv=kv, threads=2)


def plain_logits(target: NativeTarget, prompt: list[int], continuation: list[int]) -> np.ndarray:
    """f32[n, V]: logits after each token of the continuation, one token per call."""
    rows, _ = opened(target, [prompt])
    out = []
    for token in continuation:
        scores = target.score(on(rows, [TokenTree.root(token)]))
        out.append(scores.logits(0, [0])[0])
        target.keep(rows, [[]])
    target.free(rows)
    return np.stack(out)


def random_tree(rng: np.random.Generator, num_nodes: int) -> TokenTree:
    parents = [-1, *(int(rng.integers(max(0, i - 6), i)) for i in range(1, num_nodes))]
    return TokenTree(rng.integers(0, VOCAB_SIZE, num_nodes).tolist(), parents)


@pytest.mark.parametrize("num_nodes", [2, 5, 17, 40])
@pytest.mark.parametrize("length", [1, 15, 16, 33, 61])
def test_every_path_of_a_tree_has_the_bits_of_plain_decoding(
    target: NativeTarget, num_nodes: int, length: int
) -> None:
    rng = np.random.default_rng(num_nodes * 100 + length)
    tree = random_tree(rng, num_nodes)
    rows, _ = opened(target, [PROMPT[:length]])
    logits = target.score(on(rows, [tree])).logits(0, range(num_nodes))
    target.free(rows)
    for path in tree.paths()[:3]:
        alone = plain_logits(target, PROMPT[:length], [tree.token_list[node] for node in path])
        np.testing.assert_array_equal(logits[path], alone)


def test_a_chain_has_the_bits_of_plain_decoding(target: NativeTarget) -> None:
    rows, _ = opened(target, [PROMPT[:20]])
    logits = target.score(on(rows, [TokenTree.chain(PROMPT[20], PROMPT[21:])])).logits(0, range(41))
    target.free(rows)
    np.testing.assert_array_equal(logits, plain_logits(target, PROMPT[:20], PROMPT[20:]))


def test_prompt_chunks_change_no_bit(target: NativeTarget) -> None:
    tree = TokenTree.root(5)
    seen = []
    for first in (1, 7, 16, 30, 60, 61):
        rows, _ = opened(target, [PROMPT[:first]])
        if first < len(PROMPT):
            target.score(on(rows, [TokenTree.chain(PROMPT[first], PROMPT[first + 1 :])]))
            target.keep(rows, [list(range(1, len(PROMPT) - first))])
        seen.append(target.score(on(rows, [tree])).logits(0, [0]))
        target.free(rows)
    for other in seen[1:]:
        np.testing.assert_array_equal(seen[0], other)


def test_companions_change_no_bit(target: NativeTarget) -> None:
    rng = np.random.default_rng(3)
    prompts = [PROMPT[:9], PROMPT[20:53], PROMPT[:1], PROMPT[40:57]]
    trees = [random_tree(rng, n) for n in (6, 1, 12, 3)]
    rows, first = opened(target, prompts)
    together_first = [first.logits(r, [0]) for r in range(4)]
    scores = target.score(on(rows, trees))
    together = [scores.logits(r, range(tree.num_nodes)) for r, tree in enumerate(trees)]
    target.free(rows)
    for r, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        row, alone = opened(target, [prompt])
        np.testing.assert_array_equal(together_first[r], alone.logits(0, [0]))
        np.testing.assert_array_equal(
            together[r], target.score(on(row, [tree])).logits(0, range(tree.num_nodes))
        )
        target.free(row)


def test_after_keep_the_row_is_that_of_a_fresh_row(target: NativeTarget) -> None:
    rng = np.random.default_rng(11)
    rows, _ = opened(target, [PROMPT[:14]])
    committed = PROMPT[:14]
    for step in range(6):
        tree = random_tree(rng, 13)
        target.score(on(rows, [tree]))
        path = tree.paths()[step % len(tree.paths())][1:]
        target.keep(rows, [path])
        committed = [*committed, *(tree.token_list[node] for node in [0, *path])]
        assert target.length(rows[0]) == len(committed)
        fresh, _ = opened(target, [committed])
        probe = TokenTree.chain(1, [2, 3])
        ours = target.score(on(rows, [probe])).logits(0, range(3))
        np.testing.assert_array_equal(ours, target.score(on(fresh, [probe])).logits(0, range(3)))
        target.free(fresh)
    target.free(rows)


@pytest.mark.parametrize("length", [15, 16, 40])
def test_forked_rows_are_equal_and_independent(target: NativeTarget, length: int) -> None:
    rows, _ = opened(target, [PROMPT[:length]])
    twin = target.fork(rows[0])
    for row, tokens in ((rows[0], [4, 5, 6]), (twin, [7, 8, 9])):
        target.score(on([row], [TokenTree.chain(tokens[0], tokens[1:])]))
        target.keep([row], [[1, 2]])
    target.free([rows[0]])
    probe = TokenTree.root(3)
    ours = target.score(on([twin], [probe])).logits(0, [0])
    fresh, _ = opened(target, [[*PROMPT[:length], 7, 8, 9]])
    np.testing.assert_array_equal(ours, target.score(on(fresh, [probe])).logits(0, [0]))
    target.free([twin, *fresh])
    assert target.cache_bytes == 0


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 32, 40])
def test_a_part_of_a_row_shares_its_full_pages(target: NativeTarget, length: int) -> None:
    """The rest of the part is a copy: either row goes on as if it had read all of it."""
    rows, _ = opened(target, [PROMPT[:40]])
    page_bytes = target.cache_bytes // 3
    part = target.fork_at(rows[0], length)
    assert target.length(part) == length
    assert target.cache_bytes == (4 if length % 16 else 3) * page_bytes
    texts = [[*PROMPT[:40], 4, 5, 6], [*PROMPT[:length], 7, 8, 9]]
    for row, text in zip([rows[0], part], texts, strict=True):
        target.score(on([row], [TokenTree.chain(text[-3], text[-2:])]))
        target.keep([row], [[1, 2]])
    probe = TokenTree.root(3)
    fresh, _ = opened(target, texts)
    for row, other in zip([rows[0], part], fresh, strict=True):
        ours = target.score(on([row], [probe])).logits(0, [0])
        np.testing.assert_array_equal(ours, target.score(on([other], [probe])).logits(0, [0]))
    target.free([rows[0], part, *fresh])
    assert target.cache_bytes == 0


def test_a_row_has_no_more_parts_than_it_holds_and_room_has_an_end(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, context_length=64, cache_tokens=64, threads=1)
    rows, _ = opened(target, [[1, 2, 3] * 11])
    for length in (-1, 34):
        with pytest.raises(ValueError, match=f"row {rows[0]} does not hold {length} positions"):
            target.fork_at(rows[0], length)
    parts = [target.fork_at(rows[0], 32) for _ in range(9)]  # nothing is copied
    last = target.fork_at(rows[0], 31)
    before = target.cache_bytes
    with pytest.raises(CacheFull):
        target.fork_at(rows[0], 31)
    assert target.cache_bytes == before
    target.free([*rows, *parts, last])
    assert target.cache_bytes == 0


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F32"])
def test_threads_and_instruction_sets_change_no_bit(kind: str, tmp_path: Path) -> None:
    size = {"hidden_size": 256, "intermediate_size": 256} if kind == "Q6_K" else {}
    write_gguf(tmp_path / "model.gguf", "qwen2", tensor_type=kind, **size)
    seen = []
    for isa in INSTRUCTION_SETS:
        for threads in (1, 2, 3):
            with instruction_set(isa):
                target = open_target(tmp_path / "model.gguf", tmp_path / "cache", threads=threads)
            rows, _ = opened(target, [PROMPT])
            seen.append(
                target.score(on(rows, [random_tree(np.random.default_rng(0), 20)])).logits(0, range(20))
            )
    for other in seen[1:]:
        np.testing.assert_array_equal(seen[0], other)


SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=0.7, seed=2**63 + 5),
    Sampling(temperature=1.3, top_k=7, seed=3),
    Sampling(temperature=0.9, top_p=0.6, seed=4),
    Sampling(temperature=1.5, min_p=0.1, seed=5),
    Sampling(temperature=1.1, top_k=40, top_p=0.9, min_p=0.02, seed=6),
    Sampling(temperature=2.0, top_p=0.05, seed=7),
    Sampling(temperature=0.8, top_k=1, seed=8),
]


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_choices_equal_the_numpy_twin(isa: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", "Q8_0")
    rng = np.random.default_rng(5)
    for round_number in range(3):
        rows, _ = opened(target, [PROMPT[: 5 + round_number]])
        tree = random_tree(rng, 64)
        scores = target.score(on(rows, [tree]))
        logits = scores.logits(0, range(64))
        for sampling in SAMPLINGS:
            positions = [100 + depth + 1 for depth in tree.depth().tolist()]
            assert scores.choose([sampling], [100])[0] == choose(logits, sampling, positions), sampling
        target.free(rows)


def test_edits_are_added_before_anything_else(target: NativeTarget) -> None:
    rows, _ = opened(target, [PROMPT])
    scores = target.score(on(rows, [TokenTree.chain(1, [2, 3])]))
    plain = scores.choose([Sampling()], [61])[0]
    ban = Edit([plain[1]], [-np.inf])
    push = Edit([17], [1e4])
    edited = scores.choose([Sampling()], [61], [[None, ban, push]])[0]
    logits = scores.logits(0, [1])[0]
    assert edited == [plain[0], int(np.argsort(-logits, kind="stable")[1]), 17]
    sampled = scores.choose([Sampling(temperature=1.0, seed=9)], [61], [[None, None, push]])[0]
    assert sampled[2] == 17
    target.free(rows)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_an_infinite_logit_is_the_choice(isa: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", "Q8_0")
    rows, _ = opened(target, [PROMPT])
    scores = target.score(on(rows, [TokenTree.root(1)]))
    push = Edit([17], [np.inf])
    for sampling in SAMPLINGS:
        assert scores.choose([sampling], [61], [[push]]) == [[17]], sampling
        assert choose(edited(scores.logits(0, [0])[0], push)[None], sampling, [61]) == [17], sampling
    target.free(rows)


def test_edits_of_one_row_leave_the_others_alone(target: NativeTarget) -> None:
    rows, scores = opened(target, [PROMPT, PROMPT])
    push = Edit([17], [1e4])
    plain = scores.choose([Sampling()] * 2, [60, 60])
    assert scores.choose([Sampling()] * 2, [60, 60], [None, [push]]) == [plain[0], [17]]
    target.free(rows)


def test_bad_calls_are_refused_and_leave_the_target_usable(target: NativeTarget) -> None:
    rows, _ = opened(target, [PROMPT[:5]])
    expected = target.score(on(rows, [TokenTree.root(3)])).logits(0, [0])
    for bad, message in (
        (TokenTree.root(VOCAB_SIZE), "outside the vocabulary"),
        (TokenTree.root(-1), "outside the vocabulary"),
        (TokenTree.chain(1, [2] * 1100), "1 to 1024 nodes"),
        (TokenTree.chain(1, [2] * 600), "outside the context"),
    ):
        with pytest.raises(ValueError, match=message):
            target.score(on(rows, [bad]))
    with pytest.raises(ValueError, match="twice"):
        target.score(on([rows[0], rows[0]], [TokenTree.root(1), TokenTree.root(1)]))
    with pytest.raises(ValueError, match="no row"):
        target.score(on([99], [TokenTree.root(1)]))
    with pytest.raises(ValueError, match="no scored tree"):
        target.keep(rows, [[]])
    target.score(on(rows, [TokenTree.chain(1, [2, 3])]))
    with pytest.raises(ValueError, match="descend"):
        target.keep(rows, [[2]])
    np.testing.assert_array_equal(target.score(on(rows, [TokenTree.root(3)])).logits(0, [0]), expected)
    target.free(rows)
    with pytest.raises(ValueError, match="no row"):
        target.free(rows)


def test_a_row_number_that_is_used_again_inherits_no_scored_tree(target: NativeTarget) -> None:
    decoder = target._decoder
    row = decoder.open()
    decoder.score([row], [0, 1], [5], [-1])
    decoder.close(row)
    assert decoder.open() == row
    with pytest.raises(ValueError, match="no scored tree"):
        decoder.keep(row, [])
    decoder.close(row)


def test_the_native_module_checks_what_it_is_given(target: NativeTarget) -> None:
    decoder = target._decoder
    row = decoder.open()
    decoder.score([row], [0, 1], [5], [-1])
    for bad in ((0, -1), (0, 2), (-1, 1), (7, 1)):
        with pytest.raises(ValueError, match=r"no node|negative"):
            decoder.choose([(*bad, 0, 0.0, 0, 1.0, 0.0, 0)])
    with pytest.raises(ValueError, match="fit together"):
        decoder.score([row], [0, 2], [5], [-1])
    decoder.close(row)


def test_prompts_that_do_not_fit(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, context_length=32, cache_tokens=48)
    with pytest.raises(PromptTooLong, match=r"33 tokens.*32"):
        opened(target, [PROMPT[:33]])
    with pytest.raises(OutpaceError, match="1 token or more"):
        opened(target, [[]])
    with pytest.raises(OutpaceError, match="full"):
        opened(target, [PROMPT[:32], PROMPT[:32]])
    assert target.cache_bytes == 0
    rows, _ = opened(target, [PROMPT[:32]])
    assert target.length(rows[0]) == 32


def test_options_are_checked(tmp_path: Path) -> None:
    for options, message in (
        ({"kv": "int8"}, "accepted are f16, f32"),
        ({"threads": 0}, "1 to 1024"),
        ({"context_length": 513}, "1 to 512"),
    ):
        with pytest.raises(OutpaceError, match=message):
            gguf_target(tmp_path, **options)


def test_a_full_cache_says_what_to_do(tmp_path: Path) -> None:
    """Each text that is not read to its end holds pages; closing one makes room for another."""
    target = gguf_target(tmp_path, context_length=32, cache_tokens=64)
    held = [generate(target, NoDraft(), Match(), Request([1, 2, 3], max_tokens=9)) for _ in range(5)]
    for steps in held[:4]:
        next(steps)
    with pytest.raises(OutpaceError, match=r"hold its 64 tokens; close\(\) streams .* cache_tokens"):
        next(held[4])
    held[0].close()
    next(generate(target, NoDraft(), Match(), Request([1, 2, 3], max_tokens=9)))
    with pytest.raises(OutpaceError, match=r"hold its 64 tokens; close\(\) streams"):
        for row in opened(target, [[1, 2]])[0] * 9:
            target.fork(row)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("threads", [1.5, True, "2", 2**70]),
        ("context_length", [3.5, "9", True]),
        ("kv", [16, None, "f8"]),
        ("cache_tokens", [64.0, 15, -1, "64", 2**70]),
        ("taps", [3, ["a"], [1.5]]),
    ],
)
def test_types_of_options_are_checked(tmp_path: Path, option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(OutpaceError, match=f"^{option} is .*, accepted are "):
            gguf_target(tmp_path, **{option: value})


def test_old_scores_are_not_mistaken_for_new_ones(target: NativeTarget) -> None:
    rows, old = opened(target, [PROMPT[:5]])
    target.score(on(rows, [TokenTree.root(3)]))
    with pytest.raises(AssertionError, match="overwritten"):
        old.logits(0, [0])
    target.free(rows)


def test_of_a_call_that_found_no_room_nothing_is_kept(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0", cache_tokens=64, context_length=60)
    (row, _), _ = opened(target, [[1, 2, 3], [1] * 40])
    target.score(on([row], [TokenTree.chain(4, [5, 6])]))
    with pytest.raises(OutpaceError, match="full"):
        target.score(on([row], [TokenTree.chain(4, [5] * 50)]))
    with pytest.raises(ValueError, match="no scored tree"):
        target.keep([row], [[1, 2]])
    assert target.length(row) == 3


def test_more_rows_than_a_call_has_nodes_get_one_line(target: NativeTarget) -> None:
    before = target.cache_bytes
    with pytest.raises(OutpaceError, match="a call scores 1 to 1024 nodes, not 1025"):
        opened(target, [[1]] * 1025)
    assert target.cache_bytes == before

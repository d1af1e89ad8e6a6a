"""The likeliest tokens, found while the output matrix passes by: those of a stable sort of all logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.targets.native_scores import NativeScores
from tests.fake_models import VOCAB_SIZE, make_model, write_hf, write_tokenizer
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set, open_target
from tests.rows import on, opened

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=0.8, top_k=5, top_p=0.9, seed=2),  # needs whole logits
]


def random_trees(*sizes: int) -> list[TokenTree]:
    rng = np.random.default_rng(sum(sizes))
    return [
        TokenTree(
            rng.integers(0, VOCAB_SIZE, size).tolist(), [-1, *(int(rng.integers(i)) for i in range(1, size))]
        )
        for size in sizes
    ]


def assert_is_the_sort(scores: NativeScores, trees: list[TokenTree], k: int) -> None:
    for row, tree in enumerate(trees):
        nodes = [node for node in range(tree.num_nodes) if node % 3 != 1]
        logits = scores.logits(row, nodes)
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        ids, values = scores.top(row, nodes, k)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(values, np.take_along_axis(logits, expected, axis=1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_equals_a_stable_sort_of_the_logits(isa: str, threads: int, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", "Q4_1", threads=threads)
    rows, _ = opened(target, [[1, 2, 3], [4]])
    trees = random_trees(90, 7)  # more nodes than share one pass over the output matrix
    for announced in (0, 1, 8, 64, 1000):
        scores = target.score(on(rows, trees))
        for pair in ([SAMPLINGS[0], SAMPLINGS[2]], [SAMPLINGS[1], SAMPLINGS[0]]):
            choices = scores.choose(pair, [3, 1], None, announced)
            assert choices == scores.choose(pair, [3, 1])
            for k in (1, 8, 64, 70):  # less than was announced, more, and more than is kept
                assert_is_the_sort(scores, trees, k)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_equal_logits_rank_by_their_number(isa: str, tmp_path: Path) -> None:
    """Three rows make up the whole output matrix: a hundred tokens tie with each."""
    model = make_model("llama3")
    rows = model.lm_head.weight.detach()
    with torch.no_grad():
        model.lm_head.weight.copy_(rows[torch.arange(VOCAB_SIZE) % 7 % 3])
    model.save_pretrained(tmp_path / "hf")
    write_tokenizer(tmp_path / "hf")
    with instruction_set(isa):
        target = open_target(tmp_path / "hf", tmp_path / "cache", threads=2)
    cached, _ = opened(target, [[1, 2, 3]])
    trees = random_trees(5)
    scores = target.score(on(cached, trees))
    assert len(set(scores.logits(0, [0])[0].tolist())) == 3
    scores.choose([Sampling()], [3], None, 64)
    for k in (1, 8, 64):
        assert_is_the_sort(scores, trees, k)


def test_a_new_call_forgets(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")
    rows, _ = opened(target, [[1, 2, 3]])
    for trees in (random_trees(9), random_trees(4), random_trees(12)):
        scores = target.score(on(rows, trees))
        scores.choose([Sampling()], [3], None, 8)
        assert_is_the_sort(scores, trees, 8)


def test_what_is_announced_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")
    rows, _ = opened(target, [[1, 2, 3]])
    scores = target.score(on(rows, random_trees(9)))
    monkeypatch.setattr(NativeScores, "logits", lambda *_: pytest.fail("whole logits were asked for"))
    scores.choose([Sampling()], [3], None, 8)
    assert scores.top(0, [0, 4], 8)[0].shape == (2, 8)
    assert scores.top(0, [0, 4], 9)[0].shape == (2, 9)


def test_more_than_the_vocabulary_is_the_vocabulary(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", "llama", vocab_size=40, pad_token_id=None, bos_token_id=1, eos_token_id=2)
    Tokenizer(BPE({f"t{token}": token for token in range(40)}, [])).save(str(tmp_path / "hf/tokenizer.json"))
    (tmp_path / "hf/tokenizer_config.json").unlink()
    target = open_target(tmp_path / "hf", tmp_path / "cache")
    _, scores = opened(target, [[1, 2, 3]])
    assert isinstance(scores, NativeScores)
    scores.choose([Sampling()], [3], None, 64)
    for k in (40, 41, 64):
        assert_is_the_sort(scores, [TokenTree.root(3)], k)


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")
    rows, _ = opened(target, [[1, 2, 3]])
    for nodes, k, message in (
        ([0], 0, "1 to 64"),
        ([0], 65, "1 to 64"),
        ([3], 5, "no node"),
        ([-1], 5, "no node"),
    ):
        with pytest.raises(ValueError, match=message):
            target._decoder.top(nodes, k)
    target.free(rows)

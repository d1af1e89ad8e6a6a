"""Edits of a request against transformers' own processors, on random rules, texts and trees."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from outpace.core.sampling import edited  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.engine.processors import NEVER, Place, Processors, Rules  # noqa: E402

VOCAB = 12  # so few that runs repeat
ENDS = [2, 7]
SIZES = {"vocab_size": VOCAB, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}


@functools.cache
def model() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_attention_heads=1))


def theirs(rules: Rules, place: Place, width: int, text: list[int], logits: Any) -> Any:
    """The logits after the processors that transformers makes of the same."""
    given: dict[str, Any] = {
        "no_repeat_ngram_size": rules.no_repeat or None,
        "encoder_no_repeat_ngram_size": rules.no_repeat_source or None,
        "min_length": place.min_length,
        "max_length": place.max_length,
        "forced_bos_token_id": rules.forced_first,
        "forced_eos_token_id": rules.forced_last,
        "suppress_tokens": sorted(rules.banned) or None,
        "begin_suppress_tokens": sorted(rules.banned_first) or None,
        "bad_words_ids": [list(ids) for ids, bias in rules.biases if bias == NEVER] or None,
        "sequence_bias": {ids: bias for ids, bias in rules.biases if bias != NEVER} or None,
    }
    config = transformers.GenerationConfig(**{k: v for k, v in given.items() if v is not None})
    config._eos_token_tensor = torch.tensor(ENDS)
    processors = model()._get_logits_processor(
        config, input_ids_seq_length=width, encoder_input_ids=torch.tensor([place.source]), device="cpu"
    )
    return processors(torch.tensor([text]), torch.from_numpy(logits[None]))[0].numpy()


def drawn(rng: np.random.Generator) -> tuple[Rules, Place, list[int], int]:
    def some(most: int) -> list[int]:
        return rng.integers(0, VOCAB, rng.integers(1, most + 1)).tolist()

    text = rng.integers(0, VOCAB, rng.integers(1, 9)).tolist()
    width = len(text) if rng.random() < 0.5 else int(rng.integers(1, len(text) + 1))
    biases = {tuple(some(3)): float(rng.choice([NEVER, -2.5, 4.0])) for _ in range(rng.integers(0, 5))}
    for end in ENDS:
        biases.pop((end,), None)  # transformers forgets those that would ban an end alone
    rules = Rules(
        biases=tuple(biases.items()),
        no_repeat=int(rng.integers(0, 4)),
        no_repeat_source=int(rng.integers(0, 4)),
        ends=frozenset(ENDS),
        forced_first=3 if rng.random() < 0.3 else None,
        forced_last=4 if rng.random() < 0.3 else None,
        banned=frozenset(some(2)) - {3, 4} if rng.random() < 0.5 else frozenset(),
        banned_first=frozenset(some(3)) - {3, 4} if rng.random() < 0.5 else frozenset(),
    )
    first = width + (width == 1 and rules.forced_first is not None)
    padding = int(rng.integers(0, len(text)))
    place = Place(
        VOCAB,
        first,
        int(rng.integers(0, 12)),
        int(rng.integers(2, 12)),
        tuple(text[:padding]),
        tuple(some(6)),
    )
    return rules, place, text, width


def test_random_rules_are_those_of_transformers() -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(120):
        rules, place, text, width = drawn(rng)
        drafts = rng.integers(0, VOCAB, 4).tolist()
        tree = TokenTree([text[-1], *drafts], [-1, 0, 1, 0, 3])
        processors = Processors(rules, place)
        edits = processors(text[len(place.padding) :], tree)
        logits = rng.normal(size=(5, VOCAB)).astype(np.float32)
        for node, edit in enumerate(edits):
            path = [tree.token_list[one] for one in tree.path_to(node)[1:]]
            expected = theirs(rules, place, width, text + path, logits[node])
            found = edited(logits[node], edit)
            # A forced token's logit is 0 there and its own here: either way it is the only one.
            assert np.array_equal(found == NEVER, expected == NEVER), (rules, place, text, path)
            if (expected > NEVER).sum() > 1:
                np.testing.assert_allclose(found, expected, rtol=1e-6)
            changed += not np.array_equal(found, logits[node])
        assert [
            None if e is None else e[0].tolist() for e in processors(text[len(place.padding) :], tree)
        ] == [None if e is None else e[0].tolist() for e in edits]
    assert changed > 200


def test_where_nothing_holds_there_is_no_edit() -> None:
    place = Place(VOCAB, 3, 5, 9)
    processors = Processors(Rules(ends=frozenset({2}), forced_last=4, banned_first=frozenset({1})), place)
    tree = TokenTree.chain(6, [6] * 6)
    edits = processors([5, 5, 6], tree)
    assert [edit if edit is None else sorted(edit[0].tolist()) for edit in edits] == [
        [1, 2],
        [2],
        None,
        None,
        None,
        [token for token in range(VOCAB) if token != 4],
        None,
    ]


def test_ids_that_nobody_can_choose_are_left_out() -> None:
    processors = Processors(Rules(banned=frozenset({3, VOCAB, VOCAB + 5, -1})), Place(VOCAB, 1, 0, 9))
    ((tokens, values),) = processors([1], TokenTree.root(1))  # type: ignore[misc]
    assert (tokens.tolist(), values.tolist()) == ([3], [NEVER])


@pytest.mark.parametrize("width", [4, 10**5, 10**12])
def test_runs_that_are_longer_than_the_text_take_no_time(width: int) -> None:
    place = Place(VOCAB, 3, 0, 9, source=(5, 6, 7))
    for rules in (Rules(no_repeat=width), Rules(no_repeat_source=width)):
        assert Processors(rules, place)([5, 6, 7], TokenTree.root(7)) == [None]

"""Edits of a request against transformers' own processors, on random rules, texts and trees."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from outpace.core.edits import Edit, edited, edits_of  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.models.processors import NEVER, Place, Processors, Rules  # noqa: E402

VOCAB = 12  # so few that runs repeat
ENDS = [2, 7]
SIZES = {"vocab_size": VOCAB, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}


@functools.cache
def model() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_attention_heads=1))


def theirs(rules: Rules, place: Place, width: int, text: list[int], logits: Any) -> Any:
    """The logits after the processors that transformers makes of the same."""
    given: dict[str, Any] = {
        "repetition_penalty": rules.penalty,
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
    mask = torch.arange(len(text))[None] >= len(place.padding)
    processors = model()._get_logits_processor(
        config,
        input_ids_seq_length=width,
        encoder_input_ids=torch.tensor([place.source]),
        device="cpu",
        model_kwargs={"attention_mask": mask},
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
        penalty=float(rng.choice([1.0, 1.3, 0.6])),
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
        after = text[len(place.padding) :]
        edits = edits_of(partial(processors, after), tree) or [None] * 5
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
            # The same text, once it has grown by the path.
            longer = processors(text[len(place.padding) :] + path, [])
            assert np.array_equal(edited(logits[node], longer), found)
    assert changed > 200


@pytest.mark.parametrize("penalty", [0.3, 1.05, 1.3, 7.7])
def test_the_repetition_penalty_is_theirs_to_the_last_bit(penalty: float) -> None:
    rng = np.random.default_rng(3)
    rules, place = Rules(penalty=penalty), Place(VOCAB, 1, 0, 999)
    processors = Processors(rules, place)
    text: list[int] = []  # one list that grows, as the engine's does
    for _ in range(50):
        text += rng.integers(0, VOCAB, rng.integers(1, 3)).tolist()
        path = rng.integers(0, VOCAB, rng.integers(0, 4)).tolist()
        logits = (rng.normal(size=VOCAB) * 9).astype(np.float32)
        found = edited(logits, processors(text, path))
        assert np.array_equal(found, theirs(rules, place, 1, text + path, logits))
        if len(text) > 30:
            text = []  # another text


@pytest.mark.parametrize("vocab_size", [VOCAB, 1000])
def test_edits_are_those_that_the_checked_constructor_makes_and_stay_as_they_are(vocab_size: int) -> None:
    rng = np.random.default_rng(4)
    biases = {(7,): 1e300, (3,): -0.1, (vocab_size + 1,): 2.0, (2, 5): 0.3}
    rules = Rules(tuple(biases.items()), penalty=1.2, no_repeat=2, forced_last=4, banned=frozenset({9, 1}))
    processors = Processors(rules, Place(vocab_size, 1, 0, 70))
    text: list[int] = []
    made = []
    while len(text) < 66:
        text += rng.integers(0, vocab_size + 2, rng.integers(1, 3)).tolist()
        path = rng.integers(0, vocab_size, rng.integers(0, 4)).tolist()
        edit = processors(text, path)
        assert edit is not None
        fields = edit.ids, edit.added, edit.repeated
        made.append((edit, [one.copy() for one in fields]))
        forced = len(text) + len(path) == 69
        masked = None if edit.allowed is None else np.arange(vocab_size) == 4
        assert forced == (masked is not None)
        twin = Edit(*fields[:2], repeated=fields[2], penalty=1.2, allowed=masked)
        for name in ("ids", "added", "repeated", "allowed"):
            one, other = getattr(edit, name), getattr(twin, name)
            assert np.array_equal(one, other) and (one is None or one.dtype == other.dtype), name
        assert twin.penalty == edit.penalty and (np.diff(edit.ids) > 0).all()
        seen = [] if forced else sorted({token for token in text + path if token < vocab_size})
        assert edit.repeated.tolist() == seen
    for edit, before in made:
        for one, old in zip((edit.ids, edit.added, edit.repeated), before, strict=True):
            assert np.array_equal(one, old)


def test_where_nothing_holds_there_is_no_edit() -> None:
    place = Place(VOCAB, 3, 5, 9)
    processors = Processors(Rules(ends=frozenset({2}), forced_last=4, banned_first=frozenset({1})), place)
    tree = TokenTree.chain(6, [6] * 6)
    edits = edits_of(partial(processors, [5, 5, 6]), tree)
    assert edits is not None
    banned = [
        edit if edit is None else (edited(np.zeros(VOCAB), edit) == NEVER).nonzero()[0] for edit in edits
    ]
    assert [tokens if tokens is None else tokens.tolist() for tokens in banned] == [
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
    edit = processors([1], [])
    assert edit is not None and (edit.ids.tolist(), edit.added.tolist()) == ([3], [NEVER])


@pytest.mark.parametrize("width", [4, 10**5, 10**12])
def test_runs_that_are_longer_than_the_text_take_no_time(width: int) -> None:
    place = Place(VOCAB, 3, 0, 9, source=(5, 6, 7))
    for rules in (Rules(no_repeat=width), Rules(no_repeat_source=width)):
        assert Processors(rules, place)([5, 6, 7], []) is None

"""Draft models of another vocabulary: two trained tokenizers, and alphabets in another order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, warp
from outpace.core.steps import Ask
from outpace.core.tree import TokenTree
from outpace.drafters.model.foreign import IntersectionBridge, Respelled, TextBridge, spell
from outpace.drafters.model.small_model import SmallModel, small_model
from outpace.drafters.model.vocabulary import Words
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Request
from outpace.files.tokenizer import Tokenizer
from outpace.rules.match import Match
from outpace.rules.multi_draft import MultiDraft
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from outpace.trees.dynamic import Dynamic
from outpace.trees.static import Static
from tests.fakes import Letters, whole
from tests.files.vocabularies import (
    CORPUS,
    byte_level_metadata,
    sentence_piece_metadata,
    trained_bpe,
    trained_pieces,
)
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.lazy_table import LazyTable

TEXT = " ".join(CORPUS[:3]) + CORPUS[3] + CORPUS[4]
PROMPT = "The tide is"


@cache
def words(kind: str) -> Words:
    """A byte-level BPE, or pieces that begin with a space and fall back to bytes."""
    if kind == "bytes":
        tokenizer = Tokenizer.from_gguf(byte_level_metadata(*trained_bpe(), "gpt-2"))
    else:
        tokenizer = Tokenizer.from_gguf(sentence_piece_metadata(trained_pieces(), add_bos_token=True))
    return Words(tokenizer, tokenizer.vocab_size)


class Reciter(TableTarget):
    """A model that knows one text by heart, in its own tokens; put between them, it takes the longest."""

    def __init__(self, text: str, vocabulary: Words) -> None:
        super().__init__(np.zeros((vocabulary.size, vocabulary.size), np.float32))
        self.text, self.vocabulary = text.encode(), vocabulary
        ids = spell(vocabulary, self.text)
        assert ids is not None
        ends = accumulate((len(vocabulary.text(token)) for token in ids), initial=0)
        self.next_at = dict(zip(ends, ids, strict=False))

    def after(self, tokens: Sequence[int]) -> np.ndarray:
        said = b"".join(map(self.vocabulary.text, tokens))
        said = said if self.text.startswith(said) else said.removeprefix(b" ")
        logits = np.zeros(self.vocab_size, np.float32)
        if self.text.startswith(said) and said != self.text:
            rest = self.text[len(said) :]
            for token in range(self.vocab_size):
                piece = self.vocabulary.text(token)
                if piece and rest.startswith(piece):
                    logits[token] = 10 + len(piece)
            if len(said) in self.next_at:
                logits[self.next_at[len(said)]] = 60
        return logits


def drafter(
    target: TableTarget, ours: Words, draft: TableTarget, theirs: Words, **options: Any
) -> SmallModel:
    small = SimpleNamespace(target=draft, tokenizer=theirs.tokenizer)
    return small_model(target, ours.tokenizer, lambda source: small, model="x", **options)


@pytest.mark.parametrize(("ours", "theirs"), [("bytes", "pieces"), ("pieces", "bytes")])
@pytest.mark.parametrize("bridge", ["auto", "intersection"])
@pytest.mark.parametrize("tree", [Chain(), Dynamic(size=12, k=2)], ids=["chain", "dynamic"])
def test_a_model_of_another_vocabulary_that_knows_the_text(
    ours: str, theirs: str, bridge: str, tree: Any
) -> None:
    """Spaces, line ends, several bytes a letter: drafted nearly as if the tokens were the same."""
    target, draft = Reciter(TEXT, words(ours)), Reciter(TEXT, words(theirs))
    prompt = spell(words(ours), PROMPT.encode())
    assert prompt
    num = len(spell(words(ours), TEXT.encode()) or []) - len(prompt)
    request = Request(prompt, Sampling(), num)
    small = drafter(target, words(ours), draft, words(theirs), tree=tree, bridge=bridge)
    drafted = whole(generate(target, small, Match(), request))[1]
    assert b"".join(map(words(ours).text, [*prompt, *drafted.token_ids])).decode() == TEXT
    assert drafted.token_ids == whole(generate(target, NoDraft(), Match(), request))[1].token_ids
    # Chains of 4 draft tokens; rare letters are several tokens in one vocabulary and none in the other.
    assert drafted.stats.mean_accepted_length > (3 if bridge == "auto" else 1.5)
    assert draft.num_rows == 0


@pytest.mark.parametrize("bridge", ["text", "intersection"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=3)], ids=str)
def test_the_same_model_with_its_alphabet_in_another_order(bridge: str, sampling: Sampling) -> None:
    """The whole vocabulary is shared and so is the noise, which goes by the target's ids."""
    target = TableTarget.random(vocab_size=8, order=2, seed=3)
    order = [3, 0, 7, 1, 5, 6, 2, 4]
    draft = TableTarget(target.table[np.ix_(order, order, order)])
    ours = Words(Letters("abcdefgh"), 8)
    theirs = Words(Letters("".join("abcdefgh"[i] for i in order)), 8)
    small = drafter(target, ours, draft, theirs, bridge=bridge)
    request = Request([1, 2, 3], sampling, 41)
    drafted = whole(generate(target, small, Match(), request))[1]
    assert drafted.token_ids == whole(generate(target, NoDraft(), Match(), request))[1].token_ids
    if bridge == "intersection" or sampling.temperature == 0:
        assert drafted.stats.target_calls == 8


def test_the_law_is_that_of_the_tokens_that_both_have() -> None:
    target = LazyTable.random(vocab_size=4, order=1, spread=1.0, seed=8)
    draft = TableTarget.random(vocab_size=4, order=1, spread=1.0, seed=1)
    ours, theirs = Words(Letters("abcd"), 4), Words(Letters("cxba"), 4)
    small = drafter(target, ours, draft, theirs, bridge="intersection", tree=Static(widths="2"))
    sampling = Sampling(temperature=1.0, seed=1)
    state = small.start(Prompt.of([0, 1]))
    [tree] = small.propose([state], [Ask(1, 1, sampling, 9, 9)])
    a, b, c = draft.after([2])[[3, 2, 0]]  # behind b, which is token 2 of the draft model
    law = tree.law(0)
    assert law is not None and np.allclose(law, warp(np.array([a, b, c, -np.inf], np.float32), sampling))
    assert tree.draw == "without_replacement" and set(tree.token_list[1:]) <= {0, 1, 2}
    small.stop(state)

    requests = [Request([1, 2], replace(sampling, seed=seed), 2) for seed in range(2500)]
    texts = whole(events(target, small, MultiDraft(), requests))[1]
    assert (
        g_test([tuple(one.token_ids) for one in texts], target.law_of([1, 2], 2, sampling)) > FALSE_ALARM_RATE
    )


def test_vocabularies_with_nothing_in_common() -> None:
    with pytest.raises(OutpaceError, match="no token in common"):
        IntersectionBridge(Words(Letters("abc"), 3), Words(Letters("xyz"), 3))


LETTERS = "aeinst .,\n'xé🙂語"


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@given(text=st.text(alphabet=LETTERS, max_size=12) | st.text(max_size=6))
@settings(max_examples=150)
def test_a_spelling_has_the_bytes_of_the_text(kind: str, text: str) -> None:
    ids = spell(words(kind), text.encode())
    assert ids is not None and b"".join(map(words(kind).text, ids)) == text.encode()


def test_half_a_character_is_not_spelled() -> None:
    data = "né".encode()[:-1]
    assert spell(words("bytes"), data) is None
    assert spell(words("bytes"), data, whole=True) == spell(words("bytes"), b"n")


@pytest.mark.parametrize(("ours", "theirs"), [("bytes", "pieces"), ("pieces", "bytes"), ("bytes", "bytes")])
@given(
    text=st.text(alphabet=LETTERS, min_size=2, max_size=30),
    coins=st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_what_the_draft_model_has_read_is_the_text(
    ours: str, theirs: str, text: str, coins: random.Random
) -> None:
    """However the tokens come, and whatever was drafted, kept or not."""
    reader = Respelled(words(ours), words(theirs))
    tokens = spell(words(ours), text.encode()) or []
    reading = reader.start(tokens[:1])
    read: list[int] = []  # by the draft model's row
    at = 1
    while at < len(tokens):
        committed = b"".join(map(words(ours).text, tokens[:at]))
        scored = None
        if (pending := reader.pending(reading)) and coins.random() < 0.8:
            assert b"".join(map(words(theirs).text, [*read, *pending])).removeprefix(b" ") in (
                committed,
                committed.removeprefix(b" "),
            )
            read += pending[:-1]
            reading.ids, reading.tail = pending[-1:], b""
            # A draft that goes on with the true text for a while, with a wrong branch at every node.
            rest = spell(words(theirs), text.encode()[len(committed) :], whole=True) or []
            right = rest[: coins.randrange(5)]
            parents = [-1, *(2 * (i // 2) - (i // 2 > 0) for i in range(2 * len(right)))]
            drafts = [token for one in right for token in (one, coins.randrange(words(theirs).size))]
            scored = TokenTree([pending[-1], *drafts], parents)
        new = tokens[at : at + 1 + coins.randrange(4)]
        at += len(new)
        path = reader.commit(reading, scored, new)
        if path is not None:
            assert scored is not None
            read += [scored.token_list[node] for node in [0, *path]]
    if pending := reader.pending(reading):
        said = b"".join(map(words(theirs).text, [*read, *pending]))
        assert said.removeprefix(b" ") == text.encode().removeprefix(b" ")


def test_what_was_drafted_rightly_need_not_be_read_again() -> None:
    ours, theirs = words("bytes"), words("pieces")
    reader = Respelled(ours, theirs)
    first, second = (spell(ours, text) or [] for text in (b"The tide", b" is the rise and fall"))
    reading = reader.start(first)
    pending = reader.pending(reading)
    reading.ids, reading.tail = pending[-1:], b""
    draft = spell(theirs, b" is the rise and") or []
    path = reader.commit(reading, TokenTree.chain(pending[-1], draft), second)
    assert path == list(range(1, len(draft) + 1))
    assert b"".join(map(theirs.text, reader.pending(reading))) == b" fall"


def test_a_word_that_comes_in_pieces_is_spelled_as_one() -> None:
    theirs = words("bytes")
    reader = Respelled(Words(Letters("tide "), 5), theirs)
    reading = reader.start([0, 1])
    reading.ids, reading.tail = reader.pending(reading)[-1:], b""  # all but the last token has been read
    reader.commit(reading, TokenTree.root(reading.ids[0]), [2, 3])
    assert b"".join(map(theirs.text, reader.pending(reading))) == b"ide"
    assert reader.pending(reading) == spell(theirs, b"ide")


def test_special_tokens_are_read_where_both_have_them() -> None:
    ours, theirs = words("bytes"), words("pieces")
    start, end = (ours.tokenizer.token_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    text = spell(ours, b"tide") or []
    bos = theirs.tokenizer.bos_id
    # Of another vocabulary: they are left out, and its own beginning is put in front.
    alien = Respelled(ours, theirs)
    read = alien.pending(alien.start([start, *text, end, *text]))
    assert read[0] == bos and b"".join(map(theirs.text, read)).removeprefix(b" ") == b"tidetide"
    # Of the same: they stay where they are.
    same = Respelled(ours, ours)
    assert same.pending(same.start([start, *text, end, *text])) == [start, *text, end, *text]
    own = Respelled(theirs, theirs)
    assert own.pending(own.start([bos, *(spell(theirs, b"tide") or [])])).count(bos) == 1


def test_a_draft_ends_at_a_special_token_and_at_half_a_character() -> None:
    ours, theirs = words("pieces"), words("bytes")
    bridge = TextBridge(ours, theirs)
    end = theirs.tokenizer.token_id("<|im_end|>")
    half = spell(theirs, "日".encode()) or []
    ask = Ask(1, 3, Sampling(), 9, 9)
    for drafts, text in (
        ([*(spell(theirs, b" tide") or []), end, *(spell(theirs, b"x") or [])], b" tide"),
        ([*(spell(theirs, b" tide") or []), *half[:1]], b" tide" if len(half) > 1 else " tide日".encode()),
    ):
        tree = bridge.proposal(TokenTree.chain(7, drafts), ask)
        assert tree.token_list[0] == ask.root
        assert b"".join(map(ours.text, tree.token_list[1:])) == text

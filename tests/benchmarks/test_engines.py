"""Engines behind a pipe: the protocol, with adapters that only pretend, and the loops of two libraries."""

from __future__ import annotations

import ctypes
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.engines import peer
from benchmarks.engines.decoder import BATCH, Decoder, Lookup, nothing
from benchmarks.engines.peer import CannotOpen, open_peer, start
from outpace.core.errors import OutpaceError

FAKE = """
from benchmarks.engines.serve import serve

class Fake:
    methods = {"plain": None, "guess": None}
    def __init__(self, options):
        print("a library that talks")
        self.version = f"{options.model} {options.threads} {options.context} {options.draft_model}"
    def decode(self, tokens, max_tokens, method):
        print("more talk")
        return {"token_ids": [*tokens, max_tokens], "prompt_s": 1.0, "decode_s": len(method)}
    def prompt(self, tokens):
        if len(tokens) == 3:
            raise SystemExit("three is too many")
        return {"seconds": 0.5 * len(tokens)}
    CALL

serve(Fake)
"""
CALL = "def call(self, cached, block, calls): return {'seconds': [len(cached) + block[0]] * calls}"
OPTIONS = ["--model", "m.gguf", "--threads", "2", "--context", "99"]


def fake(can_call: bool = True, *options: str) -> list[str]:
    code = FAKE.replace("CALL", CALL if can_call else "")
    return [sys.executable, "-c", code, *OPTIONS, *options]


def test_requests_and_answers() -> None:
    with start("fake", fake(True, "--draft-model", "d.gguf")) as engine:
        assert (engine.version, engine.methods, engine.can) == (
            "m.gguf 2 99 d.gguf",
            ["plain", "guess"],
            ["call"],
        )
        answer = engine.decode("unread", (4, 5), 7, "guess")
        assert answer == {"token_ids": [4, 5, 7], "prompt_s": 1.0, "decode_s": 5}
        assert engine.prompt([1, 2]) == 1.0
        assert engine.call((1, 2, 3), (8, 9), 4) == [11] * 4


def test_an_engine_without_calls_of_a_given_size() -> None:
    with start("fake", fake(can_call=False)) as engine:
        assert engine.can == [] and engine.call([1], [2], 3) is None
        assert engine.version.endswith("None")


def test_an_engine_that_ends_is_quoted() -> None:
    with start("fake", fake()) as engine:
        with pytest.raises(OutpaceError, match=r"fake ended with status 1: .*more talk / three is too many"):
            engine.decode("", [1], 1, "plain")
            engine.prompt([1, 2, 3])
        with pytest.raises(OutpaceError, match="fake ended"):
            engine.prompt([1])
    with (
        pytest.raises(CannotOpen, match="mute ended with status 3: without a word"),
        start("mute", [sys.executable, "-c", "raise SystemExit(3)"]),
    ):
        pass


def test_engines_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peer, "ENVIRONMENTS", tmp_path)
    for name, message in [
        ("nosuch", "accepted: ik_llama_cpp, llama_cpp, openvino_genai, xllamacpp"),
        ("llama_cpp", "make benchmarks/.venvs/llama_cpp/.ready"),
    ]:
        with (
            pytest.raises(OutpaceError, match=message),
            open_peer(name, tmp_path / "m.gguf", threads=1, context=1),
        ):
            pass


VOCABULARY = 97


def follows(text: list[int]) -> int:
    """What the pretended model says after a text: it goes round in circles, and now and then leaves them."""
    return (text[-1] * 5 + 1) % 7 if len(text) % 11 else sum(text) % VOCABULARY


class FakeLibrary(SimpleNamespace):
    """The C functions of the libraries over a cache of tokens that is checked for gaps."""

    def __init__(self) -> None:
        super().__init__(cache=[], calls=[], rows={})

    def __getattr__(self, name: str) -> Any:  # what only makes or finds an object
        return lambda *arguments: SimpleNamespace()

    def llama_vocab_n_tokens(self, vocabulary: object) -> int:
        return VOCABULARY

    def llama_batch_init(self, size: int, embeddings: int, sequences: int) -> SimpleNamespace:
        columns = {name: [None] * size for name in ("token", "pos", "n_seq_id", "logits")}
        return SimpleNamespace(n_tokens=0, seq_id=[[None] for _ in range(size)], **columns)

    def llama_decode(self, context: object, batch: SimpleNamespace) -> int:
        self.calls.append(batch.n_tokens)
        self.rows = {}
        for i in range(batch.n_tokens):
            assert batch.pos[i] == len(self.cache)
            self.cache.append(batch.token[i])
            if batch.logits[i]:
                self.rows[i] = (ctypes.c_float * VOCABULARY)()
                self.rows[i][follows(self.cache)] = 1.0
        return 0

    def llama_get_logits_ith(self, context: object, i: int) -> Any:
        return ctypes.cast(self.rows[i], ctypes.POINTER(ctypes.c_float))

    def cut(self, context: object, length: int) -> None:
        del self.cache[length:]


@pytest.fixture
def library() -> FakeLibrary:
    return FakeLibrary()


@pytest.fixture
def decoder(library: FakeLibrary) -> Decoder:
    return Decoder(library, "m.gguf", context=4096, threads=1, cut=library.cut)


def expected(prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    while len(text) < len(prompt) + count:
        text.append(follows(text))
    return text[len(prompt) :]


@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 60])
def test_drafted_is_plain_in_fewer_calls(
    library: FakeLibrary, decoder: Decoder, length: int, count: int
) -> None:
    prompt = [3, 1, 4, 1, 5]
    for draft in (nothing, Lookup(length)):
        library.calls.clear()
        answer = decoder.generate(prompt, count, draft)
        assert answer["token_ids"] == expected(prompt, count)
        assert len(library.calls) == count if draft is nothing else len(library.calls) <= count
    assert count < 60 or len(library.calls) < 45


@pytest.mark.parametrize("size", [1, BATCH, BATCH + 1, 2 * BATCH + 7])
def test_long_prompts_go_in_parts(library: FakeLibrary, decoder: Decoder, size: int) -> None:
    prompt = [i % VOCABULARY for i in range(size)]
    assert decoder.generate(prompt, 2, nothing)["token_ids"] == expected(prompt, 2)
    assert library.calls == [*[BATCH] * (size // BATCH), *([size % BATCH] if size % BATCH else []), 1]


def test_calls_of_a_size_leave_the_context_as_it_was(library: FakeLibrary, decoder: Decoder) -> None:
    assert len(decoder.call(range(20), [1, 2, 3, 4], calls=3)["seconds"]) == 3
    assert library.calls == [20, 4, 4, 4] and len(library.cache) == 20


def test_following_a_text(decoder: Decoder) -> None:
    text = [i * i % VOCABULARY for i in range(BATCH + 3)]
    answer = decoder.follow(text)
    best = [follows(text[: i + 1]) for i in range(len(text) - 1)]
    assert answer["choices"] == best
    total = np.log(VOCABULARY - 1 + np.e)
    right = [float(choice == token) for choice, token in zip(best, text[1:], strict=True)]
    np.testing.assert_allclose(answer["log_probs"], np.array(right) - total, rtol=1e-6)


def test_lookup_finds_what_a_search_finds() -> None:
    def search(text: list[int], length: int) -> list[int]:
        for size in range(Lookup.LONGEST, Lookup.SHORTEST - 1, -1):
            for place in range(len(text) - 1, size - 1, -1):
                if text[place - size : place] == text[len(text) - size :]:
                    return text[place : place + length]
        return []

    chance = random.Random(5)
    for length in (1, 4):
        lookup = Lookup(length)
        for _ in range(3):  # a shorter text than before is another one
            text = [chance.randrange(3) for _ in range(4)]
            while len(text) < 80:
                assert lookup(text) == search(text, length)
                text += [chance.randrange(3) for _ in range(chance.randrange(1, 4))]

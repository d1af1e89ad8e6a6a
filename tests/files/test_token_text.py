"""Decoding and streaming against the `tokenizers` library, for every step of its decoders and every token."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from outpace.core.errors import FormatError
from outpace.engine.text import TextStream
from outpace.files.token_text import Steps
from outpace.files.tokenizer import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [
    "▁",
    "▁▁",
    "a",
    "▁the",
    "tide▁",
    "é",
    "日",
    "\n",
    " ",
    "  a ",
    "##b",
    "b</w>",
    "</w>",
    ".",
    " do not",
    "|",
    "<0x",
    "41>",
]
ODD = ["<0xe3>", "<0x+1>", "<0xé>", "<0xG0>", "Ġa", "Ã", "©", "ð", "\ufffd", "<pad>", "aa"]
LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]

DECODERS: dict[str, Any] = {
    "none": None,
    "byte_level": decoders.ByteLevel(),
    "gemma": decoders.Sequence(LLAMA),
    "llama": decoders.Sequence([*LLAMA, decoders.Strip(" ", 1, 0)]),
    "t5": decoders.Metaspace(),
    "metaspace_never": decoders.Metaspace(prepend_scheme="never"),
    "metaspace_bytes": decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    ),
    "bert": decoders.WordPiece(),
    "wordpiece_as_it_is": decoders.WordPiece("▁", False),
    "gpt1": decoders.BPEDecoder(),
    "wav2vec": decoders.CTC(),
    "ctc_then_spaces": decoders.Sequence([decoders.CTC("a", "|", False), decoders.Metaspace()]),
    "byte_fallback": decoders.ByteFallback(),
    "fuse": decoders.Fuse(),
    "strip_each": decoders.Strip(" ", 2, 0),
    "strip_all": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
    "strip_ends": decoders.Sequence([decoders.Fuse(), decoders.Strip("a", 1, 2)]),
    "regex": decoders.Replace(Regex("a+|^"), "xy"),
    "regex_of_all": decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("(a+)."), "x")]),
    "replace_of_all": decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("aab", "x"), decoders.Replace("xa", "▁▁")]
    ),
    "replace_nothing": decoders.Replace("", "x"),
    "metaspace_of_all": decoders.Sequence([decoders.ByteLevel(), decoders.Metaspace()]),
    "fused_twice": decoders.Sequence(
        [*LLAMA, decoders.Fuse(), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    ),
    "letters_of_all": decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()]),
    "suffix_of_all": decoders.Sequence([decoders.Fuse(), decoders.BPEDecoder("a"), decoders.WordPiece()]),
    "nested": decoders.Sequence([decoders.Sequence([decoders.Replace("a", "▁")]), decoders.Sequence(LLAMA)]),
}


def vocabulary(decoder: Any) -> tokenizers.Tokenizer:
    """All that decoders look at, and added tokens of all sorts, in the vocabulary and beyond it."""
    texts = [*dict.fromkeys([*TEXTS, *ODD, *BYTES, *pre_tokenizers.ByteLevel.alphabet()]), "<s>", "</s>"]
    backend = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, []))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["<s>", AddedToken("</s>", special=True, lstrip=True), "▁<special>"])
    added = [
        "▁▁",
        AddedToken("▁▁▁", normalized=False),
        AddedToken("<tool>", rstrip=True),
        "<0x41>",
        "é",
        "\n\n",
        " b",
    ]
    backend.add_tokens(added)
    return backend


def theirs(backend: tokenizers.Tokenizer, ids: list[int], *, skip: bool) -> str | None:
    try:
        return backend.decode(ids, skip_special_tokens=skip)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the library strips a text that is too short
            raise
        return None


def streamed(ours: Tokenizer, ids: list[int], sizes: list[int], *, stop: tuple[str, ...] = ()) -> str:
    stream, text, start = TextStream(ours, stop=stop), "", 0
    for size in [*sizes, len(ids)]:
        text += stream.push(ids[start : start + size])
        start += size
    return text + stream.finish()


def test_every_step_of_the_library_is_tried() -> None:
    kinds = {name for name in dir(decoders) if isinstance(getattr(decoders, name), type)}
    known = {"Decoder", "DecodeStream", "Sequence"}
    used = {kind for decoder in DECODERS.values() for kind in kinds - known if f"{kind}(" in repr(decoder)}
    assert used == kinds - known


@pytest.mark.parametrize("name", DECODERS)
def test_every_single_token(name: str) -> None:
    backend = vocabulary(DECODERS[name])
    ours = Tokenizer(backend)
    for token in range(ours.vocab_size + 2):
        for ids in ([token], [token, token], [2, token], [token, 2]):
            for skip in (True, False):
                if (expected := theirs(backend, ids, skip=skip)) is not None:
                    assert ours.decode(ids, skip_special_tokens=skip) == expected
            assert streamed(ours, ids, [1]) == ours.decode(ids)


@pytest.mark.parametrize("name", DECODERS)
def test_random_sequences(name: str) -> None:
    backend = vocabulary(DECODERS[name])
    ours = Tokenizer(backend)
    token = st.one_of(
        st.integers(0, ours.vocab_size + 3),
        st.sampled_from(
            [backend.token_to_id(text) for text in [*TEXTS, "<0xC3>", "<0xA9>", "<0x0A>", "▁▁▁", "<s>"]]
        ),
    )

    @given(
        ids=st.lists(token, max_size=40), sizes=st.lists(st.integers(0, 5), max_size=10), skip=st.booleans()
    )
    def check(ids: list[int], sizes: list[int], skip: bool) -> None:
        if (expected := theirs(backend, ids, skip=skip)) is not None:
            assert ours.decode(ids, skip_special_tokens=skip) == expected
        text = ours.decode(ids)
        assert streamed(ours, ids, sizes) == text
        assert streamed(ours, ids, sizes, stop=("never there",)) == text

    check()


@pytest.mark.parametrize("name", DECODERS)
def test_stops_see_the_decoded_text(name: str) -> None:
    """No token is taken once the text of all tokens so far holds a stop string."""
    backend = vocabulary(DECODERS[name])
    ours = Tokenizer(backend)
    some = [
        backend.token_to_id(text)
        for text in [*TEXTS, "<0xC3>", "<0xA9>", "<0x0A>", "<0x20>", "▁▁▁", "<tool>"]
    ]
    stops = st.lists(
        st.sampled_from(["a", "é", "\n", "  ", " a", "t", "é\n", "\n é", "o", "tool"]), min_size=1, max_size=2
    )

    @given(ids=st.lists(st.sampled_from(some), max_size=20), stops=stops)
    def check(ids: list[int], stops: list[str]) -> None:
        stream = TextStream(ours, stop=stops)
        text = stream.push(ids) + stream.finish()
        whole = (ours.decode(ids[:n]) for n in range(len(ids) + 1))
        first = next((n for n, so_far in enumerate(whole) if any(stop in so_far for stop in stops)), None)
        assert stream.stopped == (first is not None)
        if first is None:
            assert text == ours.decode(ids)
        else:
            found = ours.decode(ids[:first])
            ends = [(found.find(stop) + len(stop), -len(stop)) for stop in stops if stop in found]
            end, length = min(ends)
            assert (stream.tokens_used, text) == (first, found[: end + length])

    check()


def test_a_text_that_goes_on_keeps_its_first_space() -> None:
    for name, text in (("llama", " the"), ("t5", " the"), ("none", " ▁the"), ("gemma", " the")):
        ours = Tokenizer(vocabulary(DECODERS[name]))
        token = ours.token_id("▁the")
        assert token is not None
        stream = TextStream(ours, keep_first_space=True)
        assert stream.push([token]) + stream.finish() == text
        assert ours.strips_space == (name != "gemma")


def test_text_comes_as_soon_as_it_is_certain() -> None:
    """Bytes wait for the end of their run, all else for nothing."""
    ours = Tokenizer(vocabulary(DECODERS["llama"]))
    ids = [
        ours.token_id(text) or 0 for text in ("▁the", "▁", "<0xC3>", "<0xA9>", "<0x0A>", "a", "<0xC3>", "▁▁")
    ]
    stream = TextStream(ours)
    assert [stream.push([i]) for i in ids] == ["the", " ", "", "", "", "é\na", "", "\ufffd  "]
    stream = TextStream(ours, stop="\n")
    assert [stream.push([i]) for i in ids] == ["the", " ", "", "", "é", "", "", ""]
    assert (stream.stopped, stream.tokens_used) == (True, 5)


@pytest.mark.parametrize(
    ("name", "text", "data"),
    [
        ("llama", "▁the", b" the"),
        ("llama", "<0xC3>", b"\xc3"),
        ("llama", "▁▁▁", b"   "),
        ("byte_level", "Ã", b"\xc3"),
        ("byte_level", "Ġa", b" a"),
        ("byte_level", "日", "日".encode()),
        ("t5", "▁the", b" the"),
        ("bert", "##b", b"b"),
        ("bert", "a", b" a"),
        ("gpt1", "b</w>", b"b "),
        ("metaspace_of_all", "Ġa", b" a"),
        ("none", "a", b" a"),
    ],
)
def test_bytes_of_a_token_in_the_middle_of_a_text(name: str, text: str, data: bytes) -> None:
    ours = Tokenizer(vocabulary(DECODERS[name]))
    token = ours.token_id(text)
    assert token is not None and ours.token_bytes(token) == ours.text_bytes[token] == data


def test_special_and_unknown_ids_have_no_bytes() -> None:
    ours = Tokenizer(vocabulary(DECODERS["llama"]))
    special = ours.token_id("▁<special>")
    assert (
        special is not None and ours.text_bytes[special] == b"" and ours.token_bytes(special) == b" <special>"
    )
    for unknown in (-1, ours.vocab_size, 2**31, 2**32, 2**70):
        assert (
            ours.text_bytes[unknown] == b"" and ours.decode([unknown]) == "" and ours.token(unknown) is None
        )


def test_a_step_of_a_later_library_is_refused() -> None:
    class Later:
        def __getstate__(self) -> bytes:
            return b'{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Brand"}]}'

    with pytest.raises(FormatError, match=r"unknown decoder Brand .* accepted: BPEDecoder, ByteFallback, "):
        Steps(Later())

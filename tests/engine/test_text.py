"""Incremental text against decoding everything at once."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from outpace.core.errors import OutpaceError
from outpace.engine.text import TextStream
from outpace.files.token_text import StagedText
from outpace.files.tokenizer import Tokenizer

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "b"), ("ab", "ab"), ("ð", "Ł"), ("æ", "Ĺ"), ("Ċ", "Ċ")]


def byte_level() -> Tokenizer:
    """256 bytes, a few merges (two of them halves of characters) and one special token."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in MERGES:
        vocab[left + right] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab, MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    return Tokenizer(backend)


def sentence_piece() -> Tokenizer:
    """Letters, words with a space in front, and the 256 bytes."""
    texts = ["▁", "▁the", "▁tide", "a", "b", "e", "日", "\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(
        models.BPE({text: i for i, text in enumerate(texts)}, [], byte_fallback=True)
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return Tokenizer(backend)


TOKENIZERS = {"byte_level": byte_level(), "sentence_piece": sentence_piece()}
BYTES = TOKENIZERS["byte_level"]
texts = st.text(alphabet="abthe \n日本🙂🌊é\u0301<>", max_size=40)
cuts = st.lists(st.integers(0, 6), min_size=1, max_size=20)


def blocks(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """`ids` cut into blocks of the given sizes, the last size repeated (empty blocks included)."""
    found, start = [], 0
    for size in sizes:
        found.append(ids[start : start + size])
        start += size
    return [*found, ids[start:]]


def run(stream: TextStream, parts: list[list[int]]) -> list[str]:
    return [*(stream.push(part) for part in parts), stream.finish()]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_pieces_are_the_whole(name: str) -> None:
    """For any tokens (most of them no valid UTF-8) in any blocks."""
    tokenizer = TOKENIZERS[name]

    @given(ids=st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=60), sizes=cuts)
    def check(ids: list[int], sizes: list[int]) -> None:
        stream = TextStream(tokenizer)
        assert "".join(run(stream, blocks(ids, sizes))) == tokenizer.decode(ids)
        assert (stream.tokens_used, stream.stopped) == (len(ids), False)

    check()


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, int | None]:
    """The text before the stop that is complete first, and where that stop ends; the longest of equals."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], end
    return text, None


@st.composite
def texts_and_stops(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Stops are mostly parts of the text, so that they occur, overlap, repeat and begin in vain."""
    if draw(st.booleans()):
        repetitive = st.text(alphabet="ab", min_size=1, max_size=6)
        return draw(st.text(alphabet="ab", max_size=30)), draw(st.lists(repetitive, max_size=3))
    text = draw(texts)
    parts = [text[i:j] for i in range(len(text)) for j in range(i + 1, min(len(text), i + 6) + 1)]
    part = st.sampled_from(parts) if parts else texts.filter(bool)
    return text, draw(
        st.lists(st.one_of(part, st.builds(str.__add__, part, st.sampled_from("ab日"))), max_size=3)
    )


@given(case=texts_and_stops(), sizes=cuts)
def test_stop_strings_end_the_text(case: tuple[str, list[str]], sizes: list[int]) -> None:
    text, stops = case
    ids = BYTES.encode(text, add_special_tokens=False)
    stream = TextStream(BYTES, stop=stops)
    pieces = run(stream, blocks(ids, sizes))
    expected, end = cut_at_first_stop(text, stops)
    assert "".join(pieces) == expected
    assert stream.stopped == (end is not None)
    if end is None:
        assert stream.tokens_used == len(ids)
    else:
        used = BYTES.decode(ids[: stream.tokens_used])
        assert text[:end] in used
        assert text[:end] not in BYTES.decode(ids[: stream.tokens_used - 1])
    assert stream.push(ids) == "" or not stream.stopped


@given(case=texts_and_stops(), sizes=cuts)
def test_what_is_out_never_has_to_come_back(case: tuple[str, list[str]], sizes: list[int]) -> None:
    """After every block: all that is certain is out, and nothing that a stop string could still claim."""
    text, stops = case
    ids = BYTES.encode(text, add_special_tokens=False)
    stream = TextStream(BYTES, stop=stops)
    out, pushed = "", 0
    for block in blocks(ids, sizes):
        out += stream.push(block)
        pushed += len(block)
        if stream.stopped:
            break
        sofar = BYTES.decode(ids[:pushed]).rstrip("\ufffd")
        held = max((n for stop in stops for n in range(len(stop)) if sofar.endswith(stop[:n])), default=0)
        assert out == sofar[: len(sofar) - held]


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream(BYTES)
    ids = BYTES.encode("🙂é", add_special_tokens=False)
    assert [BYTES.token_bytes(i) for i in ids] == [b"\xf0\x9f", b"\x99", b"\x82", b"\xc3", b"\xa9"]
    assert [stream.push([i]) for i in ids] == ["", "", "🙂", "", "é"]
    assert stream.finish() == ""


def test_half_a_character_at_the_end_becomes_one_replacement() -> None:
    stream = TextStream(BYTES)
    assert stream.push(BYTES.encode("a🙂", add_special_tokens=False)[:-1]) == "a"
    assert stream.finish() == "\ufffd"


def test_special_tokens_are_no_text() -> None:
    stream = TextStream(BYTES, stop="ab")
    end = BYTES.token_id("<end>")
    a, b = (BYTES.token_id(letter) for letter in "ab")
    assert end is not None and a is not None and b is not None
    assert stream.push([a, end, b, a]) == "" and stream.stopped and stream.tokens_used == 3


def test_a_stop_string_in_the_middle_of_a_block() -> None:
    ids = BYTES.encode("the\n\nend", add_special_tokens=False)
    stream = TextStream(BYTES, stop=["\n\n", "nd"])
    assert (stream.push(ids), stream.stopped) == ("the", True)
    assert BYTES.decode(ids[: stream.tokens_used]) == "the\n\n"
    assert (stream.push(ids), stream.finish()) == ("", "")
    assert BYTES.decode(ids[: stream.tokens_used]) == "the\n\n"


def test_the_beginning_of_a_stop_string_comes_out_in_the_end() -> None:
    stream = TextStream(BYTES, stop=["<end of text>"])
    assert stream.push(BYTES.encode("a <end of", add_special_tokens=False)) == "a "
    assert stream.finish() == "<end of" and not stream.stopped


def test_the_first_space_of_sentence_piece() -> None:
    tokenizer = TOKENIZERS["sentence_piece"]
    ids = [1, 2]  # ▁the ▁tide
    assert "".join(run(TextStream(tokenizer), [[i] for i in ids])) == "the tide" == tokenizer.decode(ids)
    assert "".join(run(TextStream(tokenizer, keep_first_space=True), [ids])) == " the tide"


@pytest.mark.parametrize("stop", ["", ["a", ""], [3]])
def test_empty_stop_strings_are_refused(stop: list[str]) -> None:
    with pytest.raises(OutpaceError, match="at least one character"):
        TextStream(BYTES, stop=stop)


def test_one_string_is_one_stop() -> None:
    stream = TextStream(BYTES, stop="he")
    assert stream.push(BYTES.encode("eh the", add_special_tokens=False)) == "eh t" and stream.stopped


def test_bytes_that_are_no_character_yet_are_not_decoded_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stop strings, a run of bytes is looked at once a character, and one that is broken comes out."""
    tokenizer = TOKENIZERS["sentence_piece"]
    looks = 0
    finish = StagedText.finish

    def counted(self: StagedText) -> str:
        nonlocal looks
        looks += 1
        return finish(self)

    monkeypatch.setattr(StagedText, "finish", counted)
    text = "สวัสดี" * 20
    ids = [token for byte in text.encode() for token in [tokenizer.token_id(f"<0x{byte:02X}>")] if token]
    stream = TextStream(tokenizer, stop="never")
    pieces = [stream.push([token]) for token in ids]
    assert pieces == [""] * len(ids) and looks == len(text)
    assert stream.push(ids[:2]) == "" and looks == len(text)
    assert stream.push([ids[0]]) == "\ufffd" * (len(ids) + 3), "no later byte can mend the run"
    assert [stream.push([token]) for token in ids[:4]] == ["\ufffd"] * 4
    assert stream.finish() == ""
    everything = [*ids, *ids[:2], ids[0], *ids[:4]]
    assert tokenizer.decode(everything) == "\ufffd" * len(everything)


SPECIALS = ["<call>", "<end>", "<\uff5ccall\u2581begin\uff5c>", "<\u0120>"]


def with_specials(name: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of that name with special tokens, written in letters of every kind."""
    backend = tokenizers.Tokenizer.from_str(TOKENIZERS[name]._backend.to_str())
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return backend


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data(), sizes=cuts)
def test_shown_special_tokens_are_written_out(name: str, data: st.DataObject, sizes: list[int]) -> None:
    """Against the library, which hides all of them or none: of the hidden ones there it is shown none."""
    backend = with_specials(name)
    ours = Tokenizer(backend)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=30))
    ids += data.draw(st.lists(st.sampled_from(sorted(ours.special_ids)), max_size=4))
    shown = data.draw(st.sets(st.sampled_from(sorted(ours.special_ids))))
    stream = TextStream(ours, shown=shown)
    left = [i for i in ids if i in shown or i not in ours.special_ids]
    assert "".join(run(stream, blocks(ids, sizes))) == backend.decode(left, skip_special_tokens=False)
    assert stream.tokens_used == len(ids)


def test_a_shown_token_does_not_change_what_others_see() -> None:
    ours = Tokenizer(with_specials("byte_level"))
    call, end = (ours.token_id(text) or 0 for text in SPECIALS[:2])
    ids = [call, *ours.encode("the tab", add_special_tokens=False), end]
    assert "".join(run(TextStream(ours, shown={call}), [ids])) == "<call>the tab"
    assert "".join(run(TextStream(ours), [ids])) == "the tab" == ours.decode(ids)
    stream = TextStream(ours, shown={call}, stop="ll>t")
    assert "".join(run(stream, [ids])) == "<ca" and stream.tokens_used == 2

"""Distillation: each text with what the teacher writes, and an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.train.data import Pair  # noqa: E402
from outpace.train.distil import BATCH, Output, beam_search, distil  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq  # noqa: E402

PAIRS = [Pair(f"text {number}\u2028", "gold") for number in range(2 * BATCH + 7)]


class Teacher:
    """Shouts; has nothing to say to some texts; dies in a call if told so."""

    def __init__(self, *, dies_at: int = -1) -> None:
        self.batches: list[list[str]] = []
        self.dies_at = dies_at

    def __call__(self, texts: Sequence[str]) -> list[Output]:
        if len(self.batches) == self.dies_at:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return [
            Output(" \n" if "5" in text else text.upper(), [*text.encode()], "7" not in text)
            for text in texts
        ]


def expected(pairs: Sequence[Pair] = PAIRS, *, own: bool = False) -> list[Pair]:
    return [
        Pair(text, text.upper(), "7" not in text, [*text.encode()] if own else None)
        for text in (str(pair.given) for pair in pairs)
        if "5" not in text
    ]


def test_every_text_gets_the_teachers_output(tmp_path: Path) -> None:
    teacher, seen = Teacher(), []
    path = tmp_path / "new" / "d.jsonl"
    found = distil(PAIRS, path, teacher, progress=lambda *call: seen.append(call))
    assert found == expected() and len(found) < len(PAIRS), "pairs without an output are left out"
    assert [len(batch) for batch in teacher.batches] == [BATCH, BATCH, 7]
    assert [call[:2] for call in seen] == [(n, len(PAIRS)) for n in (BATCH, 2 * BATCH, len(PAIRS))]
    again = Teacher()
    assert distil(PAIRS, path, again) == found and again.batches == [], "it is all there"
    assert distil(PAIRS, path, again, own=True) == expected(own=True), "with the tokens it said"


@pytest.mark.parametrize(
    "half", [b"", b'{"source": "text', b'{"source": "text 64", "target": "x", "token_ids": []}']
)
def test_an_interrupted_run_goes_on(tmp_path: Path, half: bytes) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    distil(PAIRS, whole, Teacher())
    with pytest.raises(KeyboardInterrupt):
        distil(PAIRS, parts, Teacher(dies_at=1))
    with parts.open("ab") as file:
        file.write(half)  # a line without its end
    teacher = Teacher()
    assert distil(PAIRS, parts, teacher) == expected()
    assert teacher.batches[0][0] == PAIRS[BATCH].given and parts.read_bytes() == whole.read_bytes()


def test_more_of_the_same_data_is_added(tmp_path: Path) -> None:
    distil(PAIRS[:9], tmp_path / "d", Teacher())
    assert distil(PAIRS, tmp_path / "d", Teacher()) == expected()


@pytest.mark.parametrize(
    "lines",
    [
        [{"source": "another text", "target": "x", "token_ids": [1]}],
        [{"source": pair.given, "target": "x", "token_ids": [1]} for pair in PAIRS[:4]],
        [{"source": PAIRS[0].given, "token_ids": [1]}],
        [{"source": PAIRS[0].given, "target": "x"}],
        [{"source": PAIRS[0].given, "target": 3, "token_ids": [1]}],
        *(
            [{"source": PAIRS[0].given, "target": "x", "token_ids": ids}]
            for ids in ("ab", [-1], [9], [1.0], [True], ["1"], [None], [10**30])
        ),
        [{"source": PAIRS[0].given, "target": "x", "token_ids": [1], "ended": "no"}],
        [["source", "target"]],
        ["no JSON"],
        ["[" * 100_000],
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, lines: list[Any]) -> None:
    path, teacher = tmp_path / "d", Teacher()
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    before = path.read_bytes()
    with pytest.raises(
        OutpaceError,
        match="holds outputs of other data, or tokens of another model; accepted are the same or a new ",
    ):
        distil(PAIRS[:3], path, teacher, own=True, vocab_size=9)
    assert path.read_bytes() == before and teacher.batches == []


def test_a_teacher_without_a_word_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="nothing to say to any of the 1 texts"):
        distil([Pair("5", "gold")], tmp_path / "d", Teacher())


def test_token_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="accepted are data with source or prompt"):
        distil([*PAIRS, Pair([1], [2])], tmp_path / "d", Teacher())
    assert not (tmp_path / "d").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file"):
        distil(PAIRS, tmp_path / "file" / "d", Teacher())


@pytest.mark.parametrize("ends", [False, True])
def test_beam_search_is_that_of_the_model(ends: bool) -> None:
    """With a tokenizer of numbers: what `generate` finds with as many beams; nothing where it was cut off."""
    model = tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1)
    end = model.generation_config.eos_token_id
    with torch.no_grad():
        model.final_logits_bias[0, end] = 4.0 if ends else -100.0
    inputs = sources(model, [4, 4])

    class Encoded(dict[str, Any]):
        def to(self, device: Any) -> Encoded:
            return self

    class Numbers:
        def __call__(self, texts: list[str], **options: Any) -> Encoded:
            assert texts == ["a", "b"] and options["padding"] and options["truncation"]
            return Encoded(inputs)

        def batch_decode(self, ids: Any, *, skip_special_tokens: bool) -> list[str]:
            assert skip_special_tokens
            return [" ".join(map(str, row)) for row in ids.tolist()]

    written = beam_search(model, Numbers(), beams=3, max_new_tokens=6)(("a", "b"))
    expected = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=6)
    assert all((end in row[1:]) == ends for row in expected.tolist())
    said = [row[1:] for row in expected.tolist()]
    said = [row[: row.index(end) + 1] if end in row else row for row in said]
    texts = [" ".join(map(str, row)) for row in expected.tolist()]
    assert written == [Output(*one, ends) for one in zip(texts, said, strict=True)]

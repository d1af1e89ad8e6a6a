"""The translation experiment: cleaning, alignment, held-out texts, and the model as CTranslate2 sees it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from experiments.kit.documents import Block, blocks
from experiments.translation import clean, corpus, documents, prepare
from experiments.translation.corpus import Segment
from experiments.translation.model import MAX_PIECES, short_enough
from outpace.core.errors import OutpaceError


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("_Open the file", "Datei ö_ffnen", [("Open the file", "Datei öffnen")]),
        ("E&xit now & here", "Jetzt & hier &beenden", [("Exit now & here", "Jetzt & hier beenden")]),
        ("set max_size here", "max_size hier setzen", [("set max_size here", "max_size hier setzen")]),
        ("<b>Bold</b> words", "<b>Fette</b> Wörter", [("Bold words", "Fette Wörter")]),
        ("Print now. Then stop.", "Jetzt drucken. Dann halt.",
         [("Print now.", "Jetzt drucken."), ("Then stop.", "Dann halt.")]),
        # One sentence became two: they stay together.
        ("Print now, then stop.", "Jetzt drucken. Dann halt.",
         [("Print now, then stop.", "Jetzt drucken. Dann halt.")]),
        ("Emacs", "Emacs", []),
        ("%s: %d", "%s - %d", []),
        ("A", "Ein sehr langer Satz", []),
        ("word " * 101, "Wort " * 101, []),
    ],
)  # fmt: skip
def test_segments(source: str, target: str, expected: list[tuple[str, str]]) -> None:
    assert list(clean.segments(source, target)) == expected


def page(*lines: str) -> list[Block]:
    return blocks("x.1.gz", gzip.compress("\n".join(lines).encode()))


def test_man_pages_are_paired_section_by_section() -> None:
    english = page(
        ".SH NAME", r"ls \- list \fBfiles\fR", ".SH OPTIONS", ".TP", r"\-a", "show all", ".PP",
        "Up to 4 rows.", ".SH NOTES", "One paragraph.", ".PP", "Another.",
    )  # fmt: skip
    german = page(
        ".SH BEZEICHNUNG", r"ls \- \fBDateien\fP auflisten", ".SH OPTIONEN", ".TP", r"\-a",
        "alle zeigen", ".PP", "Bis zu 5 Zeilen.", ".SH ANMERKUNGEN", "Nur ein Absatz.",
        ".SH ÜBERSETZUNG", "Von vielen.",
    )  # fmt: skip
    pairs = list(documents.align(english, german))
    assert ("ls - list files", "ls - Dateien auflisten") in pairs and ("show all", "alle zeigen") in pairs
    # Other numbers, another count of paragraphs, a section that one of them has not.
    assert not {"Up to 4 rows.", "One paragraph.", "Another."} & {source for source, _ in pairs}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/share/man/de/man1/ls.1.gz", ("de", "/usr/share/man/man1/ls.1.gz")),
        ("/usr/share/man/man1/ls.1.gz", ("en", "/usr/share/man/man1/ls.1.gz")),
        ("/usr/share/man/fr/man1/ls.1.gz", None),
        ("/usr/share/help/C/x/a.page", ("en", "/usr/share/help/x/a.page")),
        ("/usr/share/help/pl/x/a.page", None),
        ("/doc/html/de-DE/a.html", ("de", "/doc/html/a.html")),
        ("/doc/html/a.de.html", ("de", "/doc/html/a.html")),
    ],
)
def test_language_of_a_file(path: str, expected: tuple[str, str] | None) -> None:
    assert documents.place(path) == expected


def test_markup_blocks() -> None:
    text = b"<h1>Title</h1><p>One <b>bold</b> word.</p><pre>code</pre><ul><li>Item</li></ul>"
    assert blocks("a.html", text) == [("h1", "Title"), ("p", "One bold word."), ("li", "Item")]


def test_held_out_sources_are_not_in_training() -> None:
    segments = [Segment(f"This is text number {n}", f"Das ist Text {n}", "a") for n in range(60)]
    segments += [Segment(f"this is: TEXT number {n}!", f"Text {n}", "b") for n in range(60)]
    segments += [Segment("Too short", "Zu kurz", "c")]
    parts = prepare.split(segments, seed=0, num_dev=5, num_test=10)
    assert [len(parts[name]) for name in ("dev", "test")] == [5, 10]
    held_out = {clean.normalised(one.source) for name in ("dev", "test") for one in parts[name]}
    assert not held_out & {clean.normalised(one.source) for one in parts["train"]}
    assert len(held_out) == 15 and clean.normalised("Too short") not in held_out
    assert prepare.split(segments[::-1], seed=0, num_dev=5, num_test=10)["train"] != []
    with pytest.raises(OutpaceError, match="60 segments could be held out, 100 are wanted"):
        prepare.split(segments, seed=0, num_dev=50, num_test=50)


def test_a_source_keeps_its_most_frequent_target() -> None:
    pairs = [Segment("Open file", target, "a") for target in ("Öffne Datei", "Datei öffnen", "Datei öffnen")]
    assert prepare.deduplicated(pairs) == [Segment("Open file", "Datei öffnen", "a")]


@pytest.mark.parametrize("line", ["", "only one", "a\tb", "a\t\tc"])
def test_a_malformed_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"a\tb\tc\n{line}\n")
    with pytest.raises(OutpaceError, match=r"train\.tsv line 2"):
        corpus.read(tmp_path / "train.tsv")


@pytest.mark.slow
def test_ctranslate2_and_transformers_agree(tmp_path: Path) -> None:
    """Greedy outputs of a model that has learned a little: conversion, ids and the start of outputs fit.

    Not those that come to no end: how many they are, and where two libraries part, is the processor's.
    """
    pytest.importorskip("ctranslate2")
    import torch

    from experiments.translation.base import train_base
    from experiments.translation.ctranslate2 import converted, greedy
    from experiments.translation.model import load_model, translate
    from experiments.translation.pieces import EOS_ID, MODEL, Pieces
    from experiments.translation.scales import SCALES

    words = {"red": "rotes", "blue": "blaues", "old": "altes", "new": "neues", "big": "großes"}
    things = {"house": "Haus", "book": "Buch", "car": "Auto", "picture": "Bild", "boat": "Boot"}
    segments = [
        Segment(f"the {a} {b} {c}", f"das {words[a]} {words[b]} {things[c]}", "test")
        for a in words for b in words for c in things
    ]  # fmt: skip
    corpus.write(tmp_path / "train.tsv", segments[10:])
    corpus.write(tmp_path / "dev.tsv", segments[:10])
    train_base(tmp_path, tmp_path, SCALES["smoke"])
    model, pieces = load_model(tmp_path / "base"), Pieces(tmp_path / MODEL)
    start = model.get_input_embeddings().weight[pieces.pad_id]
    assert torch.equal(start, torch.zeros_like(start))
    texts = [one.source for one in segments]
    outputs = translate(model, pieces, texts)
    written = greedy(converted(tmp_path / "base"), pieces)(texts)
    ended = [number for number, one in enumerate(written) if one.ended]
    assert [written[number].text for number in ended] == [outputs[number] for number in ended]
    said = [written[number].token_ids for number in ended]
    assert pieces.decode(said) == [outputs[number] for number in ended]
    assert all(ids[-1] == EOS_ID and EOS_ID not in ids[:-1] for ids in said)
    assert len({outputs[number] for number in ended}) > 50


def test_drafts_are_taken_as_they_are_named(tmp_path: Path) -> None:
    """Of rows that share a call too: a clock that says that drafts do not pay changes no count."""
    import torch

    from experiments.translation.decoding import as_named, in_batches
    from outpace.train.bases import Seq2SeqBase
    from outpace.train.blockwise import train_blockwise
    from outpace.train.loop import Plan
    from tests.hf_seq2seq_families import sources, tiny_seq2seq

    model = tiny_seq2seq("marian", encoder_layers=1, decoder_layers=1)
    batch = {**sources(model, [4, 4]), "labels": torch.tensor([[7, 8, 9], [9, 8, 7]])}
    train_blockwise(Seq2SeqBase(model), lambda _: batch, tmp_path, num_heads=3, plan=Plan(1))
    fast = as_named(model, draft=f"blockwise:path={tmp_path},size=4,min_p=0.0")
    assert fast.drafter().traits.paced == "never"
    texts = in_batches(fast, [[5, 6, 7, 0]] * 8, model.config.pad_token_id)
    for one in texts:
        assert one.stats.num_drafted >= 2 * (one.stats.target_calls - 1)


def test_held_out_texts_that_no_model_was_trained_for_are_left_out() -> None:
    class Letters:
        def encode(self, texts: list[str]) -> list[list[int]]:
            return [[*map(ord, text)] for text in texts]

    short, just = Segment("a", "b", "x"), Segment("a" * MAX_PIECES, "b", "x")
    long, wide = Segment("a" * (MAX_PIECES + 1), "b", "x"), Segment("a", "b" * (MAX_PIECES + 1), "x")
    pieces: Any = Letters()
    assert short_enough([short, long, just, wide], pieces) == [short, just]

"""The text of the speed experiment: what of a file is prose, what is held out, and its tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import outpace
from experiments.speed import corpus, prepare, prose, tokens
from outpace.core.errors import OutpaceError
from outpace.files.tokenizer import Tokenizer
from tests import fake_models

SENTENCE = "The river is as wide as it was in the days of the old king, and no bridge is on it."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SENTENCE, True),
        (SENTENCE.lower(), False),  # the rest of a paragraph that code has cut
        (SENTENCE.rstrip("."), False),
        ("Home Next Previous Up Contents Index About Search.", False),
        ("It is here.", False),
        ("Der Fluss ist so breit wie in den Tagen des alten Königs, und es gibt noch keine Brücke.", False),
        ("The a_b and c_d of e_f is in g_h as i_j for k_l.", False),
        ("Of 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 and 17 the last is 18.", False),
        (f"The text &foo; is an entity that {SENTENCE}", False),
        (f"The path {'x' * 50} is too long to be of any use. {SENTENCE}", False),
    ],
)
def test_prose_is_told_from_the_rest(text: str, expected: bool) -> None:
    assert prose.is_prose(text) is expected


def test_pages_of_markup() -> None:
    page = f"""<html><head><title>{SENTENCE}</title></head><body><!-- <p>{SENTENCE}</p> -->
    <ul class="nav"><li><a href="x">Next</a></li></ul><pre>{SENTENCE}</pre>
    <p>The <b>river</b>&rsquo;s water is cold<br>in the winter &amp; it is warm in the summer.</p>
    <table><tr><td>1</td><td>{SENTENCE}</td></tr></table></body></html>"""
    expected = ["The river's water is cold in the winter & it is warm in the summer.", SENTENCE]
    assert prose.documents("/usr/share/doc/a/b.html", page.encode()) == [expected]
    assert prose.documents("/usr/share/doc/a/b.html.gz", gzip.compress(page.encode())) == [expected]


def test_man_pages_text_and_dictionaries() -> None:
    manual = f".SH NAME\nls \\- list\n.SH DESCRIPTION\n{SENTENCE}\n.PP\nThe \\fBriver\\fR{SENTENCE[9:]}\n"
    assert prose.documents("/usr/share/man/man1/a.1.gz", gzip.compress(manual.encode())) == [[SENTENCE] * 2]
    plain = f"*tag*\n\n{SENTENCE.replace(' days', chr(10) + 'days')}\n\n\tcode(x)\n"
    assert prose.documents("/usr/share/vim/vim90/doc/a.txt", plain.encode()) == [[SENTENCE]]
    entries = "".join(
        f"Word{i}\n   Word{i} \\Word\\, n. [L.]\n   {SENTENCE} [1913\n   Webster]\n"
        for i in range(prose.ENTRIES + 5)
    )
    found = prose.documents("/usr/share/dictd/a.dict.dz", gzip.compress(entries.encode()))
    assert [len(one) for one in found] == [prose.ENTRIES, 5] and found[0][0] == f"Word0 Word0, n. {SENTENCE}"


@pytest.mark.parametrize("path", ["/usr/share/man/man1/a.1.gz", "/usr/share/doc/a/b.html.gz", "/a/b.dict.dz"])
@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"")[:-4]], ids=["empty", "other", "cut"])
def test_damaged_files_have_no_documents(path: str, content: bytes) -> None:
    assert prose.documents(path, content) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/share/doc/a/html/index.html", True),
        ("/usr/share/doc/a/howto.html.en", True),
        ("/usr/share/help/C/a/b.page", True),
        ("/usr/share/man/man3/a.3.gz", True),
        ("/usr/share/man/de/man3/a.3.gz", False),
        ("/usr/share/doc/a/howto.html.de", False),
        ("/usr/share/doc/a/changelog.gz", False),
        ("/usr/bin/a", False),
    ],
)
def test_wanted_files(path: str, expected: bool) -> None:
    assert prose.is_wanted(path) is expected


def written(number: int) -> list[str]:
    """A document of its own paragraphs, of a paragraph that all have, and of one that differs in a number."""
    own = [
        f"In the {word(number)} of the {word(number * 7 + i)} it is {word(i)}: {SENTENCE}" for i in range(6)
    ]
    shared = "This is the licence of all that is in this text."
    return [*own, shared, f"All this was written in {number} by them."]


def word(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "ing"


def content(name: str, numbers: range) -> dict[str, Any]:
    named = {"package": name, "version": "1", "licence": "MIT", "checksum": "SHA256:0"}
    return {**named, "documents": [written(number) for number in numbers]}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts of two packages that share documents."""
    contents = [content("one", range(2000)), content("two", range(1900, 3000))]
    monkeypatch.setattr(prepare, "download", lambda work: iter(contents))
    prepare.prepare(tmp_path)
    return tmp_path


def test_parts_have_no_paragraph_in_common(work: Path) -> None:
    parts = {name: [one.split("\n\n") for one in corpus.read(work, name)] for name in corpus.NAMES}
    keys = {name: [prose.key(text) for one in part for text in one] for name, part in parts.items()}
    everything = [one for part in keys.values() for one in part]
    assert len(everything) == len(set(everything))
    sizes = {name: sum(len(text) for one in part for text in one) for name, part in parts.items()}
    for name in ("dev", "test"):
        assert 0.008 < sizes[name] / sum(sizes.values()) <= prepare.HELD_OUT
    assert sum(map(len, parts.values())) == 3000
    # Documents of both packages are in all parts: the order is one of chance.
    used = {one["package"]: one["characters"] for one in json.loads((work / "sources.json").read_text())}
    assert sum(used.values()) == sum(sizes.values()) and used["one"] > used["two"] > 0


def test_the_same_packages_give_the_same_text(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    again, other = tmp_path_factory.mktemp("again"), tmp_path_factory.mktemp("other")
    prepare.prepare(again)
    prepare.prepare(other, seed=1)
    for name in corpus.NAMES:
        text = corpus.path(work, name).read_bytes()
        assert corpus.path(again, name).read_bytes() == text != corpus.path(other, name).read_bytes()


def test_a_package_has_a_share(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [one["characters"] for one in json.loads((work / "sources.json").read_text())]
    monkeypatch.setattr(prepare, "MAX_CHARACTERS", 1_000_000)
    prepare.prepare(work)
    after = [one["characters"] for one in json.loads((work / "sources.json").read_text())]
    assert before[0] > 1_000_000 >= after[0] > 990_000 and before[1] == after[1]


def test_too_few_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for contents in ([], [content("one", range(3))]):
        monkeypatch.setattr(prepare, "download", lambda work, found=contents: iter(found))
        with pytest.raises(OutpaceError, match="too few documents"):
            prepare.prepare(tmp_path)


TEXTS = [SENTENCE, "Größe: 10 µm\n\n\tnaïve — 日本", " two  spaces ", "<|end|> is no end here", "0" * 30]


def test_tokenizer_round_trip(work: Path) -> None:
    made = tokens.tokenizer(work, 400)
    assert made.get_vocab_size() == 400 and made.token_to_id("<|end|>") == 0
    folder = tokens.token_folder(work, 400)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert ours.eos_ids == {0} and theirs.eos_token_id == 0
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=True, parse_special=False)
        assert ours.decode(ids) == text and 0 not in ids
        if "<|end|>" not in text:
            assert ids == theirs(text)["input_ids"] == made.encode(text).ids
            assert theirs.decode(ids) == text
    assert ours.encode("<|end|>", add_special_tokens=False) == [0]


def test_a_model_is_loaded_with_the_tokenizer(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fake_models.write_hf(folder, "llama")
    tokens.save_tokenizer(tokens.tokenizer(work, 300), folder)
    ids = outpace.load(str(folder)).tokenizer.encode(SENTENCE, add_special_tokens=True)
    assert ids == tokens.tokenizer(work, 300).encode(SENTENCE).ids


def test_arrays_are_the_documents(work: Path) -> None:
    made = tokens.tokenizer(work, 400)
    for name in corpus.NAMES:
        array = tokens.token_array(work, name, 400)
        assert array.dtype == np.uint16 and isinstance(array, np.memmap) and array[-1] == tokens.END_ID
        ends = np.flatnonzero(array == tokens.END_ID)
        rows = [one[:-1].tolist() for one in np.split(array, ends + 1)[:-1]]
        assert [made.decode(row) for row in rows] == corpus.read(work, name)
    first = (tokens.token_folder(work, 400) / "train.npy").stat().st_mtime_ns
    tokens.token_array(work, "train", 400)
    assert (tokens.token_folder(work, 400) / "train.npy").stat().st_mtime_ns == first
    prepare.prepare(work, seed=1)
    assert not tokens.token_folder(work, 400).exists()


def test_the_end_in_a_text_is_text(work: Path) -> None:
    corpus.write(work, "dev", [["An <|end|> here."], ["B."]])
    assert np.count_nonzero(tokens.token_array(work, "dev", 400) == 0) == 2


def test_what_cannot_be_tokens(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(OutpaceError, match="accepted: train, dev, test"):
        tokens.token_array(work, "valid")
    for number in (256, 65537):
        with pytest.raises(OutpaceError, match="accepted: 257 to 65536"):
            tokens.token_array(work, "dev", number)
    with pytest.raises(OutpaceError, match="the text is enough for"):
        tokens.token_array(work, "dev", 60_000)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(OutpaceError, match=r"train\.txt is missing"):
        tokens.token_array(empty, "dev")
    corpus.write(empty, "train", [])
    with pytest.raises(OutpaceError, match=r"train\.txt is empty"):
        tokens.token_array(empty, "train")

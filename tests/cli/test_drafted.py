"""`outpace generate --show-drafts`: drafted tokens are marked as kept or dropped, the text is whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import outpace
from outpace.cli.drafted import DraftedText, dropped
from outpace.core.tree import TokenTree
from outpace.engine.engine import Event
from outpace.engine.text import TextStream
from tests.cli.conftest import Outcome
from tests.cli.test_streams import on_terminal
from tests.fake_models import write_gguf

Run = Callable[..., Outcome]
MARKED = re.compile(
    r"\u27e6(?P<kept>[^\u27e7]*)\u27e7|\u2983(?P<dropped>[^\u2984]*)\u2984|(?P<own>[^\u27e6\u2983]+)"
)
PROMPT = "one two one two one two one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("drafted")
    write_gguf(made / "tiny.gguf", "llama")
    return made


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))
    # A random model may say any of the usual marks itself.
    marks = {"kept": ("\u27e6", "\u27e7"), "dropped": ("\u2983", "\u2984"), "own": ("", "")}
    monkeypatch.setattr("outpace.cli.drafted.MARKS", marks)


@pytest.mark.parametrize("draft", ["ngram:max_n=1", "recycling", "none"])
@pytest.mark.parametrize("more", [[], ["--temperature", "0.9", "--seed", "3"], ["--stop", "e"]])
def test_marks_where_there_is_no_terminal(run: Run, folder: Path, draft: str, more: list[str]) -> None:
    args = ["-m", str(folder / "tiny.gguf"), "--max-tokens", "60", "--raw", "--draft", draft, *more]
    plain = run("generate", PROMPT, *args)
    shown = run("generate", PROMPT, *args, "--show-drafts")
    assert plain.status == shown.status == 0
    assert shown.err == "[[drafted and kept] {drafted and dropped} the model's own]\n"
    found = list(MARKED.finditer(shown.out))
    assert "".join(one[0] for one in found) == shown.out
    whole = "".join(one["kept"] or one["own"] or "" for one in found)
    assert whole.rstrip("\n") == plain.out.rstrip("\n")
    if draft == "none":
        assert all(one["own"] for one in found)
    elif not more:
        assert any(one["kept"] for one in found) and any(one["dropped"] for one in found)


def test_as_many_as_the_statistics_say(run: Run, folder: Path) -> None:
    """Tokens of the tiny model are never silent, so each kept one has marks of its own."""
    model = outpace.load(str(folder / "tiny.gguf"))
    result = model.generate(PROMPT, draft="ngram:max_n=1", max_tokens=60, raw=True)
    silent = [token for token in result.token_ids if not model.tokenizer.decode([token])]
    args = ["-m", str(folder / "tiny.gguf"), "--max-tokens", "60", "--raw", "--draft", "ngram:max_n=1"]
    shown = run("generate", PROMPT, *args, "--show-drafts").out
    assert silent == [] and result.stats.num_accepted > 5
    assert sum(one["kept"] is not None for one in MARKED.finditer(shown)) == result.stats.num_accepted


def test_what_was_dropped() -> None:
    """The first drawn at every node, behind what was kept."""
    tree = TokenTree([1, 2, 3, 4, 5, 6], np.array([-1, 0, 0, 2, 2, 3]))
    assert dropped(tree, []) == [2]
    assert dropped(tree, [2]) == [4, 6]
    assert dropped(tree, [2, 3, 5]) == [] == dropped(TokenTree.root(7), [])


def test_dropped_words_keep_their_spaces() -> None:
    """Though a text begins without one."""
    tokenizer: Any = SimpleNamespace(text_bytes={1: b" cat", 2: b"a"}, strips_space=True)
    said = TextStream(tokenizer, keep_first_space=True)
    shown = DraftedText(said, tokenizer, ())
    job: Any = None
    pieces = list(shown._pieces(Event(job, [2], "a", TokenTree.chain(0, [1]), [])))
    assert pieces == [("dropped", " cat"), ("own", "a")]


def test_a_record_has_no_marks(run: Run, folder: Path) -> None:
    outcome = run("generate", "x", "-m", str(folder / "tiny.gguf"), "--json", "--show-drafts")
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err == "error: --show-drafts prints text and --json a record, accepted is one of them\n"


def test_colours_on_a_terminal(folder: Path) -> None:
    args = ["-c", "import sys; from outpace.cli.main import main; sys.exit(main())", "generate", PROMPT]
    args += ["-m", str(folder / "tiny.gguf"), "--max-tokens", "60", "--raw", "--draft", "ngram:max_n=1"]
    plain = on_terminal(*args)
    args.append("--show-drafts")
    coloured = on_terminal(*args)
    assert "\x1b[32m" in coloured and "\x1b[9;31m" in coloured and "\x1b" not in plain
    kept = re.sub(r"\x1b\[9;31m.*?\x1b\[0m", "", coloured, flags=re.DOTALL)
    text = re.sub(r"\x1b\[[0-9;]*m", "", kept)
    assert text.rstrip() == plain.rstrip() and len(plain) > 20
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        marked = on_terminal(*args, env={name: value})
        assert "\x1b" not in marked and marked.count("[") > plain.count("[") < marked.count("]")

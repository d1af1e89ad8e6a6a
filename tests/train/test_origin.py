"""Files are gone on with by those who began them alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from outpace.core.errors import OutpaceError
from outpace.train.origin import ORIGIN, claim
from tests.special_files import SPECIAL

FACTS = {"target": "sha256:a", "data": ["x", 1]}


def test_who_began_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / ORIGIN
    claim(path, FACTS, begun=False)
    assert json.loads(path.read_text()) == FACTS
    before = path.read_bytes()
    claim(path, dict(reversed(FACTS.items())), begun=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (
            FACTS | {"target": "sha256:b"},
            "files of target='sha256:a' (now 'sha256:b'); accepted are the same or a new folder",
        ),
        (FACTS | {"more": 1}, "files of more=None (now 1);"),
        ({"target": "sha256:a"}, "files of data=['x', 1] (now None);"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_others_are_refused(tmp_path: Path, facts: dict[str, object], named: str, begun: bool) -> None:
    claim(tmp_path / ORIGIN, FACTS, begun=False)
    with pytest.raises(OutpaceError, match=re.escape(named)):
        claim(tmp_path / ORIGIN, facts, begun=begun)
    claim(tmp_path / ORIGIN, FACTS, begun=True)


def test_files_without_a_note_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="holds files of what nobody has noted; accepted are the same"):
        claim(tmp_path / ORIGIN, FACTS, begun=True)
    assert not (tmp_path / ORIGIN).exists()


def test_a_long_fact_of_a_note_stays_a_short_line(tmp_path: Path) -> None:
    (tmp_path / ORIGIN).write_text(json.dumps(FACTS | {"data": "x" * 9999}))
    with pytest.raises(OutpaceError) as caught:
        claim(tmp_path / ORIGIN, FACTS, begun=True)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_note_that_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / ORIGIN)
    with pytest.raises(OutpaceError, match="is not a regular file"):
        claim(tmp_path / ORIGIN, FACTS, begun=True)


@pytest.mark.parametrize("text", ["", "{", "\xff", "[]", "3", "[" * 100_000])
def test_a_note_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ORIGIN).write_text(text, encoding="latin-1")
    with pytest.raises(OutpaceError, match=r"origin\.json cannot be read .*remove the folder"):
        claim(tmp_path / ORIGIN, FACTS, begun=True)


def test_a_note_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file"):
        claim(tmp_path / "file" / ORIGIN, FACTS, begun=False)

"""Own text with its states: wherever a run is cut off, the next one gives the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.train import self_text  # noqa: E402
from outpace.train.features import ENDS, STATES, TOKENS, FeatureFile  # noqa: E402
from outpace.train.own_states import write_own_text  # noqa: E402
from tests.fake_models import write_gguf  # noqa: E402

NUM_TOKENS = 2200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("model")
    write_gguf(folder / "tiny.gguf", "llama", num_hidden_layers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        made = outpace.load(folder / "tiny.gguf")
    made.chat = None  # a random model seldom ends a user's message
    return made


def write(model: Any, folder: Path, num_tokens: int = NUM_TOKENS, **options: Any) -> str:
    file = FeatureFile(folder / "features", model.target.hidden_size)
    return write_own_text(
        model, file, folder / "own.jsonl", num_tokens, options.get("seed", 3), options.get("progress")
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def groups_in(folder: Path) -> list[int]:
    return [json.loads(line)["group"] for line in (folder / "own.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole")
    named, file = write(model, folder), FeatureFile(folder / "features", model.target.hidden_size)
    assert named == f"own text, seed 3, {file.num_tokens} tokens" and file.num_tokens >= NUM_TOKENS
    groups = groups_in(folder)
    assert len(set(groups)) >= 3 and groups.count(groups[-1]) >= 2, "enough to cut it anywhere"
    return folder


def test_lines_and_states_are_of_the_same_texts(model: Any, whole: Path) -> None:
    read = FeatureFile(whole / "features", model.target.hidden_size).read()
    records = [json.loads(line) for line in (whole / "own.jsonl").read_text().splitlines()]
    assert read.tokens.tolist() == [token for record in records for token in record["token_ids"]]
    assert len(read.ends) == len(records) and len(read.tokens) >= NUM_TOKENS
    last = sum(len(r["token_ids"]) for r in records if r["group"] == records[-1]["group"])
    assert len(read.tokens) - last < NUM_TOKENS, "it stops with the group that fills it"


class Killed(Exception):
    """What the process would not survive."""


def test_an_interrupted_run_gives_the_same_files(model: Any, whole: Path, tmp_path: Path) -> None:
    calls = []

    def dies(done: int, total: int, text: str) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise Killed

    with pytest.raises(Killed):
        write(model, tmp_path, progress=dies)
    assert 0 < len(groups_in(tmp_path)) < len(groups_in(whole))
    assert calls[0] == (0, NUM_TOKENS) and calls[1][0] > 0
    write(model, tmp_path)
    assert contents(tmp_path) == contents(whole)
    write(model, tmp_path)
    assert contents(tmp_path) == contents(whole), "enough is there already"


@pytest.mark.parametrize("left", ["no line of the group", "one line", "half a line", "all but the end"])
def test_a_group_that_is_half_written_is_written_again(
    model: Any, whole: Path, tmp_path: Path, left: str
) -> None:
    """All states of the last group are there, and its lines as far as they went."""
    for name, data in contents(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    lines = (whole / "own.jsonl").read_bytes().splitlines(keepends=True)
    groups = groups_in(whole)
    first = groups.index(groups[-1])
    kept = {
        "no line of the group": b"".join(lines[:first]),
        "one line": b"".join(lines[: first + 1]),
        "half a line": b"".join(lines[: first + 1]) + lines[first + 1][:20],
        "all but the end": b"".join(lines)[:-1],
    }[left]
    (tmp_path / "own.jsonl").write_bytes(kept)
    write(model, tmp_path)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("texts", [0, 1, -2])
def test_states_that_are_gone_are_computed_again(model: Any, whole: Path, tmp_path: Path, texts: int) -> None:
    for name, data in contents(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    file = FeatureFile(tmp_path / "features", model.target.hidden_size)
    file.keep(texts % file.num_texts if texts else 0)
    write(model, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_more_tokens_go_on_from_there(model: Any, whole: Path, tmp_path: Path) -> None:
    write(model, tmp_path, NUM_TOKENS // 2)
    assert len(groups_in(tmp_path)) < len(groups_in(whole))
    write(model, tmp_path)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        '{"nothing": 1}',
        "[3]",
        "7",
        '{"group": 1}',
        '{"group": 1, "prompt_ids": [1], "token_ids": "ab"}',
        '{"group": 1, "token_ids": [1]}',
        '{"group": 1, "prompt_ids": [], "token_ids": [1]}',
        '{"group": 1, "prompt_ids": ["a"], "token_ids": [1]}',
        '{"group": 1, "prompt_ids": [1], "token_ids": [-1]}',
        '{"prompt_ids": [1], "token_ids": [1]}',
        '{"group": "1", "prompt_ids": [1], "token_ids": [1]}',
        '{"group": null, "prompt_ids": [1], "token_ids": [1]}',
        '{"group": -1, "prompt_ids": [1], "token_ids": [1]}',
        '{"group": true, "prompt_ids": [1], "token_ids": [1]}',
        '{"group": 1' + "0" * 40 + ', "prompt_ids": [1], "token_ids": [1]}',
        "[" * 100_000,
    ],
)
def test_a_file_of_something_else_is_refused(model: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "own.jsonl").write_text(line + "\n")
    with pytest.raises(OutpaceError, match="is not a file that this command has written"):
        write(model, tmp_path)
    assert (tmp_path / "own.jsonl").read_text() == line + "\n"
    assert all((tmp_path / "features" / name).stat().st_size == 0 for name in (STATES, TOKENS, ENDS))


def test_a_text_of_another_vocabulary_is_refused(model: Any, tmp_path: Path) -> None:
    most = model.target.vocab_size - 1
    for prompt, answer in (([1, most + 1], [1]), ([1], [most + 1, 1])):
        line = json.dumps({"group": 0, "prompt_ids": prompt, "token_ids": answer}) + "\n"
        (tmp_path / "own.jsonl").write_text(line)
        with pytest.raises(OutpaceError, match=f"token id {most + 1}, accepted are .* 0 to {most}"):
            write(model, tmp_path)
        assert (tmp_path / "own.jsonl").read_text() == line


def test_a_model_that_ends_no_message_gets_one_line(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_text, "_group", lambda *args: [])
    with pytest.raises(
        OutpaceError, match=r"ends none of \d+ user messages of its own within 120 tokens, accepted are"
    ):
        write(model, tmp_path)

"""What comes with the package for models that it knows: whole, small, with how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import outpace
from outpace.cli.main import main
from outpace.core.errors import OutpaceError
from outpace.drafters.auto import own_draft, usual_draft, write_prepared
from outpace.drafters.lookup.backoff import FILE_NAME, own_table
from outpace.drafters.lookup.ngram import NGram
from outpace.files.backoff import read_backoff, write_backoff
from outpace.files.catalog import CATALOG
from outpace.files.json_files import json_file
from outpace.heads.file import read_heads
from outpace.heads.folder import CONFIG
from outpace.heads.packaged import PACKAGED, packaged_heads
from tests.native_models import gguf_target

READ: dict[str, Any] = {"blockwise": read_heads}
TABLES = "backoff"
FOLDERS = [(method, config.parent) for method in READ for config in PACKAGED.glob(f"{method}/*/config.json")]


def test_there_are_some_of_each_method() -> None:
    assert {path.name for path in PACKAGED.iterdir()} == {*READ, TABLES}
    assert [(method, folder.name) for method, folder in FOLDERS] == [
        (method, "smollm2-135m-instruct") for method in READ
    ]


@pytest.mark.parametrize(("method", "folder"), FOLDERS)
def test_they_say_whose_they_are_and_how_they_were_made(method: str, folder: Path) -> None:
    heads = READ[method](folder)
    made = json.loads((folder / "run.json").read_text())
    assert folder.name == heads.config.model == made["settings"]["model"] and folder.name in CATALOG
    assert heads.config.target == made["settings"]["target"]
    if method == "blockwise":
        assert heads.config.first == "identity"  # they change no output
    assert heads.token_ids is not None and len(heads.token_ids) == made["settings"]["num_tokens"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000_000


@pytest.mark.parametrize("folder", [*PACKAGED.glob(f"{TABLES}/*")], ids=lambda folder: folder.name)
def test_tables_say_whose_they_are_and_how_they_were_made(folder: Path) -> None:
    table, config = read_backoff(folder / FILE_NAME), json_file(folder / CONFIG)
    heads = read_heads(PACKAGED / "blockwise" / folder.name).config
    assert folder.name == config["model"] and folder.name in CATALOG
    assert (config["hidden_size"], config["target"]) == (heads.hidden_size, heads.target)
    made = json_file(folder / "run.json")
    assert "own text" in made["data"] and made["commands"][-1].startswith("outpace datastore count ")
    assert table.order == 5 and table.num_contexts > 300_000
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000_000


@pytest.mark.parametrize("method", ["blockwise", "markov_heads", "hydra", "medusa", "eagle", "dflash"])
def test_where_there_are_none_a_command_is_named_that_makes_some(method: str, tmp_path: Path) -> None:
    """Not every method is trained here."""
    with pytest.raises(OutpaceError, match="there are no heads for this model in the package") as raised:
        packaged_heads(gguf_target(tmp_path, context_length=64), method)
    [command] = re.findall("`outpace (.*)`", str(raised.value))
    assert command == ("heads import" if method == "dflash" else f"train {method}")
    assert main([*command.split(), "--help"]) == 0


def test_other_models_have_none(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, context_length=64)
    assert own_table(target, None) is None and usual_draft(target) == "ngram"
    assert own_table(target, lambda name: tmp_path / name) is None
    (tmp_path / FILE_NAME).touch()
    assert own_table(target, lambda name: tmp_path / name) == tmp_path / FILE_NAME


def test_a_table_that_does_not_fit_leaves_prompt_lookup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a target without a tokenizer: nothing fails, a line says so. What prepare found comes first."""
    target = gguf_target(tmp_path, context_length=64)
    packaged = tmp_path / "packaged" / TABLES / "tiny"
    packaged.mkdir(parents=True)
    write_backoff(packaged / FILE_NAME, [[1, 2, 3]], vocabulary="of others")
    fields = {"hidden_size": target.hidden_size, "target": target.fingerprint()}
    (packaged / CONFIG).write_text(json.dumps(fields))
    monkeypatch.setattr("outpace.heads.packaged.PACKAGED", tmp_path / "packaged")
    assert usual_draft(target) == "mix"
    model = outpace.load(target)
    assert model.own_draft == "ngram" and isinstance(model.drafter("auto"), NGram)
    assert "the model drafts with ngram, `outpace prepare` finds a faster draft: the back-off" in caplog.text
    assert len(model.generate(outpace.Prompt([1, 2, 3]), max_tokens=4).token_ids) == 4
    write_prepared(tmp_path / "draft.json", "ngram", {})
    assert own_draft(target, lambda name: tmp_path / name, lambda spec: None) == "ngram"
    assert own_draft(target, None, lambda spec: None) == "mix"

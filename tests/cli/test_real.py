"""The commands on the default model, from the shell's side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from outpace.cli.options import DEFAULT_MODEL
from outpace.drafters.heads.blockwise import Blockwise
from outpace.drafters.lookup.backoff import FILE_NAME, Backoff
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.mix import Mix
from outpace.files import catalog
from outpace.files.backoff import read_backoff
from outpace.heads.packaged import find_packaged_heads
from outpace.models.text import load

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        DEFAULT_MODEL not in catalog.installed(),
        reason=f"{DEFAULT_MODEL} is not installed (outpace models pull {DEFAULT_MODEL})",
    ),
]
PROMPT = (
    "Read this text aloud: The harbour was quiet in the morning. Two boats lay at the pier, and a gull slept."
)


def outpace(*args: str, stdin: str = "") -> str:
    """Standard output of a command that has to succeed."""
    run = "import sys; from outpace.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", run, *args]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    "sampling", ["", "--temperature 0.8 --top-p 0.95 --seed 1"], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("draft", ["ngram", "ngram:max_n=2,length=15", "blockwise", "backoff", "mix"])
def test_drafts_change_nothing_but_the_number_of_calls(sampling: str, draft: str) -> None:
    options = ["--draft", draft, "--max-tokens", "48", *sampling.split()]
    record = json.loads(outpace("generate", PROMPT, "--json", "--compare", *options))
    assert record["identical_to_plain"] is True and record["exactness"] == "identical"
    assert record["completion_tokens"] == len(record["token_ids"]) > 8
    assert record["target_calls"] < record["completion_tokens"] - 1
    assert outpace("generate", "-", *options, stdin=PROMPT).rstrip("\n") == record["text"].rstrip("\n")


def test_heads_and_table_in_the_package_are_the_default_models() -> None:
    """They need no names, and the table makes `mix` the draft of calls that name none."""
    model = load(DEFAULT_MODEL, threads=1)
    found = find_packaged_heads(model.target, "blockwise")
    assert found is not None and found.name == DEFAULT_MODEL
    assert isinstance(model.new_drafter("blockwise"), Blockwise)
    mix, table = model.new_drafter("mix:drafts=auto"), model.new_drafter("backoff")
    assert isinstance(mix, Mix) and isinstance(table, Backoff) and model.own_draft == "mix"
    assert [type(source) for source in mix.sources] == [NGram, Backoff]
    known = found.parent.parent / "backoff" / DEFAULT_MODEL / FILE_NAME
    assert table.table.num_contexts == read_backoff(known).num_contexts


def test_stop_text_and_limits() -> None:
    whole = outpace("generate", PROMPT, "--max-tokens", "24").strip()
    assert "pier" in whole
    assert (
        outpace("generate", PROMPT, "--max-tokens", "24", "--stop", "pier")
        == whole.partition("pier")[0] + "\n"
    )


def test_a_conversation_remembers() -> None:
    said = outpace("chat", "--max-tokens", "24", stdin="Hello, I am Ana.\n/reset\nWhat is 2 + 2?\n")
    assert "4" in said.splitlines()[-1]


def test_profile_and_bench(tmp_path: Path) -> None:
    record = json.loads(outpace("profile", "--sizes", "1,4", "--repeats", "2", "--context", "16", "--json"))
    assert set(record["latency_ms"]) == {"1", "4"} and min(record["latency_ms"].values()) > 0
    assert record["weight_bytes"] > 80_000_000 and min(record["memory_bytes_per_s"].values()) > 0
    assert 1.3e8 < sum(record["multiply_adds"]) < 1.4e8 and min(record["multiply_adds_per_s"]) > 0
    assert set(record["floor_share"]) == {"1", "4"} and min(record["floor_share"].values()) > 0
    out = tmp_path / "out.jsonl"
    table = outpace("bench", "--limit", "1", "--max-tokens", "12", "--json", str(out))
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {r["draft"] for r in records} == {"none", "mix"} and all(r["identical_to_plain"] for r in records)
    assert f"| overall  | mix    | {len(records) // 2:7d} |" in table

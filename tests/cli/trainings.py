"""What tests of train commands share: tiny models with a file of pairs, and commands that use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cli.conftest import Outcome
from tests.cli.test_train import PAIRS, lines
from tests.fake_models import write_gguf

Run = Callable[..., Outcome]


def written(folder: Path) -> Path:
    """The folder, with two models that differ in their weights alone, and data for them."""
    write_gguf(folder / "tiny.gguf", "llama")
    write_gguf(folder / "other.gguf", "llama", seed=1)
    lines(folder / "data.jsonl", PAIRS)
    return folder


def train(
    run: Run, folder: Path, method: str, output: Path, shape: Sequence[str], *args: str, data: bool = True
) -> Outcome:
    """The last of an option that is given twice counts."""
    given = ["--data", str(folder / "data.jsonl")] if data else []
    target = ["--target", str(folder / "tiny.gguf"), "--threads", "1"]
    return run("train", method, "-o", str(output), *given, *target, *shape, *args)


def compared(run: Run, folder: Path, draft: str, *args: str, model: str = "tiny.gguf") -> Outcome:
    """A drafted answer beside the plain one."""
    return run(
        "generate", PAIRS[0]["prompt"], "-m", str(folder / model), "--draft", draft, "--max-tokens", "20",
        "--compare", *args,
    )  # fmt: skip

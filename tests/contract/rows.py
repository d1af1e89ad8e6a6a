"""What the contract suite runs on: one row per implementation buys every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from outpace.core.contracts import Drafter, Target
from outpace.drafters import DRAFTERS
from outpace.rules import RULES
from outpace.targets.table import TableTarget
from tests.fakes import hostile
from tests.native_models import gguf_target

VOCAB_SIZE = 8
"""Prompts of the suite use token ids below this; a target may have more."""


def table(folder: Path) -> Target:
    return TableTarget.random(vocab_size=VOCAB_SIZE, order=2, seed=3, context_length=64)


def predictable_table(folder: Path) -> Target:
    """So sure of the next token that a text soon repeats itself."""
    return TableTarget.random(vocab_size=VOCAB_SIZE, order=1, spread=6.0, seed=5, context_length=64)


def native_quantised(folder: Path) -> Target:
    return gguf_target(folder, "llama", "Q4_1", context_length=64)


def native_sliding(folder: Path) -> Target:
    """Sliding windows, two rotary tables, float weights and cache."""
    return gguf_target(folder, "gemma3", "F32", kv="f32", context_length=64)


TARGETS: list[Callable[[Path], Target]] = [table, predictable_table, native_quantised, native_sliding]
"""Factories, given an empty folder, of targets with VOCAB_SIZE tokens or more and a context of 48 to 256;
called once per file."""

RULE_NAMES = RULES.names()

# Drafters of the table by name, and those that nobody should write: they change no output either.
HOSTILE = hostile(VOCAB_SIZE)
DRAFTER_SPECS = [*DRAFTERS.names(), "ngram:min_n=2,max_n=4,length=12", "ngram:max_n=1,length=3,max_length=3"]


def make_drafter(name: str, target: Target) -> Drafter:
    return HOSTILE[name] if name in HOSTILE else DRAFTERS.create(name, target=target)

"""The folder of DFlash layers: what is wrong with one is named, in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
from outpace.core.errors import FormatError
from outpace.heads.dflash import DFlashConfig, read_dflash, write_dflash
from outpace.heads.folder import WEIGHTS
from tests.dflash_heads import dflash_config, random_dflash
from tests.made_heads import with_config

MODEL = SimpleNamespace(hidden_size=32, vocab_size=40, fingerprint=lambda: "sha256:tiny")
MARKOV: dict[str, Any] = {"markov": "gated", "rank": 8, "num_tokens": 8}


def config(**options: Any) -> DFlashConfig:
    return dflash_config(MODEL, **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(method="eagle"), "heads of the method 'eagle', accepted is 'dflash'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(taps=[]), r"taps is \[\], expected one or more names"),
        (with_config(target=...), "target is None, expected the fingerprint"),
        (with_config(hidden_size=0), "hidden_size is 0, accepted are whole numbers >= 1"),
        (with_config(num_heads=3), "num_kv_heads is 2, accepted are divisors of num_heads, 3"),
        (with_config(head_dim=24), "head_dim is 24, accepted are multiples of 16 up to 512"),
        (with_config(rope_scaling={"rope_type": "zigzag"}), "rope scaling 'zigzag' is not supported"),
        (with_config(block_size=0), "block_size is 0, accepted are whole numbers from 2 to 128"),
        (with_config(block_size=1), "block_size is 1, accepted are whole numbers from 2 to 128"),
        (with_config(block_size=129), "block_size is 129, accepted are whole numbers from 2 to 128"),
        (with_config(mask_token_id=40), "mask_token_id is 40, accepted are whole numbers from 0 to 39"),
        (with_config(mask_token_id=None), "mask_token_id is None, accepted are whole numbers from 0 to 39"),
        (with_config(from_root=1), "from_root is 1, accepted are true and false"),
        (with_config(markov="dotted"), "markov is 'dotted', accepted are none, vanilla, gated, rnn"),
        (with_config(rank=0), "rank is 0, accepted are whole numbers >= 1"),
        (with_config(rank=7), r"markov_w1\.weight is F16\[40, 8\], expected floats \[40, 7\]"),
        (with_config(markov="rnn"), r"joint_proj\.weight is missing, expected floats \[24, 48\]"),
        (with_config(causal=[]), r"causal is \[\], expected true or false of each of 1 to 64 layers"),
        (with_config(causal=[0, 1]), r"causal is \[0, 1\], expected true or false"),
        (with_config(causal=True), "causal is True, expected true or false of each"),
        (with_config(windows=[0]), r"windows is \[0\], expected a whole number from 0 to 1048576 of each"),
        (with_config(windows=[0, -1]), r"windows is \[0, -1\], expected a whole number"),
        (
            with_config(causal=[False] * 3, windows=[0] * 3),
            r"layers\.2\.self_attn\.q_proj\.weight is missing",
        ),
        (with_config(qkv_bias=True), r"self_attn\.q_proj\.bias is missing, expected floats \[64\]"),
        (with_config(num_tokens=3), "token_ids is of 8 tokens, expected 3"),
        (with_config(num_tokens=0), "token_ids is of 8 tokens, expected 0"),
        (with_config(num_tokens=41), "num_tokens is 41, accepted are whole numbers from 0 to 40"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: expected model\.safetensors"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_dflash(tmp_path, random_dflash(config(**MARKOV)))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_dflash(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="accepted is what `outpace heads import` has written"):
        read_dflash(tmp_path / "none")


def test_how_many_tokens_a_block_drafts() -> None:
    assert config(block_size=16).length == 15 and config(block_size=16, from_root=True).length == 16

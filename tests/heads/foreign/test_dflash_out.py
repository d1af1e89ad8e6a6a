"""DFlash and DSpark layers of ours as speculators has them: the same bits there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from outpace.core.errors import OutpaceError
from outpace.heads.dflash import DFlashWeights, read_dflash, write_dflash
from outpace.heads.foreign.doctor import examine
from outpace.heads.foreign.giving import give_out
from tests.foreign_heads import VOCAB, bits, config_in, dflash_layers
from tests.heads.foreign.conftest import Tiny
from tests.heads.foreign.test_dflash import LAYOUTS, taken
from tests.made_heads import random_tensors


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "dflash-causal"])
def test_what_was_taken_in_goes_out_as_speculators_and_comes_back(
    tiny: Tiny, tmp_path: Path, layout: str
) -> None:
    """The same bits, the same fields, and by import the same folder."""
    write, ids = LAYOUTS[layout]
    write(tmp_path / "a")
    taken(tiny, tmp_path / "a", tmp_path / "b")
    given = give_out(tmp_path / "b", tmp_path / "c", target_name="org/tiny", architecture="llama")
    ours = read_dflash(tmp_path / "b").config
    kind = "DSpark" if ours.from_root or ours.markov != "none" else "DFlash"
    assert given.what == f"{kind} layers, speculators layout"
    report = examine(tmp_path / "c", tiny.target)
    assert report.is_well and dict(report.facts)["target"] == "org/tiny"
    taken(tiny, tmp_path / "c", tmp_path / "d")
    assert bits(tmp_path / "b") == bits(tmp_path / "d")
    assert config_in(tmp_path / "b") == config_in(tmp_path / "d")
    theirs = config_in(tmp_path / "c")
    assert theirs["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == ours.length
    assert ("d2t" in bits(tmp_path / "c")) == (theirs["draft_vocab_size"] < VOCAB) == bool(ids)
    biases = [name for name in bits(tmp_path / "c") if name.endswith("o_proj.bias")]
    assert len(biases) == (2 if layout == "dspark-gated" else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": (True, True)}, "causal is true, true; accepted are true for the layers with a window"),
        ({"causal": (False, True), "windows": (4, 4)}, "causal is false, true; accepted"),
        ({"causal": (True, True), "windows": (4, 5)}, "windows are 4, 5; accepted are 0 and one size"),
        ({"num_tokens": VOCAB}, "all 300 tokens are drafted by a matrix of the layers' own, accepted are"),
        ({"taps": ("0", "final")}, "taps are 0, final; accepted are layers by number"),
    ],
)
def test_what_speculators_cannot_say_does_not_go_out(
    tiny: Tiny, tmp_path: Path, options: Any, message: str
) -> None:
    config = dflash_layers(target=tiny.target.fingerprint(), **options)
    ids = np.arange(config.num_tokens, dtype=np.int32) if config.num_tokens else None
    write_dflash(tmp_path / "a", DFlashWeights(config, random_tensors(config.shapes(), 5), ids))
    with pytest.raises(OutpaceError, match=message):
        give_out(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()

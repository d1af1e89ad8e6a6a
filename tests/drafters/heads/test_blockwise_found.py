"""Blockwise heads that are refused, and those that are found beside the package and in a mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace import drafters  # noqa: E402
from outpace.core.contracts import Tapped  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.drafters import mix  # noqa: E402
from outpace.drafters.heads.blockwise import Blockwise  # noqa: E402
from outpace.drafters.heads.markov_heads import MarkovHeads  # noqa: E402
from outpace.drafters.lookup.backoff import FILE_NAME  # noqa: E402
from outpace.drafters.lookup.ngram import NGram  # noqa: E402
from outpace.drafters.mix import mix as make_mix  # noqa: E402
from outpace.heads import packaged  # noqa: E402
from outpace.heads.file import Heads, read_heads, write_heads  # noqa: E402
from outpace.pricing.costs import straight  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from tests.drafters.heads.test_blockwise import hf_causal, make  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import random_heads, write_random, write_random_markov  # noqa: E402


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return hf_causal(tmp_path_factory.mktemp("hf_causal"))


@pytest.mark.parametrize(
    ("tree", "near", "ids", "message"),
    [
        ("chain:length=2", -1, None, "near=-1, accepted are 0 to 299"),
        ("chain:length=2", 300, None, "near=300, accepted are 0 to 299"),
        ("chain:length=2", 3, [3, 4, 5], "near=3, accepted are 0 to 2"),
        (None, 2, None, "near=2, accepted with tree=chain"),
        ("chain:length=2,min_p=0.2", 2, None, "near=2, accepted with tree=chain"),
        ("chain:length=2", 2, [3, 8, 77], "near=2, accepted with heads that draft neighbouring ids"),
    ],
)
def test_near_where_it_means_nothing(
    causal: Any, tmp_path: Path, tree: str | None, near: int, ids: Any, message: str
) -> None:
    write_random(tmp_path, causal, token_ids=ids)
    with pytest.raises(OutpaceError, match=message):
        make(causal, tmp_path, tree=tree, near=near)


def test_other_numbers_of_heads_are_refused(causal: Any, tmp_path: Path) -> None:
    write_random(tmp_path, causal, num_heads=4)
    for num_heads in (5, 1, 0, -1):
        with pytest.raises(
            OutpaceError, match=rf"are 4, head 1 included; accepted are 2 to 4, not {num_heads}"
        ):
            make(causal, tmp_path, heads=num_heads)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size=0, accepted are whole"), ({"min_p": 1.5}, "min_p=1.5, accepted are 0 to 1")],
)
def test_options_out_of_range(causal: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        make(causal, Path("nowhere"), **options)


def test_heads_of_another_model_are_refused(causal: Tapped, tmp_path: Path) -> None:
    write_random(tmp_path, causal)
    other: Any = tiny_model("gpt2", num_hidden_layers=1)
    with torch.no_grad():
        other.transformer.h[0].attn.c_proj.weight[0, 0] += 1
    with pytest.raises(
        OutpaceError, match=r"trained on another model \(a tiny model\); accepted are heads of"
    ):
        make(HfCausalTarget(other, context_length=64), tmp_path)
    heads = random_heads(causal.hidden_size // 2, causal.fingerprint())
    write_heads(tmp_path, heads)
    with pytest.raises(OutpaceError, match=r"another model .*accepted are"):
        make(causal, tmp_path)
    Blockwise(causal, path=str(rewritten(tmp_path, random_heads(causal.hidden_size, causal.fingerprint()))))


def rewritten(folder: Path, heads: Heads) -> Path:
    write_heads(folder, heads)
    return folder


def test_tokens_beyond_the_vocabulary_are_refused(causal: Any, tmp_path: Path) -> None:
    write_random(tmp_path, causal, token_ids=[4, 300])
    with pytest.raises(OutpaceError, match=r"draft the token 300, accepted are .* 0 to 299"):
        make(causal, tmp_path)
    write_random(tmp_path, causal, token_ids=[4, 299])
    make(causal, tmp_path)


def test_targets_without_hidden_states_are_refused(causal: Any, tmp_path: Path) -> None:
    write_random(tmp_path, causal)
    untapped: Any = TableTarget.random(vocab_size=300, order=1)
    for path in (str(tmp_path), "auto"):
        with pytest.raises(OutpaceError, match="target TableTarget shows none, accepted are native and"):
            Blockwise(untapped, path=path)


def test_what_is_no_folder_of_heads_is_named(causal: Any, tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="no folder of heads"):
        drafters.make_drafter(f"blockwise:path={tmp_path / 'gone'}", None, {"target": causal})


def test_packaged_heads(causal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that lie in the package are found by the model that they are for."""
    monkeypatch.setattr(packaged, "PACKAGED", tmp_path)
    with pytest.raises(OutpaceError, match=r"it has: none\); accepted is blockwise:path=FOLDER"):
        Blockwise(causal)
    write_heads(tmp_path / "blockwise" / "another", random_heads(32, "sha256:another"))
    with pytest.raises(OutpaceError, match=r"it has: another\); accepted is blockwise:path=FOLDER"):
        Blockwise(causal)
    assert packaged.find_packaged_heads(causal, "blockwise") is None
    heads = write_random(tmp_path / "blockwise" / "mine", causal, seed=7)
    assert Blockwise(causal)._heads.num_drafted == 3
    assert packaged.packaged_heads(causal, "blockwise") == tmp_path / "blockwise" / "mine"
    assert read_heads(tmp_path / "blockwise" / "mine").config == heads.config


def test_mix_has_the_packages_heads(causal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PACKAGED", tmp_path)
    context = {"target": causal}
    before = make_mix(context, lambda: straight(0.05)).sources
    write_random(tmp_path / "blockwise" / "mine", causal)
    after = make_mix(context, lambda: straight(0.05)).sources
    assert [type(one) for one in after] == [NGram, Blockwise] and Blockwise not in map(type, before)
    write_random_markov(tmp_path / "own" / "markov_heads", causal, taps=("final",))
    own = {**context, "beside": lambda name: tmp_path / "own" / name}
    assert [type(one) for one in make_mix(own, lambda: straight(0.05)).sources] == [NGram, MarkovHeads]
    without_states = {"target": TableTarget.random(vocab_size=300, order=1)}
    other = make_mix(without_states, lambda: straight(0.05)).sources
    assert [type(one) for one in other] == [type(one) for one in before]
    (tmp_path / FILE_NAME).touch()
    with_table = {**context, "beside": lambda name: tmp_path / name}
    assert mix._auto(with_table) == "ngram+backoff"

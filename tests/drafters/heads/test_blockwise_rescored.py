"""What n-grams and a small model do to the drafts of heads: which tokens they prefer, alone and in a mix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.contracts import Drafter  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.core.steps import Ask, ScoredCall  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.decode.judge import judge  # noqa: E402
from outpace.drafters.heads.blockwise import Blockwise  # noqa: E402
from outpace.drafters.heads.blockwise_lattice import BlockwiseLattice  # noqa: E402
from outpace.drafters.heads.blockwise_local import BlockwiseLocal  # noqa: E402
from outpace.drafters.mix import Mix  # noqa: E402
from outpace.drafters.model.small_model import SmallModel  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Request  # noqa: E402
from outpace.files.backoff import write_backoff  # noqa: E402
from outpace.pricing.costs import straight  # noqa: E402
from outpace.rules import RULES  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.table import TableTarget  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.hf_families import tiny_model  # noqa: E402
from tests.made_heads import write_random  # noqa: E402
from tests.rows import opened  # noqa: E402

PROMPT = [3, 1, 4, 1, 5]
DRAFTED = range(30)


@pytest.fixture(scope="module")
def target() -> Any:
    """Of few certainties, so that heads have second choices."""
    model = tiny_model("gpt2", num_hidden_layers=1)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 0.2
    return HfCausalTarget(model, context_length=64)


@pytest.fixture
def heads(target: Any, tmp_path: Path) -> Path:
    write_random(tmp_path / "heads", target, num_heads=4, token_ids=DRAFTED)
    return tmp_path / "heads"


def first_tree(target: Any, drafter: Drafter) -> TokenTree:
    """What is drafted behind the first token after the prompt."""
    (row,), scores = opened(target, [PROMPT])

    def ask(root: int, position: int) -> Ask:
        return Ask(root, position, Sampling(), 60, 20, law=False, row=row)

    call = ScoredCall(scores, [TokenTree.root(PROMPT[-1])], [ask(PROMPT[-1], len(PROMPT) - 1)])
    steps = judge(Match(), call)
    state = drafter.start(Prompt.of(PROMPT))
    [state] = drafter.observe([state], steps)
    [tree] = drafter.propose([state], [ask(steps[0].tokens[-1], len(PROMPT))])
    drafter.stop(state)
    target.free([row])
    return tree


def ngrams(target: Any, folder: Path, texts: Sequence[Sequence[int]]) -> str:
    write_backoff(folder / "table.npz", texts, vocabulary=f"{target.vocab_size} ids")
    return str(folder / "table.npz")


def lattice(target: Any, heads: Path, table: str, **options: Any) -> BlockwiseLattice:
    return BlockwiseLattice(target, None, None, path=str(heads), ngrams=table, min_p=0.0, **options)


def ranked(tree: TokenTree) -> list[int]:
    """The children of the root, best first."""
    return [tree.token_list[node] for node in tree.children(0)]


def test_ngrams_that_weigh_nothing_change_nothing(target: Any, heads: Path, tmp_path: Path) -> None:
    table = ngrams(target, tmp_path, [[7, 8, 9]] * 5)
    plain = first_tree(target, Blockwise(target, path=str(heads), size=9, min_p=0.0))
    assert plain.num_nodes == 10
    mended = first_tree(target, lattice(target, heads, table, size=9, alpha=0.0))
    assert mended.paths() == plain.paths() and mended.token_list == plain.token_list


def test_ngrams_decide_which_of_the_heads_tokens_come_first(target: Any, heads: Path, tmp_path: Path) -> None:
    """Behind the root the table knows the heads' second choice alone."""
    plain = first_tree(target, Blockwise(target, path=str(heads), size=40, min_p=0.0))
    root, (best, second, *_) = plain.token_list[0], ranked(plain)
    table = ngrams(target, tmp_path, [[root, second]] * 9)
    tree = first_tree(target, lattice(target, heads, table, size=40, alpha=2.0))
    assert ranked(plain)[:2] == [best, second] and ranked(tree)[0] == second
    mixed = _mix_of(lattice(target, heads, table, size=40, alpha=2.0))
    assert ranked(first_tree(target, mixed))[0] == second


def _mix_of(source: Drafter) -> Mix:
    """A mix of one drafter that exists already."""
    return Mix([source], straight(0.01), size=9)


def test_a_lattice_gives_no_law(target: Any, heads: Path, tmp_path: Path) -> None:
    drafter = lattice(target, heads, ngrams(target, tmp_path, [[7, 8]] * 5))
    with pytest.raises(OutpaceError, match="BlockwiseLattice gives none; accepted are"):
        generate(target, drafter, RULES.create("speculative"), Request(PROMPT, Sampling(temperature=1.0)))


def local(target: Any, heads: Path, small: TableTarget, **options: Any) -> BlockwiseLocal:
    blockwise = Blockwise(target, path=str(heads), tree=Chain(length=3))
    return BlockwiseLocal(blockwise, SmallModel.of(small, vocab_size=target.vocab_size), **options)


def small_model(target: Any, liked: Sequence[int]) -> TableTarget:
    """It likes these tokens alone, all as much, after whatever."""
    logits = np.zeros((target.vocab_size, target.vocab_size), np.float32)
    logits[:, liked] = 40.0
    return TableTarget(logits)


def test_a_small_model_decides_among_the_heads_best(target: Any, heads: Path) -> None:
    plain = first_tree(target, Blockwise(target, path=str(heads), tree=Chain(length=3))).token_list
    second = ranked(first_tree(target, Blockwise(target, path=str(heads), size=40, min_p=0.0)))[1]
    small = small_model(target, [second])
    assert first_tree(target, local(target, heads, small)).token_list[1] == second != plain[1]
    assert first_tree(target, local(target, heads, small, alpha=0.0)).token_list == plain
    # What is not among a head's best is not drafted, however well the small model likes it.
    assert first_tree(target, local(target, heads, small, ranks=1)).token_list == plain

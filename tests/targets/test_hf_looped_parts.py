"""Parts of looped torch models: what they say, and that whole calls go on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.contracts import Layered  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.model.early_exit import EarlyExit  # noqa: E402
from outpace.drafters.model.layer_skip import LayerSkip  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Request  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.hf_causal import HfCausalTarget  # noqa: E402
from outpace.targets.hf_looped import HfLoopedTarget  # noqa: E402
from outpace.trees.chain import Chain  # noqa: E402
from tests.fakes import whole  # noqa: E402
from tests.hf_families import tiny_looped, tiny_model  # noqa: E402
from tests.looped_models import NAMES, loop_logits, model_of, write_looped  # noqa: E402
from tests.rows import on, opened  # noqa: E402

PROMPTS = [[5, 17, 3, 250, 9, 9, 81], [90, 91]]
TREES = [TokenTree([7, 1, 2, 3, 9], [-1, 0, 0, 1, 2]), TokenTree.chain(4, [6, 8])]


@pytest.fixture(params=NAMES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    write_looped(folder, request.param)
    return folder


def all_logits(scores: Any, trees: list[TokenTree]) -> list[np.ndarray]:
    return [scores.logits(row, range(tree.num_nodes)) for row, tree in enumerate(trees)]


def test_the_first_loops_say_what_plain_arithmetic_says(folder: Path) -> None:
    target = HfLoopedTarget(model_of(folder))
    assert isinstance(target, Layered) and target.num_layers == target.num_loops * len(
        target.model.model.layers
    )
    rows, _ = opened(target, PROMPTS)
    for loops in range(1, target.num_loops + 1):
        layers = loops * target.num_layers // target.num_loops
        for row, logits in enumerate(all_logits(target.run(on(rows, TREES), layers=layers), TREES)):
            for node in range(TREES[row].num_nodes):
                path = [TREES[row].token_list[one] for one in TREES[row].path_to(node)]
                expected = loop_logits(folder, [*PROMPTS[row], *path])[loops - 1, -1]
                np.testing.assert_allclose(logits[node], expected, atol=2e-4)


def test_whole_calls_go_on_from_parts(folder: Path) -> None:
    """They say what fresh calls say, and run the first layers for new nodes alone."""
    target = HfLoopedTarget(model_of(folder))
    rows, _ = opened(target, PROMPTS)
    expected = all_logits(target.score(on(rows, TREES)), TREES)
    ran: list[int] = []
    for layer in target.model.model.layers:
        layer.register_forward_hook(lambda layer, inputs, output: ran.append(inputs[0].shape[1]))
    for layers in range(1, target.num_layers):
        # How many nodes are new to what the last part has run. Of a chain that has ended the last one is.
        for grown, new in (([[0], [0, 1], [0, 1, 2]], 2), ([[0, 1]], 3), ([[0, 2]], 4)):
            for nodes in grown:
                target.run(on(rows, [tree.prune(nodes) for tree in TREES]), layers=layers)
            ran.clear()
            resumed = all_logits(target.score(on(rows, TREES)), TREES)
            for one, other in zip(resumed, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
            assert ran == [new] * layers + [5] * (target.num_layers - layers)
    target.keep(rows, [[2, 4], [1, 2]])
    texts = [[*PROMPTS[0], 7, 2, 9], [*PROMPTS[1], 4, 6, 8]]
    fresh, _ = opened(target, texts)
    ours, theirs = (all_logits(target.score(on(some, TREES)), TREES) for some in (rows, fresh))
    for mine, yours in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, yours, atol=1e-4)


def test_what_is_left_out_adds_nothing(folder: Path) -> None:
    """As in a model whose last matrices of these sublayers are zero, in every loop."""
    model = model_of(folder)
    target, num_layers = HfLoopedTarget(model), len(model.model.layers)
    rows, _ = opened(target, PROMPTS)
    last = num_layers - 1
    for halves in ([0], [1], [0, 1]):
        skip = [2 * (loop * num_layers + last) + half for loop in range(target.num_loops) for half in halves]
        got = all_logits(target.run(on(rows, TREES), skip=skip), TREES)
        without = model_of(folder)
        layer = without.model.layers[last]
        with torch.no_grad():
            for half in halves:
                (layer.self_attn.o_proj, layer.mlp.down_proj)[half].weight.zero_()
        other = HfLoopedTarget(without)
        # Their texts are read by the model that has all sublayers.
        other._cache, texts = target._cache, rows
        expected = all_logits(other.score(on(texts, TREES)), TREES)
        for one, two in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, seed=4)], ids=str)
def test_all_loops_draft_what_will_be_accepted(folder: Path, sampling: Sampling) -> None:
    target = HfLoopedTarget(model_of(folder))
    plain = whole(generate(target, NoDraft(), Match(), Request(PROMPTS[0], sampling, 26)))[1]
    drafter = EarlyExit(loops=target.num_loops, tree=Chain(length=4), target=target)
    drafted = whole(generate(target, drafter, Match(), Request(PROMPTS[0], sampling, 26)))[1]
    assert drafted.token_ids == plain.token_ids
    assert drafted.stats.num_accepted == drafted.stats.num_drafted > 0


def test_loops_are_layers_of_every_loop() -> None:
    target = HfLoopedTarget(tiny_looped())  # one layer, three loops
    assert [EarlyExit(loops=n, target=target).layers for n in (1, 2, 3, 0)] == [1, 2, 3, 2]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"loops": 4}, "accepted are 0 to 3"),
        ({"loops": -1}, "accepted are 0 to 3"),
        ({"loops": 1, "layers": 1}, "accepted is one of them"),
    ]
    for options, accepted in wrong:
        with pytest.raises(OutpaceError, match=accepted):
            EarlyExit(**options, target=target)
    for kind in (EarlyExit, LayerSkip):
        with pytest.raises(OutpaceError, match=r"cannot run a part .* native targets and looped"):
            kind(target=HfCausalTarget(tiny_model("llama")))  # type: ignore[arg-type]

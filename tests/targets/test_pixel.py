"""The pixel model as a target: every node's logits are those of its path as one line, without any cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.errors import OutpaceError, PromptTooLong  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.engine.generate import generate  # noqa: E402
from outpace.engine.request import Request  # noqa: E402
from outpace.rules.match import Match  # noqa: E402
from outpace.targets.pixel import PixelTarget, pixel_prompt  # noqa: E402
from outpace.targets.pixel_model import START, PixelConfig, PixelModel, blocked  # noqa: E402
from tests.pixel_models import small_pictures, tiny_pixel_model  # noqa: E402
from tests.rows import on, opened  # noqa: E402

SHAPES: list[dict[str, int]] = [
    {},
    {"channels": 3, "window": 40},  # a row has 24 tokens
    {"height": 12, "width": 4, "window": 5},  # a window that ends within a row
    {"window": 1000},  # more than a picture
]
TREE = TokenTree([11, 20, 21, 22, 20, 23, 24, 25], [-1, 0, 0, 1, 1, 3, 2, 5])
TREES = [TREE, TokenTree.chain(40, [41, 42, 43, 44]), TokenTree([50, 51, 52], [-1, 0, 0])]


def line(model: PixelModel, length: int, *, seed: int = 1) -> list[int]:
    """START and random intensities: so many tokens in all."""
    return [START, *np.random.default_rng(seed).integers(0, 256, length - 1).tolist()]


class Case:
    """A target with three small pictures, and what the model says of a line in one call for it alone."""

    def __init__(self, **changes: int) -> None:
        self.model = tiny_pixel_model(**changes)
        self.target = PixelTarget(self.model)
        self.smalls = small_pictures(self.model, 3)
        self.texts = [line(self.model, length, seed=length) for length in (21, 1, 34)]

    def prompts(self, numbers: Sequence[int] = (0, 1, 2)) -> list[Prompt]:
        return [pixel_prompt(self.smalls[number], self.texts[number]) for number in numbers]

    def reference(self, number: int, text: list[int]) -> np.ndarray:
        """f32[T, V] after every token: dense attention over the whole line, masked to the window."""
        window, length = self.model.config.window, len(text)
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = (distance >= 0) & (distance < window)

        def dense(layer: int, queries: Any, keys: Any, values: Any) -> Any:
            scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
            return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ values

        with torch.no_grad():
            places = self.model.places(torch.from_numpy(self.smalls[number : number + 1]))[:, :length]
            states = self.model.states(torch.tensor([text]), places, torch.arange(length), dense)
            return self.model.output(states)[0].numpy()

    def check(self, rows: list[int], texts: list[list[int]], of: list[int], trees: list[TokenTree]) -> None:
        """Every node of every tree, behind the texts that the rows should hold, of these pictures."""
        scores = self.target.score(on(rows, trees))
        for row, (text, number, tree) in enumerate(zip(texts, of, trees, strict=True)):
            assert self.target.length(rows[row]) == len(text)
            for path in tree.paths():
                expected = self.reference(number, [*text, *(tree.token_list[node] for node in path)])
                assert np.abs(scores.logits(row, path) - expected[len(text) :]).max() < 1e-4


@pytest.fixture(params=SHAPES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(**request.param)


def test_blocked_attention_is_dense_attention_in_a_window(case: Case) -> None:
    for length in (1, 4, 5, 17, case.model.config.num_intensities):
        texts = [line(case.model, length, seed=seed) for seed in range(3)]
        with torch.no_grad():
            together = case.model(torch.tensor(texts), torch.from_numpy(case.smalls)).numpy()
        for number, text in enumerate(texts):
            assert np.abs(together[number] - case.reference(number, text)).max() < 1e-4


def test_a_position_sees_its_window_and_nothing_else(case: Case) -> None:
    model, layer = (
        case.model,
        [torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1, 2)],
    )
    window, place = model.config.window, 30
    with torch.no_grad():
        before = blocked(window)(0, *layer)
        for changed in range(40):
            values = layer[2].clone()
            values[:, :, changed] += 1
            moved = (blocked(window)(0, layer[0], layer[1], values) - before)[0, :, place].abs().max() > 1e-6
            assert bool(moved) == (0 <= place - changed < window)


def test_a_tree_is_its_paths(case: Case) -> None:
    rows, scores = opened(case.target, case.prompts())
    for row, text in enumerate(case.texts):
        assert np.abs(scores.logits(row, [0]) - case.reference(row, text)[-1:]).max() < 1e-4
    for i in range(3):
        for tree in (TREE, TREES[1], TokenTree.root(9)):
            case.check(rows[i : i + 1], case.texts[i : i + 1], [i], [tree])
    case.check(rows, case.texts, [0, 1, 2], TREES)
    case.check([rows[2], rows[0]], [case.texts[2], case.texts[0]], [2, 0], [TREE, TREES[2]])
    case.check(rows, case.texts, [0, 1, 2], [TokenTree.root(4)] * 3)


def test_kept_paths_forks_and_freed_rows(case: Case) -> None:
    rows, _ = opened(case.target, case.prompts())
    texts = [list(text) for text in case.texts]
    for paths in ([[2, 6], [1, 2], []], [[1, 3], [], [2]], [[1, 4], [1, 2, 3, 4], [1]]):
        case.check(rows, texts, [0, 1, 2], TREES)
        case.target.keep(rows, paths)
        for text, tree, path in zip(texts, TREES, paths, strict=True):
            text += [tree.token_list[node] for node in (0, *path)]
    copy = case.target.fork(rows[0])
    case.target.free([rows[0]])
    case.check([rows[1], rows[2], copy], [texts[1], texts[2], texts[0]], [1, 2, 0], TREES)
    case.target.keep([copy], [[1]])
    texts.append([*texts[0], *TREES[2].token_list[:2]])
    again, _ = opened(case.target, case.prompts([0]))
    every = [again[0], copy, rows[2], rows[1]]
    case.check(every, [case.texts[0], texts[3], texts[2], texts[1]], [0, 0, 2, 1], [TREE] * 4)
    case.target.free(every)
    assert case.target.num_rows == 0


def test_a_whole_picture_is_the_models_own_greedy_one() -> None:
    case = Case()
    text = [START]
    for _ in range(case.model.config.num_intensities):
        text.append(int(case.reference(1, text)[-1].argmax()))
    request = Request(pixel_prompt(case.smalls[1]), max_tokens=case.model.config.num_intensities)
    run = generate(case.target, NoDraft(), Match(), request)
    tokens = [token for new, _ in run for token in new]
    assert tokens == text[1:] and START not in tokens


def test_the_small_picture_matters_and_only_it() -> None:
    case = Case()
    _, scores = opened(case.target, [pixel_prompt(small, case.texts[0]) for small in case.smalls])
    first, second, third = (scores.logits(row, [0]) for row in range(3))
    assert np.abs(first - second).max() > 0.01 and np.abs(second - third).max() > 0.01
    flat = pixel_prompt(case.smalls[0][:, :, 0], case.texts[0])
    _, scores = opened(case.target, [flat])
    assert np.abs(scores.logits(0, [0]) - first).max() < 1e-4


def test_hidden_states_are_what_the_output_matrix_reads(case: Case) -> None:
    case.target.tap("final")
    rows, _ = opened(case.target, case.prompts())
    scores = case.target.score(on(rows, TREES))
    states = scores.hidden("final")
    logits = np.concatenate([scores.logits(row, range(tree.num_nodes)) for row, tree in enumerate(TREES)])
    assert states.shape == (16, case.target.hidden_size)
    assert np.abs(case.target.projection()(states) - logits).max() < 1e-4
    some = np.array([0, 7, START])
    assert np.abs(case.target.projection(some)(states) - logits[:, some]).max() < 1e-4


def test_a_folder_holds_a_model(tmp_path: Path) -> None:
    case = Case(channels=3)
    case.model.save(tmp_path)
    target = PixelTarget(tmp_path)
    assert target.fingerprint() == case.target.fingerprint()
    expected = opened(case.target, case.prompts())[1].logits(0, [0])
    assert np.array_equal(opened(target, case.prompts())[1].logits(0, [0]), expected)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OutpaceError, match="does not hold a whole pixel model"):
        PixelTarget(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(OutpaceError, match="is not of a pixel model"):
        PixelTarget(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feedforward_size", 1 << 40),
        ("num_layers", 1 << 40),
        ("height", 1 << 30),
        ("channels", 1 << 30),
        ("hidden_size", 1 << 40),
        ("factor", 1),
    ],
)
def test_sizes_that_the_file_does_not_have_take_no_memory(tmp_path: Path, name: str, value: int) -> None:
    Case().model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(OutpaceError, match=r"does not hold a whole pixel model: the tensor .* needs \("):
        PixelTarget(tmp_path)


def test_bad_input_is_refused() -> None:
    case = Case()
    with pytest.raises(OutpaceError, match=r"accepted is pixel_prompt\(small\)"):
        opened(case.target, [[START]])
    for small in (case.smalls[0].astype(np.float32), case.smalls[0][:, :1]):
        with pytest.raises(OutpaceError, match=r"accepted is uint8\[2, 2, 1\]"):
            opened(case.target, [pixel_prompt(small)])
    with pytest.raises(OutpaceError, match="0 to 256"):
        opened(case.target, [pixel_prompt(case.smalls[0], [START, 257])])
    with pytest.raises(PromptTooLong, match="65 tokens, the context holds 64"):
        opened(case.target, [pixel_prompt(case.smalls[0], line(case.model, 65))])
    assert case.target.num_rows == 0
    for changes, message in (
        ({"factor": 5}, "factor is 5, accepted are divisors"),
        ({"num_heads": 3}, "multiples of 4 "),
        ({"window": 0}, "window is 0, accepted are whole numbers >= 1"),
    ):
        with pytest.raises(OutpaceError, match=message):
            PixelConfig(**changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_first_guess_is_the_small_picture_enlarged(channels: int) -> None:
    """What a reader with silent convolutions says of an intensity is that of the bicubic picture's there."""
    model = PixelModel(PixelConfig(height=16, width=16, channels=channels, hidden_size=16))
    small = small_pictures(model, 2)
    with torch.no_grad():
        for layer in (model.reader.spread, model.reader.mix, model.reader.stem):
            layer.weight.zero_()
            assert layer.bias is not None
            layer.bias.zero_()
        said = model.places(torch.from_numpy(small)).reshape(2, 16, 16, channels, -1)
        table = model.reader.embedding.weight
        nearest = torch.cdist(said.flatten(0, 3), table).argmin(dim=1).reshape(2, 16, 16, channels)
    weights = cubic_weights(4, 4)
    expected = np.einsum("yi,xj,bijc->byxc", weights, weights, small.astype(float)).clip(0, 255)
    assert np.abs(nearest.numpy() - expected).max() < 0.51


def cubic_weights(size: int, factor: int) -> np.ndarray:
    """f64[size * factor, size]: cubic convolution with a = -0.75 (Keys 1981), edges repeated."""
    weights = np.zeros((size * factor, size))
    for place, row in enumerate(weights):
        at = (place + 0.5) / factor - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            d = abs(at - tap)
            inner, outer = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            row[min(max(tap, 0), size - 1)] += inner if d <= 1 else outer
    return weights


def test_training_brings_the_loss_down_and_learns_no_start() -> None:
    """Gradients arrive everywhere: pictures that repeat their small one are soon learned."""
    torch.manual_seed(0)
    model = PixelModel(tiny_pixel_model().config)
    small = torch.from_numpy(small_pictures(model, 16) // 128 * 200)
    pictures = small.repeat_interleave(4, 1).repeat_interleave(4, 2).reshape(16, -1).long()
    tokens = torch.cat([torch.full((16, 1), START), pictures[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        logits = model(tokens, small)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), pictures.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.1 < losses[0]
    assert not bool((logits.argmax(dim=2) == START).any())

"""States on disk: whole texts only, the very states that the engine chooses from, labels inside each text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.train import features  # noqa: E402
from outpace.train.features import (  # noqa: E402
    ENDS,
    STATES,
    TOKENS,
    FeatureBase,
    FeatureFile,
    Features,
    add_answers,
    hidden_states,
)
from outpace.train.self_text import write_text  # noqa: E402
from tests.fake_models import write_gguf  # noqa: E402
from tests.rows import opened  # noqa: E402
from tests.special_files import SPECIAL  # noqa: E402

WIDTH = 3


def texts(*lengths: int) -> list[tuple[np.ndarray, list[int]]]:
    """States that f16 holds exactly, no two alike."""
    found, at = [], 0
    for length in lengths:
        states = np.arange(at * WIDTH, (at + length) * WIDTH, dtype=np.float16).reshape(length, WIDTH)
        found.append((states, list(range(100 + at, 100 + at + length))))
        at += length
    return found


def holds(file: FeatureFile, expected: list[tuple[np.ndarray, list[int]]]) -> None:
    assert file.num_texts == len(expected)
    assert file.num_tokens == sum(len(tokens) for _, tokens in expected)
    read = file.read()
    np.testing.assert_array_equal(read.states, np.concatenate([states for states, _ in expected]))
    assert read.tokens.tolist() == [token for _, tokens in expected for token in tokens]
    assert read.ends.tolist() == np.cumsum([len(tokens) for _, tokens in expected]).tolist()
    sizes = {name: (file.folder / name).stat().st_size for name in (STATES, TOKENS, ENDS)}
    count = len(read.tokens)
    assert sizes == {STATES: 2 * WIDTH * count, TOKENS: 4 * count, ENDS: 8 * len(expected)}


def test_texts_are_added_and_kept(tmp_path: Path) -> None:
    some = texts(4, 1, 3, 2)
    file = FeatureFile(tmp_path / "a" / "b", WIDTH)
    assert (file.num_texts, file.num_tokens) == (0, 0)
    file.add(some[:1])
    file.add([])
    file.add(some[1:])
    holds(file, some)
    holds(FeatureFile(tmp_path / "a" / "b", WIDTH), some)
    file.keep(9)
    holds(file, some)
    file.keep(2)
    holds(file, some[:2])
    file.add(texts(4, 1, 5)[2:])
    holds(file, texts(4, 1, 5))
    file.keep(0)
    assert (file.num_texts, file.num_tokens) == (0, 0)


@pytest.mark.parametrize("written", [(STATES, 5), (STATES, 18), (TOKENS, 2), (TOKENS, 12), (ENDS, 3)])
def test_what_an_interruption_left_half_written_is_forgotten(
    tmp_path: Path, written: tuple[str, int]
) -> None:
    """A text is written states, tokens, end; the write may stop after any byte of it."""
    some = texts(4, 1, 3)
    file = FeatureFile(tmp_path, WIDTH)
    file.add(some[:2])
    stopped, size = written
    full = {STATES: some[2][0].tobytes(), TOKENS: np.array(some[2][1], np.int32).tobytes(), ENDS: b"\x08" * 8}
    for name in (STATES, TOKENS, ENDS):
        with (tmp_path / name).open("ab") as part:
            part.write(full[name][: size if name == stopped else None])
        if name == stopped:
            break
    again = FeatureFile(tmp_path, WIDTH)
    holds(again, some[:2])
    again.add(some[2:])
    holds(again, some)


@pytest.mark.parametrize("name", [STATES, TOKENS])
def test_a_file_that_lacks_what_the_ends_promise_is_named(tmp_path: Path, name: str) -> None:
    FeatureFile(tmp_path, WIDTH).add(texts(2, 3))
    size = (tmp_path / name).stat().st_size
    with (tmp_path / name).open("rb+") as file:
        file.truncate(size - 1)
    with pytest.raises(OutpaceError, match=rf"{name} is shorter than ends\.i64 says; remove the folder"):
        FeatureFile(tmp_path, WIDTH)
    assert (tmp_path / name).stat().st_size == size - 1


@pytest.mark.parametrize(
    "ends", [[-1], [3, 2], [2, -5], [1 << 62, 2], [(1 << 63) - 1, -(1 << 63)], [-(1 << 63)]]
)
def test_ends_that_do_not_ascend_are_named(tmp_path: Path, ends: list[int]) -> None:
    FeatureFile(tmp_path, WIDTH).add(texts(2, 3))
    np.array(ends, np.int64).tofile(tmp_path / ENDS)
    with pytest.raises(OutpaceError, match=r"ends\.i64 is damaged; remove the folder"):
        FeatureFile(tmp_path, WIDTH)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [STATES, TOKENS, ENDS])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str, name: str) -> None:
    SPECIAL[kind](tmp_path / name)
    with pytest.raises(OutpaceError, match=f"{name}|cannot write"):
        FeatureFile(tmp_path, WIDTH)


@pytest.mark.parametrize(
    ("states", "tokens", "ends"), [((4,), 4, [4]), ((4, 3), 3, [3]), ((4, 3), 4, [3]), ((4, 3), 4, [2, 5])]
)
def test_features_that_do_not_fit_together_are_none(
    states: tuple[int, ...], tokens: int, ends: list[int]
) -> None:
    with pytest.raises(AssertionError, match=r"a state for every token|end with the last token"):
        Features(np.zeros(states, np.float16), np.zeros(tokens, np.int32), np.array(ends, np.int64))


def test_nothing_to_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="holds no hidden states, accepted are texts with answers"):
        FeatureFile(tmp_path, WIDTH).read()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file"):
        FeatureFile(tmp_path / "file", WIDTH)
    file = FeatureFile(tmp_path / "full", WIDTH)
    file.add(texts(2))

    def full(self: Path, mode: str = "r") -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutpaceError, match=r"cannot write .*full: No space left on device"):
        file.add(texts(2, 3)[1:])
    monkeypatch.undo()
    holds(FeatureFile(tmp_path / "full", WIDTH), texts(2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("model")
    write_gguf(folder / "tiny.gguf", "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        return outpace.load(folder / "tiny.gguf", kv="f32")


PAIRS = [([5, 17, 3], [250, 9, 9]), ([2], [7]), ([90, 91], [92, 93, 94, 95])]


def hf_states(path: Path, text: list[int]) -> np.ndarray:
    """f32[T, D]: what transformers' own model gives to its output matrix."""
    reference = write_gguf(path / "again.gguf", "llama")
    with torch.no_grad():
        return reference.model(torch.tensor([text])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("chunk", [256, 2])
def test_states_are_those_of_the_model(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(features, "CHUNK", chunk)
    text = [5, 17, 3, 250, 9, 9, 81]
    np.testing.assert_allclose(
        hidden_states(model.target, text), hf_states(tmp_path, text), rtol=1e-3, atol=1e-4
    )
    file = FeatureFile(tmp_path / "f", model.target.hidden_size)
    seen: list[Any] = []
    add_answers(file, model.target, PAIRS, progress=lambda *call: seen.append(call[:2]))
    read = file.read()
    at = 0
    for prompt, answer in PAIRS:
        expected = hf_states(tmp_path, [*prompt, *answer])[len(prompt) - 1 : -1]
        found = read.states[at : at + len(answer)].astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
        assert read.tokens[at : at + len(answer)].tolist() == answer
        at += len(answer)
    assert at == len(read.tokens) and seen == [(1, 3), (2, 3), (3, 3)]


def test_answers_that_are_there_are_not_computed_again(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = (FeatureFile(tmp_path / name, model.target.hidden_size) for name in ("whole", "parts"))
    add_answers(whole, model.target, PAIRS)
    add_answers(parts, model.target, PAIRS[:2])
    computed: list[int] = []

    def counted(target: Any, ids: list[int], taps: Any) -> Any:
        computed.append(len(ids))
        return hidden_states(target, ids, taps)

    monkeypatch.setattr(features, "hidden_states", counted)
    add_answers(parts, model.target, PAIRS)
    assert computed == [5]
    np.testing.assert_array_equal(parts.read().states, whole.read().states)
    for other in (PAIRS[:2], [*PAIRS[:2], ([90, 91], [92, 93, 94, 96])], [([1], [1]), *PAIRS[1:]]):
        with pytest.raises(OutpaceError, match="holds states of other data, accepted are the same or a new"):
            add_answers(parts, model.target, other)
    holds_still = parts.read()
    np.testing.assert_array_equal(holds_still.states, whole.read().states)


def test_states_recorded_while_decoding_are_those_of_a_second_pass(model: Any) -> None:
    """Through cached keys and values or all at once: one engine, one state."""
    documents = [
        d for group in islice(write_text(model, batch=8, max_answer=9, record=("final",)), 6) for d in group
    ]
    assert documents
    for document in documents:
        assert document.states is not None
        text = [*document.prompt_ids, *document.token_ids[:-1]]
        behind = hidden_states(model.target, text)[len(document.prompt_ids) - 1 :]
        assert document.states.shape == behind.shape
        np.testing.assert_array_equal(document.states, behind.astype(np.float16))


def test_labels_end_with_their_text(model: Any, tmp_path: Path) -> None:
    file = FeatureFile(tmp_path, model.target.hidden_size)
    add_answers(file, model.target, PAIRS)
    read = file.read()
    base = FeatureBase(model.target, read, model.target.output_rows, name="tiny")
    answers = [answer for _, answer in PAIRS]
    expected = [
        [answer[at + i] if at + i < len(answer) else -100 for i in range(3)]
        for answer in answers
        for at in range(len(answer))
    ]
    batch = np.array([0, 2, 3, 3, 4, 7])
    states, ahead = base.states(batch, 3)
    assert ahead.dtype == torch.int64 and ahead.tolist() == [expected[number] for number in batch]
    np.testing.assert_array_equal(states.numpy(), read.states[batch].astype(np.float32))
    assert base.fingerprint() == model.target.fingerprint()
    assert (base.hidden_size, base.vocab_size, base.module) == (64, 300, None)


def test_the_output_matrix_of_a_base_is_the_models(model: Any, tmp_path: Path) -> None:
    file = FeatureFile(tmp_path, model.target.hidden_size)
    add_answers(file, model.target, PAIRS)
    base = FeatureBase(model.target, file.read(), model.target.output_rows, name="tiny")
    rows, scores = opened(model.target, [[5, 17, 3]])
    state, logits = torch.from_numpy(scores.hidden("final")), scores.logits(0, [0])
    model.target.free(rows)
    np.testing.assert_allclose(base.unembedding(None)(state).numpy(), logits, rtol=1e-4, atol=1e-5)
    ids = np.array([2, 40, 299])
    np.testing.assert_allclose(base.unembedding(ids)(state).numpy(), logits[:, ids], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("token", [-1, -100, 1 << 30])
def test_tokens_that_a_model_does_not_have_are_named(model: Any, tmp_path: Path, token: int) -> None:
    file = FeatureFile(tmp_path, model.target.hidden_size)
    file.add([(np.zeros((2, model.target.hidden_size), np.float16), [1, token])])
    with pytest.raises(OutpaceError, match=rf"tokens\.i32 .* token id {token}, accepted are 0 to .* remove"):
        FeatureBase(model.target, file.read(), model.target.output_rows, name="tiny")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_no_numbers_are_named(model: Any, tmp_path: Path, value: float) -> None:
    """Else the loss would be no number, and the learning rate blamed for it."""
    file = FeatureFile(tmp_path, model.target.hidden_size)
    states = np.zeros((2, model.target.hidden_size), np.float16)
    states[1, 0] = value
    file.add([(states, [1, 2])])
    base = FeatureBase(model.target, file.read(), model.target.output_rows, name="tiny")
    with pytest.raises(OutpaceError, match=r"states\.f16 holds numbers that are none; remove its folder"):
        base.states(np.arange(2), 2)


def test_batches_are_a_function_of_the_step(model: Any, tmp_path: Path) -> None:
    file = FeatureFile(tmp_path, model.target.hidden_size)
    add_answers(file, model.target, PAIRS)
    base = FeatureBase(model.target, file.read(), model.target.output_rows, name="tiny")
    batch = base.batches(50, seed=1)
    assert batch(3).tolist() == base.batches(50, seed=1)(3).tolist() != batch(4).tolist()
    assert batch(3).tolist() != base.batches(50, seed=2)(3).tolist()
    assert set(batch(0).tolist()) == set(range(8))

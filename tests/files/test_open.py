"""Opening a model: all sources give the same weights; the cache file is used, renewed and kept whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from gguf import GGMLQuantizationType, quants

from outpace.core.errors import FormatError, OutpaceError
from outpace.files import LoadedModel, catalog, open_model, unpack
from outpace.files.open import cache_folder, packed_path
from outpace.files.packed_copies import matching, packed_copies
from tests.fake_models import CHAT_TEMPLATE, EOS_ID, FAMILIES, TENSOR_TYPES, write_gguf, write_hf
from tests.special_files import SPECIAL

HF_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
HF_GEMMA_NAMES = HF_NAMES | {
    "post_attn_norm": "post_attention_layernorm.weight",
    "ffn_norm": "pre_feedforward_layernorm.weight",
    "post_ffn_norm": "post_feedforward_layernorm.weight",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def expected_weights(model: Any, family: str) -> dict[str, np.ndarray]:
    """The transformers model's weights under canonical names, norms as multipliers."""
    state = {name: value.float().numpy() for name, value in model.state_dict().items()}
    expected = {"embed": state["model.embed_tokens.weight"], "final_norm": state["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        expected["output"] = state["lm_head.weight"]
    names = HF_GEMMA_NAMES if family == "gemma3" else HF_NAMES
    for i in range(model.config.num_hidden_layers):
        for leaf, name in names.items():
            if f"model.layers.{i}.{name}" in state:
                expected[f"layers.{i}.{leaf}"] = state[f"model.layers.{i}.{name}"]
    if family == "gemma3":
        expected = {name: value + ("norm" in name) for name, value in expected.items()}
    return expected


def check_weights(opened: LoadedModel, expected: dict[str, np.ndarray], **tolerance: float) -> None:
    assert opened.weights.tensors.keys() == expected.keys()
    for name, tensor in opened.weights.tensors.items():
        options: dict[str, Any] = {"rtol": 0, **tolerance, "err_msg": name}
        np.testing.assert_allclose(unpack(tensor, opened.weights.buffer), expected[name], **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_hf_folder(tmp_path: Path, family: str) -> None:
    model = write_hf(tmp_path / "model", family)
    opened = open_model(tmp_path / "model")
    check_weights(opened, expected_weights(model, family))
    assert opened.config.architecture == family.split("_")[0].replace("llama3", "llama")
    assert opened.tokenizer.eos_ids == {EOS_ID}
    assert opened.chat is not None and opened.chat.source == CHAT_TEMPLATE


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_file(tmp_path: Path, family: str) -> None:
    model = write_gguf(tmp_path / "model.gguf", family)
    opened = open_model(str(tmp_path / "model.gguf"))
    check_weights(opened, expected_weights(model, family))
    assert opened.tokenizer.eos_ids == {EOS_ID}
    assert opened.chat is not None and opened.chat.source == CHAT_TEMPLATE


@pytest.mark.parametrize("tensor_type", TENSOR_TYPES)
def test_gguf_types(tmp_path: Path, tensor_type: str) -> None:
    size = 256 if tensor_type.endswith("_K") else 64
    path = tmp_path / "model.gguf"
    model = write_gguf(path, "llama", tensor_type=tensor_type, hidden_size=size, intermediate_size=size)
    # The scales and minimums of K-quants are rounded to f16, which changes each of them by at most 2**-11.
    tolerance = {"rtol": 2e-3, "atol": 1e-4} if tensor_type.endswith("_K") else {}
    check_weights(open_model(path), expected_weights(model, "llama"), **tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hf_types(tmp_path: Path, dtype: str) -> None:
    model = write_hf(tmp_path / "model", "llama3", dtype=dtype, sharded=True)
    opened = open_model(tmp_path / "model")
    check_weights(opened, expected_weights(model, "llama3"))
    kinds = {tensor.kind for tensor in opened.weights.tensors.values() if tensor.tile_bytes}
    assert kinds == {{"bfloat16": "bf16", "float16": "f16"}[dtype]}


@pytest.mark.parametrize(("quantize", "kind", "error"), [("q8", "q8s", 0.01), ("q4", "q4m", 0.1)])
def test_quantize(tmp_path: Path, quantize: str, kind: str, error: float) -> None:
    model = write_hf(tmp_path / "model", "qwen3")
    opened = open_model(tmp_path / "model", quantize=quantize)
    for name, expected in expected_weights(model, "qwen3").items():
        tensor = opened.weights.tensors[name]
        got = unpack(tensor, opened.weights.buffer)
        if expected.ndim == 1:
            np.testing.assert_array_equal(got, expected)
            continue
        assert tensor.kind == ("q8s" if name in ("embed", "output") else kind)
        assert np.sqrt(np.square(got - expected).mean()) < error * expected.std()


def test_quantize_leaves_quantised_matrices_alone(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", "qwen3", tensor_type="Q5_0")
    opened = open_model(tmp_path / "model.gguf", quantize="q4")
    check_weights(opened, expected_weights(model, "qwen3"))


def test_the_second_start_reads_only_the_cache_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2")
    seen: list[tuple[int, int, str]] = []
    first = open_model(path, progress=lambda *report: seen.append(report))
    assert seen
    status = path.stat()
    path.write_bytes(b"\0" * status.st_size)  # the same identity, nothing to read
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = open_model(path, progress=lambda *report: pytest.fail("packed again"))
    assert second.config.to_json() == first.config.to_json()
    assert second.weights.tensors == first.weights.tensors
    assert second.tokenizer.to_json() == first.tokenizer.to_json() and second.chat == first.chat
    assert [file.suffix for file in (cache / "packed").iterdir()] == [".outpace"]


def test_identity(tmp_path: Path) -> None:
    folder, path = tmp_path / "model", tmp_path / "model.gguf"
    write_hf(folder, "qwen2")
    write_gguf(path, "qwen2")
    for source, changed in (
        (folder, folder / "model.safetensors"),
        (folder, folder / "config.json"),
        (path, path),
    ):
        before = packed_path(source)
        assert before == packed_path(source.parent / "." / source.name)
        assert before != packed_path(source, quantize="q4")
        os.utime(changed, ns=(1, 1))
        assert packed_path(source) != before
    with pytest.raises(OutpaceError, match="cannot read"):
        packed_path(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "no tokenizer"])
def test_a_damaged_cache_file_is_rebuilt(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.gguf"
    model = write_gguf(path, "qwen2")
    open_model(path).close()
    cached = packed_path(path)
    content = cached.read_bytes()
    changes = {
        "cut": content[:-1],
        "header": content.replace(b'"hidden_size": 64', b'"hidden_size": 65'),
        "empty": b"",
        "no tokenizer": content.replace(b'"outpace"', b'"______"'),
    }
    assert changes[damage] != content
    cached.write_bytes(changes[damage])
    check_weights(open_model(path), expected_weights(model, "qwen2"))
    assert cached.read_bytes() == content


def flip(path: Path, at: int) -> None:
    """Changes one bit; sizes and times stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "part", ["layers.1.down", "embed", "final_norm", "tokenizer", "chat", "padding", "last"]
)
def test_one_flipped_bit_is_packed_anew_with_one_line(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.gguf"
    model = write_gguf(path, "qwen2")
    opened = open_model(path)
    cached, content = opened.weights.path, opened.weights.path.read_bytes()
    places = {name: tensor.offset + tensor.nbytes // 2 for name, tensor in opened.weights.tensors.items()}
    places |= {"tokenizer": content.rindex(b'"outpace"') + 300, "chat": content.rindex(b'"source"') + 20}
    places |= {"padding": opened.weights.tensors["embed"].offset - 1, "last": len(content) - 1}
    opened.close()
    assert not caplog.messages
    flip(cached, places[part])
    check_weights(open_model(path), expected_weights(model, "qwen2"))
    assert cached.read_bytes() == content
    (line,) = caplog.messages
    assert line.startswith(f"packing {path} anew: {cached}") and "damaged" in line and "\n" not in line
    open_model(path).close()
    assert len(caplog.messages) == 1


def test_a_file_of_an_older_version_is_replaced(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2")
    open_model(path).close()
    cached = packed_path(path)
    content = cached.read_bytes()
    start = json.dumps({"version": 1}).encode()
    cached.write_bytes(
        b"OUTPACE1"
        + struct.pack("<Q", len(start))
        + start
        + struct.pack("<I", zlib.crc32(start))
        + bytes(999)
    )
    open_model(path).close()
    assert cached.read_bytes() == content
    assert list((cache / "packed").iterdir()) == [cached]


@pytest.mark.parametrize("kind", sorted(SPECIAL))
def test_what_is_no_file_in_the_cache_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2")
    cached = packed_path(path)
    cached.parent.mkdir(parents=True)
    SPECIAL[kind](cached)
    if kind == "folder":
        with pytest.raises(OutpaceError, match=f"cannot write the packed model {cached}"):
            open_model(path)
    else:
        open_model(path).close()
        assert cached.is_file() and not cached.is_symlink()


@pytest.mark.parametrize("other", ["file", "bits", "folder"])
def test_a_packed_file_of_another_source_is_packed_anew(
    tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_hf(tmp_path / "mine", "qwen2")
    if other == "file":
        write_gguf(tmp_path / "other.gguf", "qwen2", seed=1)
        swapped = open_model(tmp_path / "other.gguf")
    elif other == "bits":
        swapped = open_model(tmp_path / "mine", quantize="q8")
    else:
        write_hf(tmp_path / "other", "qwen2", seed=1)
        swapped = open_model(tmp_path / "other")
    cached = packed_path(tmp_path / "mine")
    shutil.copy(swapped.weights.path, cached)
    swapped.close()
    check_weights(open_model(tmp_path / "mine"), expected_weights(model, "qwen2"))
    assert caplog.messages == [f"packing {tmp_path / 'mine'} anew: {cached} was packed from another source"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"\xff\xfe", "\u65e5\u672c \U0001f30a".encode(), b"a\nb|\x1b[31m"]
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_any_name_of_a_source(
    tmp_path: Path, name: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".gguf" * (kind == "file")))
    (write_gguf if kind == "file" else write_hf)(tmp_path / "plain", "qwen2")
    (tmp_path / "plain").rename(path)
    open_model(path).close()
    open_model(path).close()
    assert not caplog.messages
    (copy,) = packed_copies()
    assert (copy.source, copy.state) == (str(path), "source present")
    assert matching(str(path)) == [copy]


def test_links_in_a_circle_are_one_line(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2")
    for name in ("cache", "circle.gguf"):
        (tmp_path / name).symlink_to(name)
    with pytest.raises(OutpaceError, match=f"cannot write the packed model {cache}"):
        open_model(tmp_path / "model.gguf")
    with pytest.raises(OutpaceError, match="there is no file or folder"):
        open_model(tmp_path / "circle.gguf")
    with pytest.raises(OutpaceError, match=r"cannot read .*circle\.gguf: "):
        packed_path(tmp_path / "circle.gguf")
    cache.unlink()
    (cache / "models").mkdir(parents=True)
    installed = cache / "models" / f"{next(iter(catalog.CATALOG))}.gguf"
    installed.symlink_to(installed.name)
    open_model(tmp_path / "model.gguf").close()
    assert catalog.remove(installed.stem) == [installed]


def test_a_start_removes_what_killed_ones_have_left(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2")
    open_model(path).close()
    (cache / "models" / ".part-abc").mkdir(parents=True)
    (cache / "models" / ".part-abc" / "half.whl").write_bytes(b"half")
    (cache / "packed" / "x.outpace.0123456789ab.part").write_bytes(b"half")
    open_model(path).close()
    assert not list((cache / "models").iterdir())
    assert list((cache / "packed").iterdir()) == [packed_path(path)]


def test_several_may_pack_at_once(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.gguf"
    model = write_gguf(path, "qwen2")
    with ThreadPoolExecutor(4) as pool:
        opened = [pool.submit(open_model, path) for _ in range(4)]
    for one in opened:
        check_weights(one.result(), expected_weights(model, "qwen2"))
    assert list((cache / "packed").iterdir()) == [packed_path(path)]


def test_a_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2")
    for folder in ("/proc/none", str(path)):
        monkeypatch.setenv("OUTPACE_CACHE", folder)
        with pytest.raises(OutpaceError, match=r"cannot write .*\$OUTPACE_CACHE names another folder"):
            open_model(path)


def test_a_damaged_installed_model_is_fetched_before_it_is_packed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = tmp_path / "right.gguf"
    model = write_gguf(right, "qwen2")
    content = right.read_bytes()
    entry = catalog.Entry(
        description="a test",
        requirement="tiny==1",
        wheel_bytes=1,
        member="tiny.gguf",
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry)
    installed = cache / "models" / "tiny.gguf"
    installed.parent.mkdir(parents=True)
    installed.write_bytes(content)
    flip(installed, len(content) - 1000)
    monkeypatch.setattr(catalog, "_fetch", lambda name, progress: installed.write_bytes(content))
    check_weights(open_model("tiny"), expected_weights(model, "qwen2"))
    assert installed.read_bytes() == content
    (line,) = caplog.messages
    assert line.startswith("fetching tiny anew: ")


def test_no_chat_template(tmp_path: Path) -> None:
    write_hf(tmp_path / "model", "llama")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    assert open_model(tmp_path / "model").chat is None


def test_gemma3_inside_a_multimodal_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = write_hf(folder, "gemma3")
    text = json.loads((folder / "config.json").read_text())
    text.pop("tie_word_embeddings")
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    vision = {"vision_tower.encoder.weight": np.zeros((2, 2), np.float32)}
    expected = expected_weights(model, "gemma3")
    for prefix in ("language_model.model.", "model.language_model."):  # older and newer files
        renamed = {prefix + name.removeprefix("model."): value for name, value in weights.items()}
        safetensors.numpy.save_file(renamed | vision, folder / "model.safetensors")
        check_weights(open_model(folder), expected)


def test_a_tied_model_ignores_a_stored_output(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = write_hf(folder, "llama")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    check_weights(open_model(folder), expected_weights(model, "llama"))


def break_weights(folder: Path, **changes: np.ndarray | None) -> None:
    weights: dict[str, Any] = safetensors.numpy.load_file(folder / "model.safetensors") | changes
    kept = {name: value for name, value in weights.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({DOWN: None}, "tensor 'layers.1.down' is missing"),
        ({DOWN: np.zeros((64, 95), np.float32)}, r"'layers.1.down' has shape \(64, 95\).*needs \(64, 96\)"),
        ({DOWN: np.zeros((64, 96), np.int32)}, "has type I32; accepted: BF16, F16, F32"),
        (
            {"model.layers.7.mlp.up_proj.weight": np.zeros((96, 64), np.float32)},
            "no place in a model of 3 layers",
        ),
        ({"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}, "no supported architecture"),
        ({"layers.0.mlp.up_proj.weight": np.zeros((96, 64), np.float32)}, "are the same one"),
        ({"model.layers.0.self_attn.q_proj.bias": None}, "'layers.0.q_bias' is missing"),
        ({"model.norm.weight": np.full(64, np.nan, np.float32)}, "not finite"),
    ],
)
def test_wrong_tensors_are_refused_before_packing(
    tmp_path: Path, cache: Path, changes: dict[str, Any], message: str
) -> None:
    write_hf(tmp_path / "model", "qwen2")
    break_weights(tmp_path / "model", **changes)
    with pytest.raises(FormatError, match=message) as caught:
        open_model(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert not list(cache.glob("packed/*"))


def test_untied_without_output_is_refused(tmp_path: Path) -> None:
    write_hf(tmp_path / "model", "qwen3")
    break_weights(tmp_path / "model", **{"lm_head.weight": None})
    with pytest.raises(FormatError, match="tensor 'output' is missing"):
        open_model(tmp_path / "model")


def test_not_finite_weights_cannot_be_quantised(tmp_path: Path) -> None:
    write_hf(tmp_path / "model", "qwen2")
    break_weights(tmp_path / "model", **{DOWN: np.full((64, 96), np.inf, np.float32)})
    with pytest.raises(FormatError, match="not finite"):
        open_model(tmp_path / "model", quantize="q4")


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="there is no file or folder"):
        open_model(tmp_path / "absent.gguf")
    with pytest.raises(OutpaceError, match="there is no file or folder"):
        open_model("./absent")
    with pytest.raises(OutpaceError, match=r"has no config\.json and 0 \.gguf files"):
        open_model(tmp_path)
    write_hf(tmp_path / "model", "llama")
    with pytest.raises(OutpaceError, match="quantize is 'q5'; accepted: q8, q4"):
        open_model(tmp_path / "model", quantize="q5")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="has no weights"):
        open_model(tmp_path / "model")


def add_token(folder: Path, text: str, *, own: bool, **config: Any) -> None:
    """A token more than the matrix has rows: of the vocabulary itself, or an added one."""
    whole = json.loads((folder / "tokenizer.json").read_text())
    token_id = 310 if own else 300
    if own:
        whole["model"]["vocab"][text] = token_id
    else:
        entry = whole["added_tokens"][-1] | {"id": token_id, "content": text}
        whole["added_tokens"].append(entry)
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    place = folder / "tokenizer_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | config))


def test_tokens_without_a_row_are_refused(tmp_path: Path) -> None:
    for name in ("own", "added", "first"):
        write_hf(tmp_path / name, "llama", num_hidden_layers=1)
    add_token(tmp_path / "own", "zz", own=True)
    with pytest.raises(FormatError, match="has 'zz' behind the 300 rows of the model's matrix"):
        open_model(tmp_path / "own")
    add_token(tmp_path / "first", "<|first|>", own=False, bos_token="<|first|>", add_bos_token=True)
    with pytest.raises(FormatError, match="behind the 300 rows"):
        open_model(tmp_path / "first")
    add_token(tmp_path / "added", "<image>", own=False)  # as in Gemma 3 1B
    assert open_model(tmp_path / "added").tokenizer.token_id("<image>") == 300


def test_a_folder_with_one_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2")
    assert open_model(tmp_path).source == tmp_path / "model.gguf"
    shutil.copy(tmp_path / "model.gguf", tmp_path / "other.gguf")
    with pytest.raises(FormatError, match=r"2 \.gguf files; expected one"):
        open_model(tmp_path)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("OUTPACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "outpace"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "outpace"


def test_large_matrices_are_packed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    model = write_gguf(path, "llama", tensor_type="Q8_0")
    monkeypatch.setattr(
        "outpace.files.weights._CHUNK_VALUES", 64 * 20
    )  # one tile at a time, and q's rows permuted
    check_weights(open_model(path), expected_weights(model, "llama"))


def test_fakes_quantise_like_gguf(tmp_path: Path) -> None:
    """The fakes return what a file holds, not what it was made of."""
    exact, rounded = (write_gguf(tmp_path / t, "qwen2", tensor_type=t).state_dict() for t in ("F32", "Q4_0"))
    name = "model.layers.0.mlp.up_proj.weight"
    kind = GGMLQuantizationType.Q4_0
    expected = quants.dequantize(quants.quantize(exact[name].numpy(), kind), kind)
    np.testing.assert_array_equal(rounded[name].numpy(), expected)

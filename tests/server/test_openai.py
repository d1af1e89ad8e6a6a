"""OpenAI's own client, unmodified, against a server."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

import numpy as np
import openai
import pytest

from outpace.models.embedding import embedding
from tests.server.living import NAME, Living, living

MESSAGES: Any = [{"role": "user", "content": "the harbour was quiet"}]


@pytest.fixture
def client(server: Living) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def plain(server: Living, **options: object) -> str:
    made = server.model.generate(MESSAGES, draft=None, **options)  # type: ignore[call-overload]
    text: str = made.text
    return text


def test_a_chat(server: Living, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_completion_tokens=24, temperature=0, user="somebody"
    )
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", plain(server, max_tokens=24))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens == len(server.model.prompt_ids(MESSAGES))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    timings = answer.model_extra["timings"]  # type: ignore[index]
    assert timings["predicted_n"] == 24 and timings["draft_n"] >= timings["draft_n_accepted"] >= 0


def test_a_stream_adds_up_to_the_whole(server: Living, client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=NAME,
            messages=MESSAGES,
            max_tokens=24,
            temperature=0.8,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain(server, max_tokens=24, temperature=0.8, seed=3)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_answers_have_the_seeds_that_follow(server: Living, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_tokens=16, temperature=1, seed=5, n=3
    )
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [plain(server, max_tokens=16, temperature=1.0, seed=5 + number) for number in range(3)]
    assert len(set(texts)) == 3
    assert answer.usage is not None and answer.usage.completion_tokens == 48
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_tokens=16, temperature=1, seed=5, n=3, stream=True
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_no_seed_is_another_one_every_time(client: openai.OpenAI) -> None:
    texts = {
        client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=16)
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_models_own(server: Living, client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0.9, "seed": 1}
    given: Any = client.chat.completions.create(
        model=NAME, messages=MESSAGES, logprobs=True, top_logprobs=3, stream=stream, **options
    )
    entries: list[Any] = []
    for chunk in given if stream else [given]:
        found = chunk.choices[0].logprobs
        entries += (found.content or []) if found else []
    wanted = server.model.generate(MESSAGES, draft=None, logprobs=3, **options).logprobs
    assert wanted is not None and len(entries) == len(wanted) == 16
    tokenizer = server.model.tokenizer
    for entry, one in zip(entries, wanted, strict=True):
        assert entry.logprob == one.logprob
        assert bytes(entry.bytes) == tokenizer.token_bytes(one.token)
        assert [top.logprob for top in entry.top_logprobs] == [logprob for _, logprob in one.top]


def test_completions(server: Living, client: openai.OpenAI) -> None:
    prompts = ["the boats", "a gull on the rail"]
    answer = client.completions.create(
        model=NAME, prompt=prompts, max_tokens=12, temperature=0.7, seed=2, n=2, echo=True
    )
    wanted = [
        prompt + server.model.generate(prompt, raw=True, max_tokens=12, temperature=0.7, seed=seed).text
        for prompt in prompts
        for seed in (2, 3)
    ]
    assert [choice.text for choice in answer.choices] == wanted
    ids = server.model.tokenizer.encode("the boats", add_special_tokens=True)
    streamed = client.completions.create(
        model=NAME, prompt=ids, max_tokens=12, temperature=0.7, seed=2, stream=True, logprobs=2
    )
    text, tokens, offsets = "", [], []
    for chunk in streamed:
        text += chunk.choices[0].text
        if chunk.choices[0].logprobs:
            tokens += chunk.choices[0].logprobs.tokens or []
            offsets += chunk.choices[0].logprobs.text_offset or []
    assert text == wanted[0].removeprefix("the boats")
    assert len(tokens) == 12
    assert offsets == [sum(map(len, tokens[:number])) for number in range(12)]


def test_the_async_client(server: Living) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=NAME, messages=MESSAGES, max_tokens=12, temperature=0.9, seed=seed
                    )
                    for seed in range(8)
                )
            )
            texts = [answer.choices[0].message.content or "" for answer in answers]
            stream = await client.chat.completions.create(
                model=NAME, messages=MESSAGES, max_tokens=12, temperature=0.9, seed=8, stream=True
            )
            return [*texts, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])]

    assert asyncio.run(ask()) == [
        plain(server, max_tokens=12, temperature=0.9, seed=seed) for seed in range(9)
    ]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'other', accepted are tiny"):
        client.models.retrieve("other")


def test_errors_are_the_clients_own(server: Living, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="accepted are finite numbers >= 0") as wrong:
        client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "the " * 2000}])
    assert long.value.code == "context_length_exceeded"


def test_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    with living(tmp_path_factory.mktemp("keys"), keys=["first key", "second"]) as server:
        for key in ("first key", "second"):
            openai.OpenAI(base_url=server.url, api_key=key).models.list()
        for key in ("first", "x" * 10_000, "first keyy", "FIRST KEY"):
            with pytest.raises(openai.AuthenticationError):
                openai.OpenAI(base_url=server.url, api_key=key, max_retries=0).models.list()
        assert server.ask("GET", "/v1/models")[0] == 401
        assert server.ask("POST", "/v1/completions", b"x" * 100)[0] == 401
        assert server.ask("GET", "/health")[0] == 200
        assert server.ask("GET", "/metrics")[0] == 401


def test_embeddings(server: Living, client: openai.OpenAI) -> None:
    texts = ["the harbour was quiet", "two boats"]
    wanted = [
        embedding(server.model.target, server.model.tokenizer.encode(text, add_special_tokens=True))
        for text in texts
    ]
    for encoding in ("float", "base64", None):  # the client asks for base64 by itself, and decodes it
        options: Any = {} if encoding is None else {"encoding_format": encoding}
        answer = client.embeddings.create(model=NAME, input=texts, **options)
        found = [one.embedding for one in answer.data]
        if encoding == "base64":
            found = [np.frombuffer(base64.b64decode(cast(Any, one)), "<f4").tolist() for one in found]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    last = client.embeddings.create(model=NAME, input=[5, 6, 7], extra_body={"pooling": "last"})
    np.testing.assert_allclose(
        last.data[0].embedding, embedding(server.model.target, [5, 6, 7], pooling="last"), rtol=1e-6
    )
    assert last.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError, match="accepted are ids from 0"):
        client.embeddings.create(model=NAME, input=[10**6])
    with pytest.raises(openai.BadRequestError, match="context holds"):
        client.embeddings.create(model=NAME, input="the " * 2000)


def test_a_conversation_is_not_read_again(server: Living, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "the pier " * 40}]
    first = client.chat.completions.create(model=NAME, messages=messages, max_tokens=24, temperature=0)
    text = first.choices[0].message.content
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "and then"}]
    second = client.chat.completions.create(model=NAME, messages=messages, max_tokens=24, temperature=0)
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached is not None and cached >= len(server.model.prompt_ids("the pier " * 40)) - 8
    assert second.model_extra is not None and second.model_extra["timings"]["cache_n"] == cached
    wanted = server.model.generate(messages, draft=None, max_tokens=24).text
    assert second.choices[0].message.content == wanted

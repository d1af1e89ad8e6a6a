"""Requests of all kinds, sent side by side in random order: each gets what plain decoding gives it alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server.living import NAME, Living

WORDS = "the harbour was quiet and two boats lay at the pier the boats turned with the wind".split()
COUNT = 200


def requests() -> list[dict[str, Any]]:
    """Bodies of both kinds of texts with mixed options; each has a seed."""
    rng = random.Random(7)
    made = []
    for number in range(COUNT):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))
        body: dict[str, Any] = {"max_tokens": rng.randint(1, 40), "seed": number}
        body["temperature"] = rng.choice([0, 0, 0.7, 1.3])
        options: list[dict[str, Any]] = [
            {"top_k": 20},
            {"top_p": 0.8},
            {"min_p": 0.05},
            {"presence_penalty": 1.5},
            {"frequency_penalty": 0.4},
            {"repetition_penalty": 1.3},
            {"logit_bias": {"70": 4.0, "71": -100.0}},
            {"stop": ["e", "zz"]},
            {"stop_token_ids": [75, 80, 85]},
            {"min_tokens": 1},
            {"ignore_eos": True},
            {"speculative.n_max": 3},
            {"n": 2},
        ]
        for option in rng.sample(options, rng.randint(0, 4)):
            body |= option
        if rng.random() < 0.6:
            body["messages"] = [{"role": "user", "content": text}]
            if rng.random() < 0.3:
                body |= {"logprobs": True, "top_logprobs": 2}
        else:
            body["prompt"] = text
        made.append(body)
    return made


def alone(server: Living, body: dict[str, Any]) -> list[tuple[str, str, int, list[float]]]:
    """What the library writes for a body: (text, finish reason, number of tokens, log-probabilities)."""
    options = dict(body)
    count, seed = options.pop("n", 1), options.pop("seed")
    options.pop("speculative.n_max", None)
    if "logit_bias" in options:
        options["logit_bias"] = {int(token): bias for token, bias in options["logit_bias"].items()}
    if options.pop("logprobs", False):
        options["logprobs"] = options.pop("top_logprobs")
    prompt: Any = options.pop("messages", None)
    if prompt is None:
        prompt = options.pop("prompt")
        options |= {"raw": True, "parse_special": True}
    found = []
    for number in range(count):
        one = server.model.generate(prompt, draft=None, seed=seed + number, **options)
        logprobs = [entry.logprob for entry in one.logprobs or ()]
        found.append((one.text, one.finish_reason, one.stats.completion_tokens, logprobs))
    return found


def served(server: Living, body: dict[str, Any]) -> tuple[list[tuple[str, str, int, list[float]]], int]:
    """What the server answers, and how many tokens it has drafted for the first of its texts."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    status, _, answer = server.ask("POST", path, {"model": NAME, **body})
    assert status == 200, answer
    found = []
    for choice in answer["choices"]:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        entries = (choice["logprobs"] or {}).get("content") or []
        logprobs = [entry["logprob"] for entry in entries]
        found.append((text, choice["finish_reason"], answer["usage"]["completion_tokens"], logprobs))
    return found, answer["timings"]["draft_n"]


@pytest.fixture(scope="module")
def expected(server: Living) -> list[list[tuple[str, str, int, list[float]]]]:
    return [alone(server, body) for body in requests()]


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_every_answer_is_that_of_plain_decoding(
    server: Living, expected: list[list[tuple[str, str, int, list[float]]]], concurrency: int
) -> None:
    order = list(enumerate(requests()))
    random.Random(concurrency).shuffle(order)
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(lambda one: served(server, one[1]), order))
    drafted = 0
    for (number, body), (found, draft_n) in zip(order, answers, strict=True):
        wanted = expected[number]
        total = sum(length for _, _, length, _ in wanted)
        assert found == [(text, reason, total, logprobs) for text, reason, _, logprobs in wanted], body
        drafted += draft_n
    assert drafted > 0, "no draft: nothing was tried"  # how many pay is the clock's matter

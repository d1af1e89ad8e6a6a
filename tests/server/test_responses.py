"""/v1/responses by OpenAI's client, whole and streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest

from outpace.engine.request import Generation
from outpace.server.responses import ResponsesForm
from tests.server.living import NAME, Living


@pytest.fixture
def client(server: Living) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def test_a_text_is_answered(server: Living, client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=NAME, input="two boats", instructions="be brief", temperature=0, max_output_tokens=20
    )
    wanted = server.model.generate("two boats", system="be brief", draft=None, max_tokens=20)
    assert answer.output_text == wanted.text
    assert answer.usage is not None
    assert (answer.usage.output_tokens, answer.usage.input_tokens) == (20, wanted.prompt_tokens)
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_a_conversation_brings_its_answers_back(server: Living, client: openai.OpenAI) -> None:
    first = client.responses.create(model=NAME, input="two boats", temperature=0, max_output_tokens=8)
    history: list[Any] = [{"role": "user", "content": "two boats"}]
    history += [item.model_dump(exclude_unset=True) for item in first.output]
    history += [{"role": "user", "content": [{"type": "input_text", "text": "a gull"}]}]
    second = client.responses.create(model=NAME, input=history, temperature=0, max_output_tokens=8)
    messages = [
        {"role": "user", "content": "two boats"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "a gull"},
    ]
    assert second.output_text == server.model.generate(messages, draft=None, max_tokens=8).text


def test_a_stream_has_the_events_that_clients_wait_for(server: Living, client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(
            model=NAME, input="two boats", temperature=0, max_output_tokens=20, stream=True
        )
    )
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(deltas) == server.model.generate("two boats", draft=None, max_tokens=20).text
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.output_text == "".join(deltas)


def test_a_text_that_ends_by_itself_is_complete(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResponsesForm.closing

    def ended(form: ResponsesForm, results: Sequence[Generation]) -> list[dict[str, Any]]:
        return real(form, [replace(result, finish_reason="stop") for result in results])

    monkeypatch.setattr(ResponsesForm, "closing", ended)
    with client.responses.stream(model=NAME, input="two boats", max_output_tokens=9) as stream:
        final = stream.get_final_response()
    assert final.status == final.output[0].status == "completed"  # type: ignore[union-attr]
    assert final.incomplete_details is None and final.usage is not None and final.usage.output_tokens == 9


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
    ],
)
def test_what_is_not_supported_is_named(client: openai.OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=NAME, **{"input": "a", **options})
    assert str(refused.value.param).startswith(param)

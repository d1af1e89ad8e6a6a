"""The default model with a JSON schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("llguidance")
import outpace
from outpace.drafters.forced import Forced
from outpace.drafters.none import NoDraft
from outpace.files import catalog

MODEL = "smollm2-135m-instruct"
SCHEMA = {
    "type": "object",
    "properties": {
        "material": {"enum": ["wood", "metal", "plastic"]},
        "name": {"type": "string", "maxLength": 24},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["material", "name", "legs"],
    "additionalProperties": False,
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        MODEL not in catalog.installed(),
        reason=f"{MODEL} is not installed (outpace models pull {MODEL})",
    ),
]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 3}], ids=["greedy", "sampled"])
def test_json_of_a_schema(sampling: dict[str, Any]) -> None:
    with outpace.load(MODEL, threads=1) as model:
        wanted: dict[str, Any] = {
            "grammar": outpace.Grammar.json_schema(SCHEMA),
            "max_tokens": 80,
            **sampling,
        }
        plain = model.generate("Describe a chair.", draft="none", **wanted)
        found = json.loads(plain.text)
        assert plain.finish_reason == "stop" and list(found) == ["material", "name", "legs"]
        assert found["material"] in ("wood", "metal", "plastic") and len(found["name"]) <= 24
        assert type(found["legs"]) is int and 0 <= found["legs"] <= 9
        for draft in ("ngram", "mix", Forced(NoDraft())):
            drafted = model.generate("Describe a chair.", draft=draft, **wanted)
            assert drafted.token_ids == plain.token_ids and drafted.text == plain.text
            assert drafted.stats.target_calls < plain.stats.target_calls

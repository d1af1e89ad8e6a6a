"""Every reader of the package by name. One that is not here is not fuzzed."""

from __future__ import annotations

from tests.fuzz.of_extras import EXTRA_READERS
from tests.fuzz.of_models import MODEL_READERS
from tests.fuzz.of_texts import TEXT_READERS
from tests.fuzz.reader import Reader

READERS: dict[str, Reader] = MODEL_READERS | TEXT_READERS | EXTRA_READERS

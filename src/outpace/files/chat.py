"""Chat templates: a list of messages to the text that a model was trained on.

A template is a Jinja program that comes with the model, so it runs in a sandbox (`chat_sandbox.py`). Filters,
functions and white space follow transformers, which defined the format: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.chat_sandbox import MOST_SOURCE, ChatEnvironment, Unbounded, budgeted
from outpace.files.regular import open_regular
from outpace.files.tokenizer import read_json, special_text


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One model's chat template; `bos_token` and `eos_token` are the texts that it may write."""

    source: str
    bos_token: str = ""
    eos_token: str = ""

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> ChatTemplate | None:
        """The template of a GGUF file, or None where it has none. Raises FormatError."""
        source = metadata.get("tokenizer.chat_template")
        if source is None:
            return None
        if not isinstance(source, str):
            raise FormatError(f"tokenizer.chat_template must be a string, not a {type(source).__name__}")
        return cls(source, _token_text(metadata, "bos"), _token_text(metadata, "eos"))

    @classmethod
    def from_folder(cls, folder: str | Path) -> ChatTemplate | None:
        """The template of a Hugging Face folder, or None where it has none. Raises FormatError.

        `chat_template.jinja` comes before the `chat_template` of tokenizer_config.json; of several named
        templates there, the one called "default" is taken, else the first.
        """
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json")
        source: Any = _read_template(folder / "chat_template.jinja")
        if source is None:
            source = config.get("chat_template")
        if isinstance(source, list):
            entries = [entry for entry in source if isinstance(entry, dict)]
            entries.sort(key=lambda entry: entry.get("name") != "default")
            source = entries[0].get("template") if entries else None
        if source is None:
            return None
        if not isinstance(source, str):
            raise FormatError(
                f"{folder / 'tokenizer_config.json'}: chat_template must be a string or a list of them"
            )
        return cls(source, special_text(config, "bos_token") or "", special_text(config, "eos_token") or "")

    def render(
        self, messages: Sequence[Mapping[str, Any]], /, *, add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        """The prompt text of `messages`, each a mapping with a `role` and (mostly) a `content`.

        `add_generation_prompt` opens the assistant's turn at the end. `extra` are further variables of the
        template (`tools`, `enable_thinking` ...). Raises OutpaceError where the template refuses.
        """
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise OutpaceError(
                    "every message must be a mapping with a role (system, user, assistant) and a content"
                )
        variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        variables |= {**extra, "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            template = _compile(self.source)
            with budgeted(variables):
                return template.render(variables)
        except OutpaceError:
            raise
        except Unbounded as error:
            raise OutpaceError(f"the chat template was stopped: {error}") from None
        except TemplateSyntaxError as error:
            raise _malformed(error) from None
        except TemplateError as error:
            raise OutpaceError(f"the chat template refuses the messages: {_line(error)}") from None
        except Exception as error:  # a template can fail like any program
            name = type(error).__name__
            raise OutpaceError(f"the chat template fails with {name}: {_line(error)}") from None

    def names(self) -> frozenset[str]:
        """The variables that the template reads. Raises OutpaceError for a template that is malformed."""
        try:
            return _names(self.source)
        except TemplateSyntaxError as error:
            raise _malformed(error) from None
        except RecursionError:
            raise OutpaceError("the chat template is malformed: it is nested too deeply") from None


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    return _environment().program(source)


@lru_cache(maxsize=16)
def _names(source: str) -> frozenset[str]:
    _compile(source)  # which refuses what is too long
    names = _environment().parse(source).find_all(nodes.Name)
    return frozenset(node.name for node in names if node.ctx == "load")


def _environment() -> ChatEnvironment:
    environment = ChatEnvironment(filters={"tojson": _tojson})
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _malformed(error: TemplateSyntaxError) -> OutpaceError:
    return OutpaceError(f"the chat template is malformed in line {error.lineno}: {_line(error)}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which a prompt is not.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_template(path: Path) -> str | None:
    """The text of a template's own file; None where there is none. Raises FormatError."""
    if not os.path.lexists(path):
        return None
    try:
        with open_regular(path) as file:
            data = file.read(4 * MOST_SOURCE + 1)
        if len(data) > 4 * MOST_SOURCE:
            raise FormatError(f"{path} is longer than the {MOST_SOURCE} letters that a template may have")
        return data.decode()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not UTF-8 text") from None


def _token_text(metadata: Mapping[str, Any], name: str) -> str:
    token_id, tokens = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata.get("tokenizer.ggml.tokens")
    if not isinstance(token_id, int) or not isinstance(tokens, Sequence) or not 0 <= token_id < len(tokens):
        return ""
    return str(tokens[token_id])

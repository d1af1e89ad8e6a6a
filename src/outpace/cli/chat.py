"""`outpace chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from outpace.cli import options, render, streams
from outpace.cli.interrupts import INTERRUPTS
from outpace.core.errors import OutpaceError, PromptTooLong

HELP = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C cuts an answer short"


def chat(
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    tree: options.Tree = None,
    rule: options.Rule = "match",
    max_tokens: options.MaxTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    system: options.System = None,
    tools: options.Tools = None,
    template_option: options.TemplateOptions = None,
    parse_special: options.ParseSpecial = False,
    threads: options.Threads = None,
) -> int:
    """Talk with a model.

    Standard input may be a pipe: one line is one turn, and only /reset and /quit are commands.
    """
    method = options.method_option(draft, tree, rule)
    request: dict[str, Any] = {
        "tree": method.tree,
        "rule": method.rule,
        "max_tokens": max_tokens,
        **options.sampling_options(temperature, top_k, top_p, min_p, seed),
        **options.template_options(system, tools, template_option, parse_special),
    }
    system = request.pop("system")
    loaded = render.load_model(model, threads=threads)
    request["draft"] = options.with_own_draft(method, loaded, draft).draft
    loaded.prepare(request["draft"], tree=method.tree, rule=method.rule)
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - gives input() its line editing and history

        render.note(f"{model}. {HELP}.")
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    failed = False
    while (line := _read_turn(interactive)) is not None:
        if not line.strip():
            continue
        if line.strip() == "/quit":
            break
        if line.strip() == "/reset":
            messages = list(opening)
            continue
        if interactive and line.startswith("/"):
            render.note(HELP)
            continue
        messages.append({"role": "user", "content": line})
        answer: list[str] = []
        try:
            stream = loaded.stream(messages, **request)
            with render.StreamedText() as out:
                for piece in stream:
                    answer.append(piece)
                    out.write(piece)
        except KeyboardInterrupt:
            if not interactive:
                raise
            INTERRUPTS.came = False  # it is answered: the conversation goes on
        except PromptTooLong as error:
            messages.pop()
            failed = True
            render.print_error(f"{error}; /reset starts a new conversation")
            continue
        else:
            if interactive and sys.stderr.isatty():
                render.note(f"[{render.figures(stream.result)}]")
        messages.append({"role": "assistant", "content": "".join(answer)})
    return 2 if failed and not interactive else 0


def _read_turn(interactive: bool) -> str | None:
    if not interactive:
        return streams.read_line()
    try:
        return streams.utf8("the message", input("> "))
    except UnicodeDecodeError:
        raise OutpaceError("the message is not UTF-8 text") from None
    except EOFError:
        print()
        return None

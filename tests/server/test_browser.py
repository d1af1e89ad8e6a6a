"""The page in a real Chromium: a conversation, plain decoding beside it, the view of a trace, files.

Pictures of every part go to the folder $OUTPACE_PICTURES, or to that of the test.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from outpace.cli.main import main
from tests.server.browsing import browser, chromium, page
from tests.server.living import NAME, Living, living, tiny_gguf

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAM = chromium()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium on PATH or in $CHROMIUM; on Debian: apt-get install chromium"
)
MESSAGE = "the harbour was quiet, the harbour was"
TOKENS = 60


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    pytest.importorskip("playwright", reason="drives the browser")
    assert PROGRAM is not None
    with browser(PROGRAM) as made:
        yield made


@pytest.fixture
def shown(opened: Browser, server: Living) -> Iterator[Page]:
    with page(opened, address(server)) as made:
        yield made


def address(server: Living) -> str:
    return f"http://127.0.0.1:{server.port}/"


def picture(shown: Page, folder: Path, name: str) -> None:
    place = Path(os.environ.get("OUTPACE_PICTURES", folder))
    shown.screenshot(path=place / f"{name}.png", full_page=True)


def send(shown: Page, message: str = MESSAGE, *, temperature: str = "0.8", seed: str = "3") -> None:
    shown.fill("#temperature", temperature)
    shown.fill("#seed", seed)
    shown.fill("#max-tokens", str(TOKENS))
    shown.fill("#message", message)
    shown.press("#message", "Enter")
    shown.wait_for_selector("article.assistant:last-child[aria-busy=false] .actions button:enabled")


def texts(shown: Page) -> list[str]:
    return [text or "" for text in shown.locator("article.assistant .text").evaluate_all(TEXTS)]


TEXTS = "all => all.map(one => one.textContent)"


def api(server: Living, messages: list[dict[str, str]], **options: Any) -> Any:
    body = {"model": NAME, "messages": messages, "max_tokens": TOKENS, **options}
    return server.ask("POST", "/v1/chat/completions", body)[2]


def test_a_conversation_has_the_answers_of_the_api(shown: Page, server: Living, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": MESSAGE}]
    answer = api(server, messages, temperature=0.8, seed=3)
    content = answer["choices"][0]["message"]["content"]
    send(shown)
    assert texts(shown) == [content]
    assert shown.locator(".assistant .token").count() >= 1
    assert figure(shown, "tokens") == str(TOKENS) and figure(shown, "seed") == "3"
    assert float(figure(shown, "tokens/s")) > 0 and figure(shown, "first token").endswith(" s")
    picture(shown, tmp_path, "conversation")
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": "two boats"}]
    shown.fill("#system", "Be brief.")
    send(shown, "two boats")
    system = [{"role": "system", "content": "Be brief."}]
    wanted = api(server, system + messages, temperature=0.8, seed=3)
    assert texts(shown) == [content, wanted["choices"][0]["message"]["content"]]


def figure(shown: Page, name: str) -> str:
    row = shown.locator("article.assistant .figures div").filter(has=shown.locator(f"dt:text-is('{name}')"))
    return row.locator("dd").last.inner_text()


def test_drafted_tokens_are_marked_and_plain_decoding_says_the_same(
    shown: Page, server: Living, tmp_path: Path
) -> None:
    send(shown, temperature="0")
    kept = shown.locator(".assistant .token.kept").count()
    assert kept == int(figure(shown, "kept")) > 0
    assert kept + shown.locator(".assistant .token.own").count() == TOKENS
    assert float(figure(shown, "tokens per call")) > 1
    assert shown.locator("#legend li").count() >= 3
    dropped = shown.locator(".token[data-dropped]").first
    before = "one => getComputedStyle(one, '::before').content"
    assert dropped.evaluate(before) == "none"
    shown.check("#show-dropped")
    assert dropped.evaluate(before) not in ("none", '""')
    shown.get_by_role("button", name="Beside plain").click()
    shown.wait_for_selector(".verdict")
    verdict = shown.locator(".verdict").inner_text()
    assert re.fullmatch(r"\d+\.\d\d times as fast\. The text is identical\.", verdict)
    assert shown.locator(".beside .value").count() == 2
    picture(shown, tmp_path, "plain")


def test_the_view_of_a_trace_by_keyboard_alone(shown: Page, tmp_path: Path) -> None:
    send(shown, temperature="0")
    kept = int(figure(shown, "kept"))
    shown.get_by_role("button", name="Trace", exact=True).focus()
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#trace:not([hidden])")
    assert shown.locator("#tree .node").count() > 2
    seen, steps = 0, int(shown.get_attribute("#step", "max") or 0)
    shown.focus("#step")
    shown.keyboard.press("Home")
    for number in range(1, steps + 1):
        assert shown.inner_text("#step-name") == f"step {number} of {steps}"
        seen += shown.locator("#tree .node.kept").count()
        shown.keyboard.press("ArrowRight")
    assert seen == kept
    picture(shown, tmp_path, "trace")
    with shown.expect_download() as saved:
        shown.click("#save-trace")
    trace = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert (trace["kind"], len(trace["steps"])) == ("outpace trace", steps)
    shown.click("#back")
    assert shown.locator("#log").is_visible()
    assert "".join(piece for step in trace["steps"] for piece in step["said"]) == texts(shown)[0]


def test_files_of_the_command_line(
    shown: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "one.json"
    args = ["-m", str(tiny_gguf(tmp_path)), "--max-tokens", "30", "--draft", "ngram", "--trace", str(place)]
    assert main(["generate", MESSAGE, *args]) == 0
    said = capsys.readouterr().out.rstrip("\n")
    shown.set_input_files("#trace-file", place)
    shown.wait_for_selector("#trace:not([hidden])")
    assert (shown.text_content("#trace-text") or "").rstrip("\n") == said
    assert "drafts by ngram" in shown.inner_text("#trace-title")


STEP: dict[str, Any] = {
    "tree": {"tokens": [1, 2, 3], "texts": ["a", "b", "c"], "parents": [-1, 0, 0]},
    "kept": [2],
    "own": {"token": 4, "text": "<img src=x onerror=alert(1)>"},
    "said": ["c", "<b>d</b>"],
    "draft_s": 0,
    "call_s": 0.1,
}
TRACE: dict[str, Any] = {"version": 1, "kind": "outpace trace", "steps": [STEP]}


def with_step(**changes: Any) -> str:
    return json.dumps({**TRACE, "steps": [STEP, {**STEP, **changes}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("null", "it is no trace, accepted is what outpace generate --trace writes"),
        ("[]", "it is no trace"),
        (json.dumps({**TRACE, "version": 2}), "its version is 2, accepted is 1"),
        (json.dumps({**TRACE, "steps": []}), "it has no steps"),
        (json.dumps({**TRACE, "steps": [None]}), "step 1 has a wrong tree"),
        (with_step(tree={"tokens": [1], "texts": [], "parents": [-1]}), "step 2 has a wrong texts"),
        (with_step(tree={**STEP["tree"], "parents": [-1, 0, 2]}), "step 2 has a wrong parents"),
        (with_step(kept=[1, 2]), "step 2 has a wrong kept"),
        (with_step(kept=None), "step 2 has a wrong kept"),
        (with_step(own="d"), "step 2 has a wrong own"),
        (with_step(said=["c"]), "step 2 has a wrong said"),
        (with_step(call_s="1"), "step 2 has a wrong call_s"),
    ],
    ids=lambda one: one[:30],
)
def test_a_file_that_is_no_trace_gets_a_line(shown: Page, text: str, said: str) -> None:
    shown.set_input_files("#trace-file", {"name": "<i>.json", "mimeType": "", "buffer": text.encode()})
    shown.wait_for_selector("#notice:not([hidden])")
    notice = shown.inner_text("#notice")
    assert notice.startswith(f"<i>.json cannot be opened: {said}") and "\n" not in notice
    assert shown.locator("#chat").is_visible()


def test_a_strange_trace_stays_text(shown: Page) -> None:
    strange = {**TRACE, "model": "<script>alert(1)</script>", "draft": {"a": 1}, "sampling": "x"}
    count = 3000
    wide = {"tokens": [0] * count, "texts": ["<b>"] * count, "parents": [-1, *[0] * (count - 1)]}
    strange["steps"] = [STEP, {**STEP, "tree": wide}]
    given: Any = {"name": "x.json", "mimeType": "", "buffer": json.dumps(strange).encode()}
    shown.set_input_files("#trace-file", given)
    shown.wait_for_selector("#trace:not([hidden])")
    assert shown.text_content("#trace-text") == "c<b>d</b>c<b>d</b>"
    assert shown.locator("#trace b, #trace img, #trace script").count() == 0
    shown.click("#later")
    assert shown.locator("#tree .node").count() == 301
    assert shown.inner_text("#tree-note") == "2700 further nodes are not drawn."


def test_stop_cancels_the_request(shown: Page, server: Living) -> None:
    shown.fill("#max-tokens", "470")
    shown.fill("#message", "a")
    shown.route("**/v1/chat/completions", lambda route: None)  # it never gets an answer
    shown.press("#message", "Enter")
    shown.click("#stop")
    shown.wait_for_selector(".assistant .notice:not([hidden])")
    assert shown.inner_text(".assistant .notice") == "Stopped."
    shown.unroute("**/v1/chat/completions")
    send(shown)
    assert len(texts(shown)[-1]) > 0 and server.house.of(NAME).worker.num_here == 0


def test_what_is_out_of_range_is_not_sent(shown: Page) -> None:
    shown.fill("#temperature", "-1")
    shown.fill("#message", "a")
    shown.press("#message", "Enter")
    assert shown.locator("article").count() == 0
    assert shown.evaluate("document.activeElement.id") == "temperature"


def test_a_key_is_asked_for(opened: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with living(tmp_path_factory.mktemp("keys"), keys=["secret"]) as server:
        place = opened.new_context()
        shown = place.new_page()
        shown.goto(address(server))
        shown.wait_for_selector("#key-form:not([hidden])")
        assert "API key" in shown.inner_text("#notice")
        shown.fill("#key", "wrong")
        shown.press("#key", "Enter")
        shown.locator("#notice", has_text="wrong").wait_for()
        shown.fill("#key", "secret")
        shown.press("#key", "Enter")
        shown.wait_for_selector("#model option", state="attached")
        send(shown)
        assert len(texts(shown)[0]) > 0 and shown.locator("#notice").is_hidden()
        place.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window(opened: Browser, server: Living, tmp_path: Path, scheme: Any) -> None:
    size: Any = {"width": 360, "height": 700}
    with page(opened, address(server), viewport=size, color_scheme=scheme) as shown:
        assert shown.locator("#model").is_hidden()
        shown.click("#settings summary")
        send(shown, temperature="0")
        wide = "document.documentElement.scrollWidth"
        assert shown.evaluate(wide) <= 360
        picture(shown, tmp_path, f"narrow_{scheme}")
        shown.get_by_role("button", name="Trace", exact=True).click()
        shown.wait_for_selector("#trace:not([hidden])")
        assert shown.evaluate(wide) <= 360

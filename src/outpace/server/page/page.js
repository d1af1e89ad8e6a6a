// The page: settings, a conversation, and the view of a trace. What runs at a time is one request.

import { Answer } from "./answer.js";
import { models, useKey } from "./api.js";
import { at, make, showLegend } from "./elements.js";
import { MOST_BYTES, readTrace, sourcesOf } from "./trace.js";
import { showTrace, shownTrace, startView } from "./view.js";

const messages = []; // of the conversation, without the system message
const met = new Set(); // drafters of its answers
let running = null; // what stops the request that runs

function start() {
  at("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  at("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("composer").requestSubmit();
    }
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("clear").addEventListener("click", clear);
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(at("key").value.trim());
    listModels();
  });
  at("show-dropped").addEventListener("change", (event) => {
    at("log").classList.toggle("show-dropped", event.target.checked);
  });
  at("open-trace").addEventListener("click", () => at("trace-file").click());
  at("trace-file").addEventListener("change", openFile);
  at("back").addEventListener("click", () => showPart("chat"));
  at("save-trace").addEventListener("click", () => save(shownTrace()));
  at("settings").open = !matchMedia("(max-width: 50rem)").matches;
  startView();
  showLegend(at("legend"), []);
  listModels();
}

async function listModels() {
  try {
    const names = await models();
    at("model").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    at("key-form").hidden = true;
    say("");
  } catch (error) {
    if (error.status === 401) {
      at("key-form").hidden = false;
      at("settings").open = true;
    }
    say(error.message);
  }
}

/** A line at the top; none for "". */
function say(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

/** The body of a request for the conversation as it stands. */
function bodyOf() {
  const system = at("system").value.trim();
  const body = {
    model: at("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    seed: numberIn("seed") ?? Math.floor(Math.random() * 2 ** 32),
  };
  const temperature = numberIn("temperature"), most = numberIn("max-tokens");
  return {
    ...body,
    ...(temperature === null ? {} : { temperature }),
    ...(most === null ? {} : { max_tokens: most }),
  };
}

function numberIn(id) {
  const { value, valueAsNumber } = at(id);
  return value.trim() === "" ? null : valueAsNumber;
}

async function send() {
  const field = at("message"), content = field.value.trim();
  if (running || !content) {
    return;
  }
  const wrong = ["temperature", "seed", "max-tokens"].map(at).find((one) => !one.checkValidity());
  if (wrong) {
    at("settings").open = true;
    wrong.reportValidity();
    return;
  }
  field.value = "";
  messages.push({ role: "user", content });
  at("empty").hidden = true;
  const question = make("article", { class: "message user" }, make("h2", {}, "You"), make("p", { class: "text" }, content));
  const answer = new Answer(bodyOf(), { open: openTrace, save, run });
  at("log").append(question, answer.element);
  answer.element.scrollIntoView({ block: "nearest" });
  await run((signal) => answer.read(signal), answer);
  if (answer.content) {
    messages.push({ role: "assistant", content: answer.content });
  } else {
    messages.pop(); // it has no answer: it is for another try
    field.value = content;
  }
  if (answer.trace) {
    sourcesOf(answer.trace).forEach((source) => met.add(source));
    showLegend(at("legend"), [...met]);
  }
  field.focus();
}

/** Do what asks the server, one at a time. What it fails with is said at the answer, or at the top. */
async function run(act, answer = null) {
  if (running) {
    return;
  }
  running = new AbortController();
  setBusy(true);
  try {
    await act(running.signal);
    say("");
  } catch (error) {
    const stopped = error.name === "AbortError";
    const message = stopped ? "Stopped." : error.message;
    answer ? answer.fail(message) : say(message);
    if (error.status === 401) {
      at("key-form").hidden = false;
      at("settings").open = true;
    }
  } finally {
    running = null;
    setBusy(false);
  }
}

function setBusy(busy) {
  at("send").hidden = busy;
  at("stop").hidden = !busy;
  at("clear").disabled = busy;
  for (const button of document.querySelectorAll(".actions button")) {
    button.disabled = busy;
  }
}

function clear() {
  messages.length = 0;
  met.clear();
  at("log").replaceChildren();
  at("empty").hidden = false;
  showLegend(at("legend"), []);
  at("message").focus();
}

function showPart(name) {
  for (const part of ["chat", "trace"]) {
    at(part).hidden = part !== name;
  }
  scrollTo(0, 0);
}

function openTrace(trace) {
  say("");
  showPart("trace");
  showTrace(trace);
  at("trace-title").focus({ preventScroll: true });
}

async function openFile(event) {
  const [file] = event.target.files;
  event.target.value = ""; // the same file may be chosen again
  if (!file) {
    return;
  }
  try {
    if (file.size > MOST_BYTES) {
      throw new Error(`it is too long, accepted are ${MOST_BYTES >> 20} MB`);
    }
    openTrace(readTrace(await file.text()));
  } catch (error) {
    say(`${file.name} cannot be opened: ${error.message}`);
  }
}

function save(trace) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(trace)], { type: "application/json" }));
  make("a", { href: url, download: "trace.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

start();

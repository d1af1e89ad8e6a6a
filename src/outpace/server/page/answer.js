// One answer of the model: its tokens as they come, its figures, and the same answer decoded plainly.

import { chat } from "./api.js";
import { make, showFigures } from "./elements.js";
import { sums } from "./trace.js";
import { tokenOf } from "./view.js";

/** An answer to a request body. `element` is what the page shows. */
export class Answer {
  constructor(body, actions) {
    this.body = body;
    this.content = "";
    this.trace = null;
    this.timings = null;
    this.text = make("p", { class: "text" });
    this.figures = make("dl", { class: "figures" });
    this.buttons = make("div", { class: "actions" });
    this.beside = make("div", { class: "beside", "aria-live": "polite" });
    this.failure = make("p", { class: "notice", role: "alert", hidden: "" });
    this.element = make(
      "article",
      { class: "message assistant", "aria-busy": "true" },
      make("h2", {}, body.model),
      this.text, this.failure, this.figures, this.buttons, this.beside,
    );
    this.actions = actions;
  }

  /** Read all of it. Throws what the server refuses; an AbortError where the reader has stopped it. */
  async read(signal) {
    try {
      for await (const chunk of chat({ ...this.body, trace: true }, signal)) {
        this.take(chunk);
      }
      this.settle();
    } finally {
      this.element.setAttribute("aria-busy", "false");
      if (this.trace) {
        this.showFigures();
        this.offer();
      }
    }
  }

  take(chunk) {
    const delta = chunk.choices[0]?.delta ?? {};
    this.content += delta.content ?? "";
    this.timings = chunk.timings ?? this.timings;
    if (chunk.trace) {
      const steps = chunk.trace.steps;
      this.trace ??= { ...chunk.trace, steps: [] };
      this.trace.steps.push(...steps);
      this.show(steps);
    }
  }

  show(steps) {
    for (const step of steps) {
      step.said.forEach((piece, place) => this.text.append(tokenOf(this.trace, step, place, piece)));
    }
  }

  /** What stands there is the answer, also where the server has changed it behind the tokens. */
  settle() {
    if (this.text.textContent !== this.content) {
      this.text.textContent = this.content;
    }
  }

  showFigures() {
    const total = sums(this.trace.steps);
    const pairs = [["tokens", String(total.tokens)], ["tokens per call", total.perCall.toFixed(2)]];
    if (this.timings) {
      pairs.push(
        ["tokens/s", this.timings.predicted_per_second.toFixed(1)],
        ["first token", `${(this.timings.prompt_ms / 1e3).toFixed(2)} s`],
      );
    }
    pairs.push(["drafted", String(total.drafted)], ["kept", String(total.kept)], ["seed", String(this.body.seed)]);
    showFigures(this.figures, pairs);
  }

  offer() {
    const button = (text, act) => {
      const made = make("button", { type: "button" }, text);
      made.addEventListener("click", act);
      return made;
    };
    const buttons = [
      button("Trace", () => this.actions.open(this.trace)),
      button("Save the trace", () => this.actions.save(this.trace)),
    ];
    if (this.timings) {
      buttons.unshift(button("Beside plain", () => this.actions.run((signal) => this.comparePlain(signal))));
    }
    this.buttons.replaceChildren(...buttons);
  }

  /** Ask the same without drafts, and show both speeds. */
  async comparePlain(signal) {
    let content = "", tokens = 0, timings = null;
    for await (const chunk of chat({ ...this.body, "speculative.n_max": 0 }, signal)) {
      content += chunk.choices[0]?.delta?.content ?? "";
      timings = chunk.timings ?? timings;
      tokens += 1;
      this.beside.textContent = `Decoding plainly: ${tokens} tokens`;
    }
    this.showBeside(content, timings);
  }

  showBeside(content, timings) {
    const drafted = this.timings.predicted_per_second, plain = timings.predicted_per_second;
    const most = Math.max(drafted, plain, 1e-9);
    const row = (name, speed, kind) => {
      const bar = make("span", { class: `speed ${kind}` });
      bar.style.width = `${(100 * speed) / most}%`;
      const value = make("span", { class: "value" }, `${speed.toFixed(1)} tokens/s`);
      return make("div", { class: "row" }, make("span", {}, name), make("span", { class: "track" }, bar), value);
    };
    const same = content === this.content;
    const ratio = plain > 0 ? `${(drafted / plain).toFixed(2)} times as fast. ` : "";
    const verdict = same ? "The text is identical." : `The texts differ from character ${differsAt(content, this.content)} on.`;
    this.beside.replaceChildren(
      row("drafted", drafted, "drafted"),
      row("plain", plain, "plain"),
      make("p", { class: same ? "verdict" : "verdict wrong" }, make("strong", {}, ratio), verdict),
    );
  }

  /** Say in a line why it is not whole. */
  fail(message) {
    this.failure.textContent = message;
    this.failure.hidden = false;
  }
}

function differsAt(one, other) {
  let place = 0;
  while (place < one.length && one[place] === other[place]) {
    place += 1;
  }
  return place + 1;
}

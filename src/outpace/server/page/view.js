// The view of a trace: a step at a time, its tree as a picture, and the text that it is part of.

import { at, colourOf, draw, make, showFigures, showLegend } from "./elements.js";
import { droppedOf, placed, sourceOf, sourcesOf, sums, visible } from "./trace.js";

const LETTER = 8.4, PAD = 12, GAP = 34, HEIGHT = 30, ROW = 42, MARGIN = 8; // pixels of the tree
const BARS = 2000; // steps, beyond which there is no strip
const BAR = 14, UNIT = 9; // pixels of the strip: a step's width, a token's height

let shown = null; // the trace in the view

/** Show a trace that has been read, at its first step with a draft. */
export function showTrace(trace) {
  shown = trace;
  const { steps } = trace;
  const sampling = trace.sampling ?? {};
  at("trace-title").textContent = `${trace.model ?? "A model"}, drafts by ${trace.draft ?? "an unknown drafter"}`;
  const total = sums(steps);
  showFigures(at("trace-figures"), [
    ["tokens", String(total.tokens)],
    ["tokens per call", total.perCall.toFixed(2)],
    ["drafted", String(total.drafted)],
    ["kept", String(total.kept)],
    ["prompt", `${trace.prompt_tokens ?? "?"} tokens`],
    ["temperature", String(sampling.temperature ?? "?")],
    ["seed", String(sampling.seed ?? "?")],
  ]);
  showLegend(at("trace-legend"), sourcesOf(trace));
  at("step").max = steps.length;
  drawStrip(steps);
  const drafted = steps.findIndex((step) => step.tree.tokens.length > 1);
  go(Math.max(0, drafted));
}

/** The trace that is shown. */
export function shownTrace() {
  return shown;
}

/** Make the controls work, once. */
export function startView() {
  const step = at("step");
  step.addEventListener("input", () => go(Number(step.value) - 1));
  at("earlier").addEventListener("click", () => go(Number(step.value) - 2));
  at("later").addEventListener("click", () => go(Number(step.value)));
}

function go(number) {
  const last = shown.steps.length - 1;
  number = Math.max(0, Math.min(last, number));
  const step = shown.steps[number];
  at("step").value = number + 1;
  at("step-name").textContent = `step ${number + 1} of ${last + 1}`;
  at("earlier").disabled = number === 0;
  at("later").disabled = number === last;
  const spent = step.draft_s + step.call_s;
  showFigures(at("step-figures"), [
    ["drafted", String(step.tree.tokens.length - 1)],
    ["kept", String(step.kept.length)],
    ["tokens", String(step.said.length)],
    ["drafter", milliseconds(step.draft_s)],
    [number ? "call" : "call, prompt read", milliseconds(step.call_s)],
    ["a token", milliseconds(spent / Math.max(1, step.said.length))],
  ]);
  drawTree(step);
  markStrip(number);
  showText(number);
}

function milliseconds(seconds) {
  return `${(1e3 * seconds).toFixed(1)} ms`;
}

function drawTree(step) {
  const nodes = placed(step);
  const widths = [];
  for (const { depth, text } of nodes) {
    widths[depth] = Math.max(widths[depth] ?? 0, [...text].length * LETTER + 2 * PAD);
  }
  const lefts = [MARGIN];
  widths.forEach((width, depth) => lefts.push(lefts[depth] + width + GAP));
  const places = new Map();
  for (const one of nodes) {
    const width = [...one.text].length * LETTER + 2 * PAD;
    places.set(one.node, { x: lefts[one.depth], y: MARGIN + one.row * ROW, width });
  }
  const width = lefts.at(-1) - GAP + MARGIN;
  const height = 2 * MARGIN + Math.max(...nodes.map((one) => one.row)) * ROW + HEIGHT;
  const picture = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.append(draw("title", {}, described(step)));
  const ways = nodes.filter((one) => one.parent !== null).map((one) => way(one, places));
  picture.append(...ways, ...nodes.map((one) => box(step, one, places.get(one.node))));
  at("tree").replaceChildren(picture);
  const left = step.tree.tokens.length + (step.own ? 1 : 0) - nodes.length;
  at("tree-note").textContent = left ? `${left} further nodes are not drawn.` : described(step);
}

function described(step) {
  const kept = visible(step.kept.map((node) => step.tree.texts[node]).join(""), 80);
  const said = step.own ? `the model's own token is “${visible(step.own.text)}”` : "the text ends here";
  return step.kept.length ? `Kept: “${kept}”; ${said}.` : `Nothing was kept; ${said}.`;
}

function way({ node, parent, state }, places) {
  const from = places.get(parent), to = places.get(node);
  const x = from.x + from.width, y = from.y + HEIGHT / 2, end = to.y + HEIGHT / 2;
  const half = (x + to.x) / 2;
  return draw("path", { class: `way ${state}`, d: `M${x} ${y}C${half} ${y} ${half} ${end} ${to.x} ${end}` });
}

function box(step, { node, text, state }, { x, y, width }) {
  const source = node > 0 ? sourceOf(shown, step, node) : "";
  const colour = source ? ` ${colourOf(source)}` : "";
  const token = node < 0 ? step.own.token : step.tree.tokens[node];
  const who = { root: "the token before", own: "the model's own" }[state] ?? `drafted by ${source}, ${state}`;
  return draw(
    "g",
    { class: `node ${state}${colour}` },
    draw("title", {}, `${visible(text)}, token ${token}, ${who}`),
    draw("rect", { x, y, width, height: HEIGHT, rx: 7 }),
    draw("text", { x: x + width / 2, y: y + HEIGHT / 2 + 5 }, text),
  );
}

function drawStrip(steps) {
  const strip = at("strip");
  strip.hidden = steps.length > BARS;
  if (strip.hidden) {
    return;
  }
  const most = Math.max(...steps.map((step) => step.said.length));
  const width = steps.length * BAR, unit = Math.min(UNIT, 120 / most), height = most * unit + 4;
  const picture = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  steps.forEach((step, number) => {
    const kept = step.kept.length * unit, own = step.own ? unit : 0, x = number * BAR + 2;
    const bar = draw("g", { class: "column" });
    bar.append(
      draw("rect", { class: "ground", x: x - 2, y: 0, width: BAR, height }),
      draw("rect", { class: "own", x, y: height - own, width: BAR - 4, height: own }),
      draw("rect", { class: "kept", x, y: height - own - kept, width: BAR - 4, height: kept }),
    );
    bar.addEventListener("click", () => go(number));
    picture.append(bar);
  });
  strip.replaceChildren(picture);
}

function markStrip(number) {
  const strip = at("strip");
  strip.querySelector(".column.here")?.classList.remove("here");
  const bar = strip.querySelectorAll(".column")[number];
  if (bar) {
    bar.classList.add("here");
    strip.scrollLeft = number * BAR - strip.clientWidth / 2;
  }
}

function showText(number) {
  const said = (steps) => steps.map((step) => step.said.join("")).join("");
  const step = shown.steps[number];
  const here = step.said.map((piece, place) => tokenOf(shown, step, place, piece));
  at("trace-text").replaceChildren(
    said(shown.steps.slice(0, number)),
    make("mark", {}, ...here),
    make("span", { class: "later" }, said(shown.steps.slice(number + 1))),
  );
}

/** A token of a text: kept in its drafter's colour, or the model's own with what was dropped before it. */
export function tokenOf(trace, step, place, piece) {
  if (place < step.kept.length) {
    const source = sourceOf(trace, step, step.kept[place]);
    return make("span", { class: `token kept ${colourOf(source)}`, title: `drafted by ${source}` }, piece);
  }
  const dropped = droppedOf(step);
  const more = dropped ? { "data-dropped": dropped.replaceAll("\n", "⏎"), title: `in place of the draft: ${dropped}` } : {};
  return make("span", { class: "token own", ...more }, piece);
}

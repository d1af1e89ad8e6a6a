// Traces: reading a file that may hold anything, what a trace adds up to, and where a tree's nodes go.
// The format is told in src/outpace/engine/trace.py.

export const MOST_BYTES = 64 * 2 ** 20;
const KIND = "outpace trace";
const VERSION = 1;
const DRAWN = 300; // nodes of a tree

/** The trace of a text. Throws an Error of one line for anything else. */
export function readTrace(text) {
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  if (given === null || given.kind !== KIND) {
    throw new Error(`it is no trace, accepted is what outpace generate --trace writes`);
  }
  if (given.version !== VERSION) {
    throw new Error(`its version is ${clipped(given.version)}, accepted is ${VERSION}`);
  }
  if (!Array.isArray(given.steps) || given.steps.length === 0) {
    throw new Error("it has no steps");
  }
  given.steps.forEach((step, number) => {
    const wrong = wrongIn(step);
    if (wrong) {
      throw new Error(`step ${number + 1} has a wrong ${wrong}`);
    }
  });
  return given;
}

/** What is wrong with a step, or "". */
function wrongIn(step) {
  const tree = step?.tree;
  if (!tree || !isList(tree.tokens, Number.isInteger) || tree.tokens.length === 0) {
    return "tree";
  }
  const count = tree.tokens.length;
  const isParent = (parent, node) =>
    Number.isInteger(parent) && (node === 0 ? parent === -1 : parent >= 0 && parent < node);
  const isStep = (node, place) => tree.parents[node] === (place ? step.kept[place - 1] : 0);
  const isTime = (time) => Number.isFinite(time) && time >= 0;
  const checks = {
    parents: isList(tree.parents, isParent, count),
    texts: isList(tree.texts, isText, count),
    sources: tree.sources === undefined || isList(tree.sources, isText, count),
    kept: isList(step.kept, isStep),
    own: step.own === null || (Number.isInteger(step.own?.token) && isText(step.own.text)),
    said: isList(step.said, isText, (step.kept?.length ?? 0) + (step.own === null ? 0 : 1)),
    draft_s: isTime(step.draft_s),
    call_s: isTime(step.call_s),
  };
  return Object.keys(checks).find((name) => !checks[name]) ?? "";
}

function isText(value) {
  return typeof value === "string";
}

function isList(value, fits, length = value?.length) {
  return Array.isArray(value) && value.length === length && value.every(fits);
}

function clipped(value) {
  return String(JSON.stringify(value)).slice(0, 40);
}

/** What steps add up to. Tokens per call leave out the prompt's own call, as the engine's statistics do. */
export function sums(steps) {
  const tokensOf = (list) => list.reduce((sum, step) => sum + step.said.length, 0);
  const later = steps.slice(1);
  return {
    tokens: tokensOf(steps),
    perCall: later.length ? tokensOf(later) / later.length : 1,
    drafted: steps.reduce((sum, step) => sum + step.tree.tokens.length - 1, 0),
    kept: steps.reduce((sum, step) => sum + step.kept.length, 0),
  };
}

/** Who drafted a node of a step. */
export function sourceOf(trace, step, node) {
  return step.tree.sources?.[node] || String(trace.draft ?? "draft");
}

/** All drafters of a trace, in the order in which they are met. */
export function sourcesOf(trace, steps = trace.steps) {
  const found = new Set();
  for (const step of steps) {
    step.tree.tokens.forEach((_, node) => node && found.add(sourceOf(trace, step, node)));
  }
  return [...found];
}

/** The text of the likeliest draft behind the last kept node, which the model did not go along with. */
export function droppedOf(step) {
  const { parents, texts } = step.tree;
  let node = step.kept.at(-1) ?? 0;
  let text = "";
  for (let child = node + 1; child < parents.length; child++) {
    if (parents[child] === node) {
      text += texts[child];
      node = child;
    }
  }
  return text;
}

/** A token's text as one can see it. */
export function visible(text, most = 16) {
  const shown = text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·");
  const letters = [...shown];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : shown || "∅";
}

/**
 * Where nodes are drawn: [{ node, parent, depth, row, text, state }], the model's own token as node -1.
 * The tokens that became text have the first row, and what was dropped hangs below.
 */
export function placed(step) {
  const { parents, texts } = step.tree;
  const kept = new Set(step.kept.slice(0, DRAWN));
  const children = new Map();
  parents.forEach((parent, node) => {
    if (node && (node < DRAWN || kept.has(node))) {
      const list = children.get(parent) ?? [];
      kept.has(node) ? list.unshift(node) : list.push(node);
      children.set(parent, list);
    }
  });
  const end = step.kept.at(Math.min(step.kept.length, DRAWN) - 1) ?? 0;
  if (step.own) {
    children.set(end, [-1, ...(children.get(end) ?? [])]);
  }
  const stateOf = (node) => (node === 0 ? "root" : node < 0 ? "own" : kept.has(node) ? "kept" : "dropped");
  const found = [];
  const waiting = [{ node: 0, parent: null, depth: 0, first: true, row: 0 }];
  let rows = 0;
  while (waiting.length) {
    const { node, parent, depth, first, row } = waiting.pop();
    const own = first ? row : ++rows;
    const text = visible(node < 0 ? step.own.text : texts[node]);
    found.push({ node, parent, depth, row: own, text, state: stateOf(node) });
    const list = children.get(node) ?? [];
    for (let i = list.length - 1; i >= 0; i--) {
      waiting.push({ node: list[i], parent: node, depth: depth + 1, first: i === 0, row: own });
    }
  }
  return found;
}

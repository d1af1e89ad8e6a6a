// Elements of the page. Texts of models and of files become text alone, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; texts among the children stay texts. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a picture. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** The element of an id. */
export function at(id) {
  return document.getElementById(id);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** Fill a list of figures: [name, value] pairs. */
export function showFigures(list, pairs) {
  const rows = pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  list.replaceChildren(...rows);
}

const known = [];

/** The class of a drafter's colour; drafters get colours in the order in which they are met. */
export function colourOf(source) {
  if (!known.includes(source)) {
    known.push(source);
  }
  return `source-${known.indexOf(source) % 6}`;
}

/** Say what the colours mean, for these drafters. */
export function showLegend(list, sources) {
  const entry = (kind, text) => make("li", {}, make("span", { class: `swatch ${kind}` }), text);
  list.replaceChildren(
    entry("own", "the model's own"),
    ...sources.map((source) => entry(`kept ${colourOf(source)}`, `${source}, kept`)),
    entry("dropped", "drafted and dropped"),
  );
}

/** @file The colour of each model. Its name always stands beside it. */

import { h } from "./dom.js";

export const META = "meta";
const NUM_COLOURS = 8;
const indices = new Map();

/**
 * Gives the models their colours in this order, which is then the same in every view.
 *
 * @param {string[]} names
 */
export function knowAuthors(names) {
  for (const name of names) colourIndex(name);
}

/** The class with the colour of the model. @param {string} name @returns {string} */
export function colourClass(name) {
  return name === META ? "author author-meta" : `author author-${colourIndex(name)}`;
}

/**
 * The name of a model, in its colour.
 *
 * @param {string} name
 * @param {string} [detail] Such as a probability.
 * @returns {HTMLElement}
 */
export function nameLabel(name, detail = "") {
  return h("span", { class: `name-label ${colourClass(name)}` }, name, detail && ` ${detail}`);
}

function colourIndex(name) {
  if (name !== META && !indices.has(name)) indices.set(name, indices.size % NUM_COLOURS);
  return indices.get(name);
}

/** @file Rows of a name, a bar and a value. */

import { colourClass, nameLabel } from "./authors.js";
import { h } from "./dom.js";

/**
 * @param {{name: string, share: number, text: string, isModel?: boolean}[]} rows `share`: the length of the
 *   bar, between 0 and 1.
 * @param {string} label What the rows are, for screen readers.
 * @returns {HTMLElement}
 */
export function bars(rows, label) {
  const body = rows.map(({ name, share, text, isModel = true }) =>
    h("tr", { class: isModel && colourClass(name) }, h("th", { scope: "row" }, isModel ? nameLabel(name) : name), barCell(share), h("td", {}, text)),
  );
  return h("table", { class: "bars", "aria-label": label }, h("tbody", {}, ...body));
}

function barCell(share) {
  const bar = h("span", { class: "bar" });
  bar.style.inlineSize = `${100 * Math.min(1, Math.max(0, share))}%`;
  return h("td", { class: "bar-cell", "aria-hidden": "true" }, bar);
}

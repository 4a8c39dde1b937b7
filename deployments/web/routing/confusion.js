/** @file Which expert should have taken over, and which one did. */

import { nameLabel } from "../lib/authors.js";
import { h } from "../lib/dom.js";

const NO_EXPERT = "(no expert)";

/**
 * @param {string[]} names
 * @param {number[][]} counts A row for each of `names` and for no expert: the right one. Columns: the chosen one.
 * @param {number[][]} [before] The counts that these have replaced.
 * @returns {HTMLElement}
 */
export function confusionFigure(names, counts, before = counts) {
  const label = (name) => (name === NO_EXPERT ? name : nameLabel(name));
  const all = [...names, NO_EXPERT];
  const head = all.map((name) => h("th", { scope: "col" }, label(name)));
  const rows = all.map((name, row) => {
    const cells = counts[row].map((count, column) => cell(before[row][column], count, sum(counts[row]), row === column));
    return h("tr", {}, h("th", { scope: "row" }, label(name)), ...cells);
  });
  const corner = h("th", { scope: "col" }, "right ↓, chosen →");
  const table = h("table", { class: "matrix" }, h("thead", {}, h("tr", {}, corner, ...head)), h("tbody", {}, ...rows));
  const title = "Queries by the right and by the chosen expert";
  return h(
    "figure",
    {},
    h("figcaption", {}, title),
    h("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": title }, table),
  );
}

function cell(before, count, total, isRight) {
  const text = before === count ? String(count || "·") : `${before} → ${count}`;
  const element = h("td", { class: `${isRight ? "right" : ""} ${before === count ? "" : "changed"}` }, text);
  const shade = total ? (35 * count) / total : 0;
  element.style.background = `color-mix(in srgb, var(--accent) ${shade}%, transparent)`;
  return element;
}

function sum(counts) {
  return counts.reduce((total, count) => total + count, 0);
}

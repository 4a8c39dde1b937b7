/** @file How the tokens compare with other ways of routing. */

import { bars } from "../lib/bars.js";
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";

/** @param {any[]} methods Of an evaluation. @returns {HTMLElement} */
export function methodFigure(methods) {
  const rows = methods.map(({ name, decisions }) => {
    const { mean, low, high } = decisions.estimate;
    return { name, share: mean, text: `${percent(mean)} [${percent(low)}, ${percent(high)}]`, isModel: false };
  });
  const title = "Right decisions by method, with 95 % intervals";
  return h("figure", {}, h("figcaption", {}, title), bars(rows, title));
}

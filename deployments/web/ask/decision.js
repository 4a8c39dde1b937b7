/** @file The meta's decision behind a part of an answer, as bars. */

import { postJson } from "../lib/api.js";
import { bars } from "../lib/bars.js";
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { routeRequest } from "./request.js";

const MAX_EXPERTS = 8;

/**
 * A fold with what the meta chose from. If the trace does not have it, the meta is asked when the fold is opened for
 * the first time.
 *
 * @param {any} request
 * @param {string} before What was written before the decision.
 * @param {string} title
 * @param {any} [traced] The decision in the trace.
 * @returns {HTMLElement}
 */
export function decision(request, before, title, traced) {
  const body = h("div", { "aria-live": "polite" }, traced && distribution(traced));
  const fold = h("details", { class: "decision" }, h("summary", {}, title), body);
  fold.addEventListener("toggle", () => {
    if (fold.open && !body.hasChildNodes()) show(body, routeRequest(request, before));
  });
  return fold;
}

async function show(body, request) {
  body.textContent = "Asking the meta …";
  try {
    body.replaceChildren(distribution(await postJson("v1/route", request)));
  } catch (error) {
    body.textContent = `The meta cannot be asked for this decision: ${error.message}`;
  }
}

/** A trace has the likeliest word; the answer of `/v1/route` has all words together. */
function distribution({ experts, best_word_probability: best, word_probability: all = best }) {
  const rows = experts.slice(0, MAX_EXPERTS).map(({ name, probability }) => {
    return { name, share: probability, text: percent(probability) };
  });
  const name = `no expert: ${best === undefined ? "a word" : "the likeliest word"} of the meta`;
  const words = { name, share: all, text: percent(all), isModel: false };
  const rest = experts.length - rows.length;
  return h("div", {}, bars([...rows, words], "Probabilities of the next token"), rest > 0 && h("p", {}, `and ${rest} more`));
}

/** @file The meta's decision behind a part of an answer, as bars. */

import { postJson } from "../lib/api.js";
import { bars } from "../lib/bars.js";
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { routeRequest } from "./request.js";

const MAX_EXPERTS = 8;

/**
 * A fold that asks the meta for the distribution when it is opened for the first time.
 *
 * @param {any} request
 * @param {string} before What was written before the decision.
 * @param {string} title
 * @returns {HTMLElement}
 */
export function decision(request, before, title) {
  const body = h("div", { "aria-live": "polite" });
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

function distribution({ experts, word_probability: word }) {
  const rows = experts.slice(0, MAX_EXPERTS).map(({ name, probability }) => {
    return { name, share: probability, text: percent(probability) };
  });
  const words = { name: "no expert: a word of the meta", share: word, text: percent(word), isModel: false };
  const rest = experts.length - rows.length;
  return h("div", {}, bars([...rows, words], "Probabilities of the next token"), rest > 0 && h("p", {}, `and ${rest} more`));
}

/** @file A form for what the tools of an answer have found. */

import { h } from "../lib/dom.js";

/**
 * @param {any[]} calls As in a message.
 * @param {(messages: object[]) => void} send Gets a message for each call.
 * @returns {HTMLElement}
 */
export function toolResults(calls, send) {
  const areas = calls.map(() => h("textarea", { rows: 2, required: true }));
  const labels = calls.map((call, index) => h("label", {}, `Result of ${call.function.name} `, areas[index]));
  const submit = (event) => {
    event.preventDefault();
    send(calls.map(({ id }, index) => ({ role: "tool", tool_call_id: id, content: areas[index].value })));
  };
  return h("form", { class: "results", submit }, ...labels, h("button", {}, "Send results"));
}

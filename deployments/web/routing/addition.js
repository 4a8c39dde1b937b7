/** @file What learning, or an added expert, has changed. */

import { bars } from "../lib/bars.js";
import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { confusionFigure } from "./confusion.js";

/** @param {any} report Of `etr learn` or `etr experts add`. @returns {HTMLElement[]} */
export function additionFigures(report) {
  const { names, added, before, after } = report;
  const what = added ? `Expert ${added} was added.` : "All experts were learned together.";
  const title = "Share of each expert's queries that are handed to it, before and after";
  const table = bars(names.map((name) => row(name, before.accuracy[name], after.accuracy[name])), title);
  return [
    h("p", {}, `${what} Judged by ${report.num_queries} queries, ${report.num_held_out} of them held out.`),
    h("figure", {}, h("figcaption", {}, title), table, h("p", {}, falseTriggers(before, after))),
    confusionFigure(names, after.confusion, before.confusion),
  ];
}

function row(name, before, after) {
  return { name, share: after ?? 0, text: changed(before, after) };
}

function falseTriggers(before, after) {
  return `General queries that are handed over: ${changed(before.false_trigger_rate, after.false_trigger_rate)}.`;
}

function changed(before, after) {
  const [old, now] = [before, after].map((share) => (share === null ? "–" : percent(share)));
  return old === now ? now : `${old} → ${now}`;
}

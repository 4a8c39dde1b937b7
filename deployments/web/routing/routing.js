/** @file Reports of `etr eval`, `etr learn` and `etr experts add`, as pictures. */

import { byId, h } from "../lib/dom.js";
import { knowAuthors } from "../lib/authors.js";
import { additionFigures } from "./addition.js";
import { confusionFigure } from "./confusion.js";
import { methodFigure } from "./methods.js";
import { triggerFigure } from "./trigger.js";

/** Shows a report when the user has chosen its file. Nothing of it leaves the browser. */
export function setUpRouting() {
  byId("report").addEventListener("change", async () => {
    const [file] = byId("report").files;
    if (file) show(await file.text(), file.name);
  });
}

function show(text, name) {
  byId("report-problem").textContent = "";
  byId("report-figures").replaceChildren();
  try {
    const report = JSON.parse(text);
    knowAuthors(report.names);
    byId("report-figures").replaceChildren(...figures(report));
  } catch {
    byId("report-problem").textContent = `${name} is no report of etr eval, etr learn or etr experts add.`;
  }
}

function figures(report) {
  if (report.before) return additionFigures(report);
  const what = `${report.num_queries} queries, meta ${report.meta_name}, call bias ${report.call_bias}.`;
  return [
    h("p", {}, what, ...report.notes.map((note) => ` Note: ${note}.`)),
    confusionFigure(report.names, report.confusion),
    triggerFigure(report.sweep, report.call_bias),
    methodFigure(report.methods),
  ];
}

/** @file The last hour: which experts took over, and what answers spent their time on. */

import { bars } from "../lib/bars.js";
import { byId, setText } from "../lib/dom.js";
import { count, duration, percent } from "../lib/format.js";

const PHASES = {
  queue: "waiting in the router",
  hop: "way to the replica",
  engine_queue: "waiting in the engine",
  prefill: "reading the prompt",
  decode: "writing",
  decision: "deciding",
  relay: "sending to the client",
  lost: "calls that failed",
};

/** @param {any} hour `last_hour` of the router's `/stats`. */
export function showLastHour({ num_answers: numAnswers, handovers, phases_s: phases, shadows }) {
  const what = `${count(numAnswers, "answer")} in the last hour`;
  setText(byId("hour-note"), `${what}, counted by the router replica that answers this page, since it started.`);
  byId("handovers").replaceChildren(bars(handoverRows(handovers, numAnswers), "Hand-overs by expert"));
  byId("shadows").hidden = !Object.keys(shadows).length;
  byId("shadow-rates").replaceChildren(bars(shadowRows(shadows), "Answers that a shadow expert would have taken"));
  byId("phases").replaceChildren(bars(phaseRows(phases), "Time by phase"));
}

function handoverRows(handovers, numAnswers) {
  const most = Math.max(1, ...Object.values(handovers));
  return Object.entries(handovers)
    .sort(([, a], [, b]) => b - a)
    .map(([name, number]) => {
      return { name, share: number / most, text: `${number} (${percent(number / Math.max(1, numAnswers))} of answers)` };
    });
}

function shadowRows(shadows) {
  return Object.entries(shadows).map(([name, { num_answers: scored, num_wins: wins }]) => {
    const share = wins / Math.max(1, scored);
    return { name, share, text: `${wins} of ${count(scored, "answer")} (${percent(share)})` };
  });
}

function phaseRows(phases) {
  const total = Math.max(1e-9, Object.values(phases).reduce((sum, time) => sum + time, 0));
  return Object.entries(PHASES).map(([phase, name]) => {
    const time = phases[phase] ?? 0;
    return { name, share: time / total, text: `${percent(time / total)}, ${duration(1000 * time)}`, isModel: false };
  });
}

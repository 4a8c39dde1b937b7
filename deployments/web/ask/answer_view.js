/** @file One answer: its text in the colours of its authors, and below it who wrote what, and why. */

import { colourClass, META, nameLabel } from "../lib/authors.js";
import { announce, h, setText } from "../lib/dom.js";
import { count, duration, percent } from "../lib/format.js";
import { models } from "../lib/models.js";
import { spanTimes } from "./answer.js";
import { asCurl, asPython } from "./code.js";
import { decision } from "./decision.js";
import { markdown } from "./markdown.js";

/** Shows an answer, and again whenever it has changed. */
export class AnswerView {
  #answer;
  #parts = [];
  #body = h("div", { class: "answer-body" });
  #status = h("p", { class: "answer-status" });
  #details = h("div", { class: "answer-details" });
  #frame = 0;

  /** @param {import("./answer.js").Answer} answer @param {HTMLElement} actions Shown below the text. */
  constructor(answer, actions) {
    this.#answer = answer;
    const label = answer.note ? `Answer ${answer.note}` : "Answer";
    const note = answer.note && h("p", { class: "answer-note" }, answer.note);
    this.element = h("article", { class: "answer", "aria-label": label });
    this.element.append(...[note, this.#body, this.#status, actions, this.#details].filter(Boolean));
    this.#draw();
  }

  /** Draws the answer with the browser's next frame, however often it changes until then. */
  update() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /** Draws the end of the answer, and has screen readers say how it ended. */
  finish() {
    cancelAnimationFrame(this.#frame);
    this.#draw();
    announce(`${this.#status.textContent} ${authorsOf(this.#answer)}`);
    this.#details.replaceChildren(...details(this.#answer));
  }

  #draw() {
    this.#frame = 0;
    this.#answer.parts.forEach((part, index) => this.#drawPart(part, index));
    setText(this.#status, statusText(this.#answer));
    this.#status.className = `answer-status ${this.#answer.state}`;
    this.element.setAttribute("aria-busy", String(this.#answer.state === "running"));
  }

  #drawPart(part, index) {
    if (!this.#parts[index]) {
      this.#parts[index] = newPart(part);
      this.#body.append(this.#parts[index]);
    }
    const element = this.#parts[index];
    if (part.kind === "text") element.replaceChildren(...markdown(withProbabilities(part.spans, this.#answer)));
    else setText(element.querySelector("pre"), part.kind === "reasoning" ? part.text : part.arguments);
  }
}

function newPart(part) {
  if (part.kind === "text") return h("div", { class: "markdown" });
  const title = part.kind === "reasoning" ? "Thoughts of " : `Calls ${part.name}: `;
  const summary = h("summary", {}, title, nameLabel(part.model));
  const fold = h("details", { class: `${part.kind} ${colourClass(part.model)}` }, summary, h("pre", { tabindex: 0 }));
  fold.open = part.kind === "call";
  return fold;
}

function withProbabilities(spans, { trace }) {
  return spans.map((span) => {
    const traced = trace?.spans.find((own) => own.model === span.model && own.probability !== null);
    return { ...span, detail: traced ? percent(traced.probability) : "" };
  });
}

function statusText({ state, error, finishReason, parts }) {
  if (state === "running") return parts.length ? "Writing …" : "Waiting for the first token …";
  if (state === "stopped") return "Stopped.";
  if (state === "failed") return failure(error);
  return { length: "Complete: the limit of tokens was reached.", tool_calls: "Complete: tools are called." }[finishReason] ?? "Complete.";
}

function failure({ status, message, retryAfterS }) {
  const again = retryAfterS === null ? "" : ` Try again in ${count(retryAfterS, "second")}.`;
  if (status === 429) return `Too busy, or too many requests (429): ${message}.${again}`;
  if (status === 401) return `The API key is not valid (401): ${message}. Enter another one above.`;
  return status ? `Error ${status}: ${message}.${again}` : `Error: ${message}.`;
}

function authorsOf({ trace }) {
  const names = [...new Set((trace?.spans ?? []).map((span) => span.model))];
  return names.length ? `Written by ${names.join(" and ")}.` : "";
}

function details(answer) {
  return [answer.trace && spanTable(answer), ...decisions(answer), codeFold(answer.request)].filter(Boolean);
}

function spanTable({ trace }) {
  const times = spanTimes(trace);
  const rows = trace.spans.map((span, index) => {
    const cells = [
      span.probability === null ? "–" : percent(span.probability),
      count(span.num_tokens, "token"),
      duration(times[index]),
    ];
    return h("tr", {}, h("th", { scope: "row" }, nameLabel(span.model)), ...cells.map((cell) => h("td", {}, cell)));
  });
  const head = ["author", "probability", "wrote", "took"].map((name) => h("th", { scope: "col" }, name));
  const { first_text_ms: first, total_ms: total } = trace.timing;
  const caption = `${first === null ? "" : `First text after ${duration(first)}, `}complete after ${duration(total)}.`;
  return h("table", { class: "spans" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows));
}

/** A fold for each hand-over; for an answer without one, a fold for the decision at its start. */
function decisions({ request, trace }) {
  if (!trace || request.routing.force || (request.model && request.model !== models.generalist)) return [];
  const folds = [];
  const traced = [...trace.decisions];
  let before = "";
  for (const { model, text, probability } of trace.spans) {
    if (probability !== null) folds.push(decision(request, before, `Why ${model} took over`, taken(traced, model)));
    before += text;
  }
  return folds.length ? folds : [decision(request, "", `Why ${META} answered itself`, taken(traced, null))];
}

/** Removes the first decision for this expert, if there is one, and returns it. */
function taken(traced, expert) {
  const index = traced.findIndex((own) => own.expert === expert);
  return index < 0 ? undefined : traced.splice(0, index + 1).at(-1);
}

function codeFold(request) {
  const code = (title, text) => {
    const copy = h("button", { type: "button", click: () => navigator.clipboard.writeText(text) }, `Copy ${title}`);
    return [h("h4", {}, title), copy, h("pre", { tabindex: 0 }, h("code", {}, text))];
  };
  const texts = [...code("curl", asCurl(request)), ...code("Python", asPython(request, models.generalist))];
  return h("details", { class: "code" }, h("summary", {}, "This request as code"), ...texts);
}

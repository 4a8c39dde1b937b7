/** @file One turn of the conversation: what was asked, and one or more answers beside each other. */

import { h } from "../lib/dom.js";
import { models } from "../lib/models.js";
import { Answer } from "./answer.js";
import { AnswerView } from "./answer_view.js";
import { rerouted } from "./request.js";
import { toolResults } from "./tool_results.js";

let numTurns = 0;

/** A question, or the results of tools, with its answers. The conversation goes on from one of them. */
export class Turn {
  /** @type {Answer[]} */
  answers = [];
  #chosen = 0;
  #row = h("div", { class: "answers" });
  #name = `turn-${(numTurns += 1)}`;
  #events;

  /**
   * @param {object[]} input The messages that this turn adds.
   * @param {{changed: () => void, results: (messages: object[]) => void}} events `changed`: an answer began or
   *   ended. `results`: the user has entered the results of all tool calls.
   */
  constructor(input, events) {
    this.input = input;
    this.#events = events;
    const text = input.map((message) => message.content).join("\n");
    const heading = h("h3", { class: "visually-hidden" }, input[0].role === "tool" ? "Results" : "Question");
    this.element = h("section", { class: "turn" }, heading, h("p", { class: "question" }, text), this.#row);
  }

  /** @returns {boolean} */
  get isRunning() {
    return this.answers.some((answer) => answer.state === "running");
  }

  /** @returns {object[]} The messages of this turn, with the answer from which the conversation goes on. */
  get messages() {
    const answer = this.answers[this.#chosen];
    return answer.text || answer.toolCalls.length ? [...this.input, answer.message] : this.input;
  }

  /** Ends every answer that is still written. */
  stop() {
    for (const answer of this.answers) answer.stop();
  }

  /** Asks, and shows the answer beside the others. @param {object} request @param {string} [note] */
  async ask(request, note = "") {
    await this.#run(this.answers.length, new Answer(request, note));
  }

  /** Shows an answer of an earlier visit. @param {Answer} answer */
  restore(answer) {
    const [view, actions] = this.#show(this.answers.length, answer);
    this.#finish(view, actions, answer);
  }

  async #run(index, answer) {
    const [view, actions] = this.#show(index, answer);
    actions.append(h("button", { type: "button", click: () => answer.stop() }, "Stop"));
    this.#events.changed();
    await answer.run(() => view.update());
    this.#finish(view, actions, answer);
    this.#events.changed();
  }

  #show(index, answer) {
    this.answers[index] = answer;
    this.#chosen = index;
    const actions = h("div", { class: "actions" });
    const view = new AnswerView(answer, actions);
    if (this.#row.children[index]) this.#row.children[index].replaceWith(view.element);
    else this.#row.append(view.element);
    return [view, actions];
  }

  #finish(view, actions, answer) {
    actions.replaceChildren(...this.#actions(answer, this.answers.indexOf(answer)));
    view.finish();
  }

  #actions(answer, index) {
    const calls = answer.state === "done" ? answer.toolCalls : [];
    return [
      h("button", { type: "button", click: () => this.#retry(index) }, "Retry"),
      ...this.#otherRoutes(answer),
      this.#choice(index),
      ...(calls.length ? [toolResults(calls, this.#events.results)] : []),
    ];
  }

  #retry(index) {
    const { request, note } = this.answers[index];
    this.#run(index, new Answer(request, note));
  }

  #otherRoutes(answer) {
    if (!models.experts.length) return [];
    const option = (kind, expert, text) => h("option", { value: `${kind} ${expert}` }, text);
    const select = h(
      "select",
      { "aria-label": "Who may answer" },
      ...models.experts.map((expert) => option("force", expert, `by ${expert}`)),
      ...models.experts.map((expert) => option("exclude", expert, `without ${expert}`)),
      option("meta", "", "as the meta decides"),
    );
    const again = () => {
      const [kind, expert] = select.value.split(" ");
      this.ask(rerouted(answer.request, kind, expert), select.selectedOptions[0].text);
    };
    return [select, h("button", { type: "button", click: again }, "Ask again")];
  }

  /** Seen only if there are several answers. */
  #choice(index) {
    const input = h("input", { type: "radio", name: this.#name, change: () => (this.#chosen = index) });
    input.checked = index === this.#chosen;
    return h("label", { class: "choice" }, input, " Go on from this answer");
  }
}

/** @file One answer while it is written, and what is known of it in the end. */

import { ApiError, stream } from "../lib/api.js";

/**
 * @typedef {{model: string, text: string}} Span
 * @typedef {{kind: "text", spans: Span[]} | {kind: "reasoning", model: string, text: string}
 *   | {kind: "call", index: number, id: string, name: string, arguments: string, model: string}} Part
 */

/** Collects the events of one streamed answer. */
export class Answer {
  /** @type {Part[]} */
  parts = [];
  /** @type {"running" | "done" | "stopped" | "failed"} */
  state = "running";
  /** @type {ApiError | null} */
  error = null;
  finishReason = "";
  /** The spans and times of the answer, once it is complete. @type {any} */
  trace = null;
  #abort = new AbortController();

  /** @param {object} request The body that is sent. @param {string} note How it differs from the first answer. */
  constructor(request, note = "") {
    this.request = request;
    this.note = note;
  }

  /** @returns {string} The text of all models, without thoughts and tool calls. */
  get text() {
    return this.#of("text").flatMap((part) => part.spans.map((span) => span.text)).join("");
  }

  /** @returns {any[]} The calls as OpenAI has them in a message. */
  get toolCalls() {
    return this.#of("call").map((part) => {
      return { id: part.id, type: "function", function: { name: part.name, arguments: part.arguments } };
    });
  }

  /** The answer as a message of the conversation. @returns {object} */
  get message() {
    const calls = this.toolCalls;
    return { role: "assistant", content: this.text, ...(calls.length ? { tool_calls: calls } : {}) };
  }

  /** Ends the answer, in the cluster too. */
  stop() {
    this.#abort.abort();
  }

  /**
   * Asks, and returns when the answer has ended in any way.
   *
   * @param {() => void} onChange
   */
  async run(onChange) {
    try {
      for await (const event of stream("v1/chat/completions", this.request, this.#abort.signal)) {
        this.#add(event);
        onChange();
      }
      this.state = "done";
    } catch (error) {
      this.#fail(error);
    }
    onChange();
  }

  #fail(error) {
    if (error.name === "AbortError") {
      this.state = "stopped";
    } else {
      this.state = "failed";
      this.error = error instanceof ApiError ? error : new ApiError(0, `the answer cannot be read: ${error.message}`);
    }
  }

  #add({ choices: [choice], routing }) {
    if (!choice) return;
    const { content, reasoning, tool_calls: calls = [] } = choice.delta;
    const model = routing?.model ?? "";
    if (reasoning) this.#addReasoning(model, reasoning);
    if (content) this.#addText(model, content);
    for (const call of calls) this.#addCall(model, call);
    if (choice.finish_reason) this.finishReason = choice.finish_reason;
    if (routing?.spans) this.trace = routing;
  }

  #addText(model, text) {
    if (this.parts.at(-1)?.kind !== "text") this.parts.push({ kind: "text", spans: [] });
    const { spans } = /** @type {any} */ (this.parts.at(-1));
    if (spans.at(-1)?.model === model) spans.at(-1).text += text;
    else spans.push({ model, text });
  }

  #addReasoning(model, text) {
    const last = this.parts.at(-1);
    if (last?.kind === "reasoning" && last.model === model) last.text += text;
    else this.parts.push({ kind: "reasoning", model, text });
  }

  #addCall(model, { index, id, function: piece }) {
    const begun = this.#of("call").find((part) => part.index === index);
    if (begun) begun.arguments += piece.arguments;
    else this.parts.push({ kind: "call", index, id, name: piece.name, arguments: piece.arguments, model });
  }

  /** @returns {any[]} */
  #of(kind) {
    return this.parts.filter((part) => part.kind === kind);
  }
}

/**
 * How long the calls of each span took together.
 *
 * A call that failed has no span, and one model may need several calls for a span.
 *
 * @param {any} trace
 * @returns {number[]} In milliseconds, one for each span.
 */
export function spanTimes({ spans, timing }) {
  const rest = [...timing.calls];
  return spans.map((span, index) => {
    const isLast = index === spans.length - 1;
    let ms = 0;
    while (rest.length && rest[0].model !== span.model) ms += callTime(rest.shift());
    while (rest.length && (isLast || rest[0].model === span.model)) ms += callTime(rest.shift());
    return ms;
  });
}

function callTime(call) {
  return Object.entries(call).reduce((sum, [name, value]) => (name.endsWith("_ms") ? sum + value : sum), 0);
}

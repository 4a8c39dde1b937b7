/** @file The body of a request, from the conversation and the settings beside it. */

import { byId } from "../lib/dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/**
 * @param {object[]} messages
 * @returns {any} The body, with a trace asked for.
 * @throws {SyntaxError} The further fields are not a JSON object.
 */
export function requestBody(messages) {
  const system = byId("system").value.trim();
  const { routing, ...fields } = furtherFields();
  const body = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  if (byId("model").value) body.model = byId("model").value;
  for (const name of NUMBERS) {
    if (byId(name).value !== "") body[name] = Number(byId(name).value);
  }
  return { ...body, ...fields, stream: true, routing: { ...routing, trace: true } };
}

/**
 * The same question, with another choice of who may answer it.
 *
 * @param {any} request
 * @param {"meta" | "force" | "exclude"} kind "meta": the meta decides.
 * @param {string} expert
 * @returns {any}
 */
export function rerouted(request, kind, expert) {
  const { force: _, exclude = [], ...routing } = request.routing;
  const { model: __, ...body } = request;
  if (kind === "force") return { ...body, routing: { force: expert, trace: true } }; // no other option goes with it
  if (kind === "exclude") return { ...body, routing: { ...routing, exclude: [...new Set([...exclude, expert])] } };
  return { ...body, routing };
}

/**
 * The request that asks the meta which expert would take over behind this text.
 *
 * @param {any} request
 * @param {string} before What is written so far.
 * @returns {any}
 */
export function routeRequest(request, before) {
  const { stream: _, routing: { trace: __, ...routing }, ...body } = request;
  if (!before) return { ...body, routing };
  const messages = [...body.messages, { role: "assistant", content: before }];
  return { ...body, routing, messages, continue_final_message: true, add_generation_prompt: false };
}

function furtherFields() {
  const text = byId("further").value.trim();
  const fields = text ? JSON.parse(text) : {};
  if (typeof fields !== "object" || Array.isArray(fields) || fields === null) {
    throw new SyntaxError("it is not an object");
  }
  return fields;
}

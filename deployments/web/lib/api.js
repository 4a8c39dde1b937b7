/** @file Requests to the router that this page came from. */

import { authorization } from "./key.js";
import { events } from "./sse.js";

/** Where the router is, also behind a gateway that adds a prefix to its paths. */
export const BASE = new URL("../../", import.meta.url);

/** An answer of the router that is an error, or no answer at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {number | null} retryAfterS
   */
  constructor(status, message, retryAfterS = null) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * @param {string} path
 * @param {{accept?: number[], signal?: AbortSignal}} [options] `accept`: statuses besides 200 whose body is
 *   an answer.
 * @returns {Promise<any>}
 * @throws {ApiError}
 */
export async function getJson(path, { accept = [], signal } = {}) {
  const response = await request(path, { headers: authorization(), signal });
  if (!response.ok && !accept.includes(response.status)) throw await errorOf(response);
  return response.json();
}

/** @param {string} path @param {object} body @returns {Promise<any>} @throws {ApiError} */
export async function postJson(path, body) {
  return (await post(path, body)).json();
}

/**
 * The parsed events of a streamed answer. Aborting the signal ends the answer in the cluster too.
 *
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 * @throws {ApiError} Also if the stream breaks off before its end.
 */
export async function* stream(path, body, signal) {
  const response = await post(path, body, signal);
  let isComplete = false;
  for await (const data of events(response.body)) {
    isComplete = data === "[DONE]"; // then read to the end: a request that is left counts as cancelled
    if (isComplete) continue;
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(500, event.error.message);
    yield event;
  }
  if (!isComplete) throw new ApiError(0, "the answer broke off before its end");
}

async function post(path, body, signal) {
  const headers = { "content-type": "application/json", ...authorization() };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function request(path, options) {
  try {
    return await fetch(new URL(path, BASE), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the router does not answer");
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `the router answers ${response.status}`;
  const retryAfter = response.headers.get("retry-after");
  return new ApiError(response.status, message, retryAfter === null ? null : Number(retryAfter));
}

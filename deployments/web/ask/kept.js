/** @file The conversation as this browser keeps it, if the user asks for that. */

import { Answer } from "./answer.js";

const NAME = "etr-conversation";

/** @returns {boolean} */
export function isKept() {
  return localStorage.getItem(NAME) !== null;
}

/** @param {import("./turn.js").Turn[]} turns */
export function keep(turns) {
  const plain = turns.map(({ input, answers }) => ({ input, answers: answers.map((answer) => ({ ...answer })) }));
  localStorage.setItem(NAME, JSON.stringify(plain));
}

/** Removes what is kept. */
export function forget() {
  localStorage.removeItem(NAME);
}

/** @returns {{input: object[], answers: Answer[]}[]} */
export function keptTurns() {
  return JSON.parse(localStorage.getItem(NAME) ?? "[]").map(({ input, answers }) => {
    return { input, answers: answers.map((own) => Object.assign(new Answer(own.request), own)) };
  });
}

/** @file The chat. */

import { byId, h } from "../lib/dom.js";
import { models } from "../lib/models.js";
import { forget, isKept, keep, keptTurns } from "./kept.js";
import { requestBody } from "./request.js";
import { Turn } from "./turn.js";

/** @type {Turn[]} */
let turns = [];

/** Sets up the form for questions, and shows the conversation that this browser has kept, if any. */
export function setUpAsk() {
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    askQuestion();
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    askQuestion();
  });
  byId("stop").addEventListener("click", () => turns.forEach((turn) => turn.stop()));
  byId("new-conversation").addEventListener("click", startAnew);
  byId("keep").checked = isKept();
  byId("keep").addEventListener("change", remember);
  keptTurns().forEach(restore);
  update();
}

/** Offers the models that the API key permits. */
export function offerModels() {
  const options = models.names.map((name) => h("option", { value: `${models.generalist}/${name}` }, name));
  byId("model").replaceChildren(h("option", { value: "" }, `${models.generalist}: the meta decides`), ...options);
}

function askQuestion() {
  const question = byId("question").value.trim();
  if (!question || isRunning()) return;
  if (begin([{ role: "user", content: question }])) byId("question").value = "";
}

/** Whether the question could be sent. */
function begin(input) {
  const history = turns.flatMap((turn) => turn.messages);
  let request;
  try {
    request = requestBody([...history, ...input]);
  } catch (error) {
    byId("settings").open = true;
    byId("further").focus();
    byId("ask-problem").textContent = `The further fields are not a JSON object: ${error.message}`;
    return false;
  }
  byId("ask-problem").textContent = "";
  const turn = addTurn(input);
  turn.ask(request);
  turn.element.scrollIntoView({ block: "nearest" });
  return true;
}

function addTurn(input) {
  const turn = new Turn(input, { changed: update, results: begin });
  turns.push(turn);
  byId("conversation").append(turn.element);
  return turn;
}

function restore({ input, answers }) {
  const turn = addTurn(input);
  answers.forEach((answer) => turn.restore(answer));
}

function startAnew() {
  turns.forEach((turn) => turn.stop());
  turns = [];
  byId("conversation").replaceChildren();
  byId("question").focus();
  update();
}

function isRunning() {
  return turns.some((turn) => turn.isRunning);
}

function update() {
  byId("send").disabled = isRunning();
  byId("stop").disabled = !isRunning();
  byId("empty").hidden = turns.length > 0;
  if (!isRunning()) remember();
}

function remember() {
  if (byId("keep").checked) keep(turns);
  else forget();
}

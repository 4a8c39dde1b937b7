/** @file Every model in one row: its state, replicas, load and speed; below, what Serve says about it. */

import { nameLabel } from "../lib/authors.js";
import { h, setText } from "../lib/dom.js";
import { percent } from "../lib/format.js";

const COLUMNS = ["state", "replicas", "running", "queued", "waiting here", "tokens/s", "cache"];
const UNKNOWN = "–";

/** A table whose cells change in place, so that a screen reader does not lose its place. */
export class ModelTable {
  #rows = new Map();
  #body = h("tbody");
  #messages;

  /** @param {HTMLElement} parent @param {HTMLElement} messages */
  constructor(parent, messages) {
    this.#messages = messages;
    const head = ["model", ...COLUMNS].map((name) => h("th", { scope: "col" }, name));
    const caption =
      "Replicas: running of wanted. Running and queued: calls in all routers. Waiting here: answers that wait in the router that answered.";
    parent.append(h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...head)), this.#body));
  }

  /**
   * @param {Record<string, any>} models
   * @param {Record<string, number | null>} rates By model.
   */
  show(models, rates) {
    for (const [name, row] of this.#rows) {
      if (!(name in models)) row.remove();
    }
    for (const [name, model] of Object.entries(models)) fill(this.#row(name), cells(model, rates[name] ?? null));
    const lines = Object.entries(models).map(([name, model]) => [name, message(name, model)]);
    this.#showMessages(lines.filter(([, text]) => text).map(([name, text]) => `${name}: ${text}`));
  }

  #row(name) {
    if (!this.#rows.has(name)) {
      const cells = COLUMNS.map((column) => h("td", { class: column === "state" ? "state" : "number" }));
      this.#rows.set(name, h("tr", { "data-model": name }, h("th", { scope: "row" }, nameLabel(name)), ...cells));
    }
    const row = this.#rows.get(name);
    if (!row.isConnected) this.#body.append(row);
    return row;
  }

  #showMessages(lines) {
    if (this.#messages.textContent === lines.join("")) return;
    this.#messages.replaceChildren(...lines.map((line) => h("p", {}, line)));
  }
}

/** Serve's last message, or why a replica cannot load the adapter. */
function message(name, { replicas, load }) {
  const errors = (load?.replicas ?? []).map((replica) => replica.adapters[name]?.error);
  return replicas?.message || errors.find(Boolean);
}

function cells({ state, replicas, load, num_waiting: numWaiting }, rate) {
  return [
    state,
    replicas ? `${replicas.num_ready}/${replicas.num_wanted}` : UNKNOWN,
    load ? String(load.num_running) : UNKNOWN,
    load ? String(load.num_queued) : UNKNOWN,
    String(numWaiting),
    rate === null ? UNKNOWN : rate.toFixed(rate < 10 ? 1 : 0),
    load?.replicas.length ? percent(Math.max(...load.replicas.map((replica) => replica.cache_use))) : UNKNOWN,
  ];
}

function fill(row, texts) {
  texts.forEach((text, index) => setText(row.children[index + 1], text));
  row.children[1].className = `state state-${texts[0]}`;
}

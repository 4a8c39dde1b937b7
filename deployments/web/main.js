/** @file Starts the page: the API key, the tabs, and what stands in them. */

import { offerModels, setUpAsk } from "./ask/ask.js";
import { setUpCluster } from "./cluster/cluster.js";
import { byId } from "./lib/dom.js";
import { apiKey, setApiKey } from "./lib/key.js";
import { loadModels } from "./lib/models.js";
import { setUpTabs } from "./lib/tabs.js";
import { setUpRouting } from "./routing/routing.js";

const RETRY_MS = 3000;

/** Asks again until the router answers, unless it wants another key. */
async function connect() {
  const note = byId("connection");
  try {
    await loadModels();
    offerModels();
    note.textContent = "";
  } catch (error) {
    note.textContent = `${error.status === 401 ? "An API key is needed" : "The models are not known"}: ${error.message}.`;
    if (error.status === 401) byId("key-fold").open = true;
    else setTimeout(connect, RETRY_MS);
  }
}

function setUpKey() {
  byId("key").value = apiKey();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(byId("key").value.trim());
    connect();
  });
}

const cluster = setUpCluster();
setUpKey();
setUpAsk();
setUpRouting();
setUpTabs(["ask", "cluster", "routing"], (name) => cluster.turn(name === "cluster"));
connect();

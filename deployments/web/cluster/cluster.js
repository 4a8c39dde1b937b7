/** @file The state of the cluster, asked for again and again while it can be seen. */

import { getJson } from "../lib/api.js";
import { byId, setText } from "../lib/dom.js";
import { Poll } from "../lib/poll.js";
import { showLastHour } from "./last_hour.js";
import { ModelTable } from "./model_table.js";
import { TokenRates } from "./token_rates.js";

const PERIOD_MS = 2000;

/** @returns {Poll} Turned on while the view is open. */
export function setUpCluster() {
  const table = new ModelTable(byId("models"), byId("model-messages"));
  const rates = new TokenRates();
  return new Poll(async () => {
    try {
      const { models, last_hour: lastHour } = await getJson("cluster");
      table.show(models, rates.next(models));
      showLastHour(lastHour);
      setText(byId("cluster-note"), "");
    } catch (error) {
      setText(byId("cluster-note"), `Not up to date: ${error.message}. The page asks again every two seconds.`);
    }
  }, PERIOD_MS);
}

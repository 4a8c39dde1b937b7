/** @file The models that this API key may use. */

import { getJson } from "./api.js";
import { knowAuthors, META } from "./authors.js";

/** `generalist`: what clients call the whole cluster. `names`: the meta and the experts. */
export const models = { generalist: "", names: [], experts: [] };

/** Asks the router for its models. @throws {ApiError} */
export async function loadModels() {
  const ids = (await getJson("v1/models")).data.map(({ id }) => id);
  models.generalist = ids[0];
  const prefix = `${ids[0]}/`; // aliases have another beginning
  models.names = ids.filter((id) => id.startsWith(prefix)).map((id) => id.slice(prefix.length));
  models.experts = models.names.filter((name) => name !== META);
  knowAuthors(models.experts);
}

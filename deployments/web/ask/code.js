/** @file A request as a command and as a program. */

import { BASE } from "../lib/api.js";
import { apiKey } from "../lib/key.js";

const OWN_FIELDS = ["routing", "top_k", "min_p", "repetition_penalty", "chat_template_kwargs"];

/** @param {object} request @returns {string} A command of a POSIX shell. The API key is not in it. */
export function asCurl(request) {
  const json = JSON.stringify(request, null, 2).replaceAll("'", "'\\''");
  const key = apiKey() ? " \\\n  -H \"Authorization: Bearer $ETR_API_KEY\"" : "";
  return `curl -N ${new URL("v1/chat/completions", BASE)} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${json}'`;
}

/**
 * @param {any} request
 * @param {string} model What the program names if the request names no model; OpenAI's package needs one.
 * @returns {string} A program that uses OpenAI's package.
 */
export function asPython(request, model) {
  const own = Object.entries(request).filter(([name]) => OWN_FIELDS.includes(name));
  const known = Object.entries({ model, ...request }).filter(([name]) => !OWN_FIELDS.includes(name));
  const lines = known.map(([name, value]) => `    ${name}=${literal(value)},`);
  return `import os
from openai import OpenAI

client = OpenAI(base_url="${new URL("v1", BASE)}", api_key=os.environ.get("ETR_API_KEY", "none"))
stream = client.chat.completions.create(
${lines.join("\n")}
    extra_body=${literal(Object.fromEntries(own))},
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, own]) => `${JSON.stringify(name)}: ${literal(own)}`).join(", ")}}`;
}

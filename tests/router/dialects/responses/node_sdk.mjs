// Asks /v1/responses as OpenAI's SDK for Node does, and prints what it got as JSON.
// Arguments: the folder that has the SDK in its node_modules, and the address of the API.
import { createRequire } from "node:module";

const [folder, baseURL] = process.argv.slice(2);
const { OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const model = "generalist";
const question = { model, input: "What is 9 as a roman numeral?" };
const tools = [{ type: "function", name: "to_roman", strict: true, parameters: { type: "object" } }];

const whole = await client.responses.create(question);

const stream = client.responses.stream({ ...question, model });
const kinds = [];
let text = "";
for await (const event of stream) {
  kinds.push(event.type);
  if (event.type === "response.output_text.delta") text += event.delta;
}
const final = await stream.finalResponse();

const input = [{ role: "user", content: "9 and 8 as roman numerals?" }];
const called = await client.responses.create({ model, input, tools });
const calls = called.output.filter((item) => item.type === "function_call");

const refused = await client.responses
  .create({ ...question, previous_response_id: "resp_1" })
  .catch((error) => ({ status: error.status, code: error.code, param: error.param }));

console.log(
  JSON.stringify({
    whole: whole.output_text,
    streamed: text,
    final: final.output_text,
    first: kinds[0],
    last: kinds.at(-1),
    calls: calls.map((call) => [call.name, call.arguments]),
    refused,
  }),
);

/** @file Server-sent events, read from the body of a response. */

/**
 * The data of each event. Comments, such as heartbeats, are left out.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* events(body) {
  let data = [];
  for await (const line of lines(body)) {
    if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    if (line !== "" || !data.length) continue;
    yield data.join("\n");
    data = [];
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // Not at U+2028 and the like, which a JSON string may contain.
      const parts = (rest + value).split("\n");
      rest = parts.pop() ?? "";
      for (const part of parts) yield part.endsWith("\r") ? part.slice(0, -1) : part;
    }
  } finally {
    await reader.cancel().catch(() => {}); // the request may have been aborted already
  }
}

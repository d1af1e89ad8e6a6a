// What the page asks of its server. The API key stays in this tab.

const KEY = "outpace.key";

/** An answer that is an error; status 0: there was no answer. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Use a key from now on. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The names of the models. */
export async function models() {
  const answer = await (await ask("v1/models")).json();
  return answer.data.map((model) => model.id);
}

/** The chunks of a chat's answer. A signal that aborts ends it, which cancels the request. */
export async function* chat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const events = (held + read.value).split("\n\n");
    held = events.pop();
    for (const event of events.filter((one) => one.startsWith("data: "))) {
      const data = event.slice(6);
      if (data === "[DONE]") {
        return;
      }
      yield unlessError(JSON.parse(data));
    }
  }
  throw new Refused(0, "The server hung up before the end of the answer.");
}

function unlessError(chunk) {
  if (chunk.error) {
    throw new Refused(200, chunk.error.message);
  }
  return chunk;
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(0, "The server cannot be reached.");
  }
  if (!response.ok) {
    throw new Refused(response.status, await messageOf(response));
  }
  return response;
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answers with status ${response.status}.`;
  }
}

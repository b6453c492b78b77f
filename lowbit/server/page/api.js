// SPDX-License-Identifier: Apache-2.0
// The server's API: requests, streams of server-sent events, and errors as sentences for people.
import { getApiKey } from "./store.js";

// Relative to this file, so that the page also works below a path of a proxy. Prompts travel in bodies alone.
const root = new URL("../", import.meta.url);

/** message: one or more whole sentences; kind: "gone", "key", "loading", "context" or "refused". */
export class Fault extends Error {
  constructor(message, kind) {
    super(message);
    this.kind = kind;
  }
}

function sentence(text) {
  const trimmed = text.trim().replace(/\.$/, "");
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + ".";
}

/** error: the object "error" of a body of the API, or null. */
function faultOf(status, error) {
  const said = sentence(error?.message || `It answered with status ${status}`);
  if (status === 401) {
    const text = getApiKey() ? "The server does not accept this API key." : "This server asks for an API key.";
    return new Fault(text, "key");
  }
  if (error?.code === "context_length_exceeded") {
    const help = "Start a new chat, shorten a message or ask for fewer tokens.";
    return new Fault(`This does not fit into the model's context. ${said} ${help}`, "context");
  }
  if (status === 503 && /loaded|loading/.test(said)) {
    return new Fault("The model is still being loaded. Try again in a moment.", "loading");
  }
  if (status === 503) return new Fault(`The server takes no requests now. ${said}`, "refused");
  if (status >= 500) return new Fault(`The server could not answer. ${said}`, "refused");
  return new Fault(`The server refused this. ${said}`, "refused");
}

const gone = () => new Fault("The server does not answer. Is lowbit serve still running?", "gone");

/** The response, if it is one of success. Without body it is a GET. */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (getApiKey()) headers.Authorization = `Bearer ${getApiKey()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, root), {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : gone();
  }
  if (response.ok) return response;
  const json = await response.json().catch(() => null);
  throw faultOf(response.status, json?.error);
}

/** The data of each server-sent event of a response, up to [DONE]. */
async function* eventsOf(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (true) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Fault("The connection ended before the answer did.", "gone");
    }
    if (piece.done) throw new Fault("The connection ended before the answer did.", "gone");
    text += decoder.decode(piece.value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue; // a comment that keeps the connection alive
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/** The chunks of a streamed chat; the last one has its usage. */
export async function* streamChat(body, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", { body: { ...body, ...options }, signal });
  for await (const chunk of eventsOf(response)) {
    if (chunk.error) throw faultOf(500, chunk.error);
    yield chunk;
  }
}

export async function listModels() {
  const response = await request("v1/models");
  return (await response.json()).data;
}

// SPDX-License-Identifier: Apache-2.0
// Two models, one prompt: both greedy, so that the first token that differs is a difference of the models. Tokens come
// from the log-probabilities; texts are compared as bytes, for models may cut them differently.
import { listModels, streamChat } from "./api.js";
import { byId, bytes, copyButton, make, plural, rate, seconds } from "./dom.js";
import { latest } from "./engine.js";
import { load, save } from "./store.js";

let models = [];
let abort = null;
let reportFault = () => {};

// ---- one side

function makeSide(model) {
  const text = make("p", { class: "compared" });
  const state = make("p", { class: "waiting" }, "Waits");
  const fault = make("p", { class: "fault", hidden: true });
  const stats = make("dl", { class: "stats" });
  const element = make("article", { class: "card side" }, make("h3", {}, model), stats, state, text, fault);
  return { model, element, parts: { text, state, fault, stats }, tokens: [], first: null, last: null, usage: null };
}

function showStats(side) {
  const time = side.last - side.first;
  const speed = side.tokens.length > 1 && time > 0 ? (side.tokens.length - 1) / time : null;
  const weights = latest()?.sum("lowbit:weight_bytes", side.model);
  const rows = [
    ["Speed", speed === null ? "–" : `${rate(speed)} tokens/s`],
    ["First token", side.first === null ? "–" : `after ${seconds(side.first)}`],
    ["Length", plural(side.tokens.length, "token")],
    ["Weights", weights ? bytes(weights) : "–"],
  ];
  side.parts.stats.replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

async function run(side, body, signal) {
  try {
    if (!(await isLoaded(side.model))) {
      // The time to the first token is the model's, not the disk's.
      side.parts.state.textContent = "Loading the model";
      for await (const chunk of streamChat({ ...body, max_tokens: 1, model: side.model }, signal)) void chunk;
    }
    side.parts.state.textContent = "Reading the prompt";
    const begin = performance.now();
    for await (const chunk of streamChat({ ...body, model: side.model }, signal)) {
      const added = chunk.choices[0]?.logprobs?.content ?? [];
      if (added.length === 0) continue;
      side.last = (performance.now() - begin) / 1000;
      side.first ??= side.last;
      side.tokens.push(...added);
      side.parts.state.textContent = "Writing";
      show();
    }
    side.isDone = true;
    side.parts.state.textContent = "";
  } catch (error) {
    side.parts.state.textContent = error.name === "AbortError" ? "Stopped" : "";
    if (error.name === "AbortError") return;
    side.parts.fault.textContent = error.message;
    side.parts.fault.hidden = false;
    if (["key", "gone", "loading"].includes(error.kind)) reportFault(error);
  }
}

/** A server of several models loads them on first use and says which are loaded. */
async function isLoaded(model) {
  return (await listModels()).find(({ id }) => id === model)?.loaded !== false;
}

// ---- both

let sides = [];

const bytesOf = (side) => side.tokens.flatMap(({ bytes: list, token }) => list ?? [...new TextEncoder().encode(token)]);

/** Where the texts part: {byte, tokens: [index in each]}, or null as long as one begins with the other. */
function parting() {
  const [a, b] = sides.map(bytesOf);
  const shorter = Math.min(a.length, b.length);
  let byte = 0;
  while (byte < shorter && a[byte] === b[byte]) ++byte;
  const bothEnded = sides.every((side) => side.isDone);
  if (byte === shorter && !(bothEnded && a.length !== b.length)) return null;
  const tokens = sides.map((side) => {
    let end = 0;
    const at = side.tokens.findIndex(({ bytes: list, token }) => (end += list?.length ?? new TextEncoder().encode(token).length) > byte);
    return at < 0 ? side.tokens.length : at;
  });
  return { byte, tokens };
}

const textOf = (list) => new TextDecoder().decode(new Uint8Array(list));
const quoted = (text) => `“${text.replaceAll("\n", "↵").replaceAll(" ", "\u00a0")}”`;
const chance = (token) => `${(100 * Math.exp(token.logprob)).toFixed(0)} %`;

function show() {
  const parts = sides.length === 2 ? parting() : null;
  sides.forEach((side, at) => {
    showStats(side);
    const list = bytesOf(side);
    if (!parts) {
      side.parts.text.replaceChildren(textOf(list));
      return;
    }
    const before = side.tokens.slice(0, parts.tokens[at]), token = side.tokens[parts.tokens[at]];
    const start = bytesOf({ tokens: before }).length;
    const end = start + (token ? bytesOf({ tokens: [token] }).length : 0);
    side.parts.text.replaceChildren(
      textOf(list.slice(0, start)),
      make("mark", { title: "The first token that differs" }, token ? textOf(list.slice(start, end)) : "⏹"),
      make("span", { class: "after" }, textOf(list.slice(end))),
    );
  });
  byId("verdict").replaceChildren(...verdict(parts));
}

function verdict(parts) {
  if (!parts) {
    const isSame = sides.length === 2 && sides.every((side) => side.isDone && side.tokens.length > 0);
    return isSame ? [`Both answers are the same, all ${plural(sides[0].tokens.length, "token")} of them.`] : [];
  }
  const [a, b] = sides.map((side, at) => side.tokens[parts.tokens[at]]);
  const says = (side, token, other) => {
    if (!token) return `${side.model} ends here`;
    const top = other && token.top_logprobs?.find((one) => one.token === other.token);
    return `${side.model} takes ${quoted(token.token)} at ${chance(token)}` + (top ? ` and had the other's at ${chance(top)}` : "");
  };
  const where = parts.tokens[0] === parts.tokens[1] ? `Token ${parts.tokens[0] + 1} is the first that differs` : `They part after ${plural(parts.byte, "byte")}`;
  return [`${where}: ${says(sides[0], a, b)}; ${says(sides[1], b, a)}.`];
}

async function compare() {
  const body = {
    messages: [{ role: "user", content: byId("compare-prompt").value }],
    max_tokens: byId("compare-tokens").valueAsNumber,
    temperature: 0,
    seed: 1,
    logprobs: true,
    top_logprobs: 5,
  };
  abort = new AbortController();
  setBusy(true);
  sides = [byId("compare-a").value, byId("compare-b").value].map(makeSide);
  byId("sides").replaceChildren(...sides.map(({ element }) => element));
  byId("verdict").replaceChildren();
  show();
  if (byId("compare-together").checked) {
    await Promise.all(sides.map((side) => run(side, body, abort.signal)));
  } else {
    for (const side of sides) await run(side, body, abort.signal);
  }
  abort = null;
  setBusy(false);
  show();
  // The weights of a model that was loaded just now stand in the next poll.
  setTimeout(() => sides.forEach(showStats), 2000);
}

function setBusy(isBusy) {
  const hadFocus = [byId("compare-run"), byId("compare-stop")].includes(document.activeElement);
  byId("compare-run").hidden = isBusy;
  byId("compare-stop").hidden = !isBusy;
  if (hadFocus) byId(isBusy ? "compare-stop" : "compare-run").focus();
  byId("sides").setAttribute("aria-busy", String(isBusy));
}

// ---- from the frame of the page

export function setModels(list) {
  models = list.map(({ id }) => id);
  byId("compare-form").hidden = models.length < 2;
  byId("compare-alone").hidden = models.length >= 2;
  if (models.length < 2) return showAlone();
  const kept = load("compare", []);
  ["compare-a", "compare-b"].forEach((id, at) => {
    const select = byId(id);
    const wanted = select.value || kept[at];
    select.replaceChildren(...models.map((name) => make("option", { value: name }, name)));
    select.value = models.includes(wanted) ? wanted : models[at];
  });
}

function showAlone() {
  const command = "lowbit serve --model four=model.gguf,w=int4.g32 --model eight=model.gguf,w=int8.channel";
  byId("compare-alone").replaceChildren(
    make("p", {}, `This server has one model, ${models[0]}. With two, for example the same file in two formats, they can be compared here:`),
    make("div", { class: "code" },
      make("div", { class: "code-bar" }, make("span", {}, "shell"), copyButton(() => command, "Copy code")),
      make("pre", { tabindex: 0, role: "group", "aria-label": "Command" }, make("code", {}, command))),
  );
}

export function start(onFault) {
  reportFault = onFault;
  byId("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (abort || !byId("compare-prompt").value.trim()) return;
    save("compare", [byId("compare-a").value, byId("compare-b").value]);
    compare();
  });
  byId("compare-stop").addEventListener("click", () => abort?.abort());
  byId("compare-prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("compare-form").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") abort?.abort();
  });
}

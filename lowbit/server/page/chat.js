// SPDX-License-Identifier: Apache-2.0
// The conversation: what was said, the answer that is being written, and what one can do with both. The messages are
// the state; the document shows them and is never read back.
import { listModels, streamChat } from "./api.js";
import { button, byId, copyButton, make, plural, rate, seconds } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { load, save } from "./store.js";

const ideas = [
  "Explain what a quantized language model is, as to a friend.",
  "Write a Python function that tells whether a text is a palindrome.",
  "Plan a rainy Sunday in a small town, as a table.",
];
const numbers = ["temperature", "top_p", "max_tokens", "seed"];
// Plain sampling, a server's default, is more than small models bear. An empty field leaves it to the server.
const defaults = { temperature: "0.7", top_p: "0.95" };
const nearEnd = 80; // pixels: who is this close to the end of the page wants to stay there

/** {role, content}; of answers also model, stats, finish ("stop", "length", "stopped") and fault, a sentence. */
let messages = load("messages", []).filter((message) => typeof message?.content === "string");
let models = [];
let abort = null; // of the answer that is being written
let lastSaved = 0;
let leaves = false; // the page is being left, and the connection ends for that alone
let reportFault = () => {};
const shown = new Map(); // message -> {element, update}

// ---- what is sent

function settings() {
  const values = {};
  for (const name of numbers) {
    const field = byId(name);
    if (field.value !== "" && field.checkValidity()) values[name] = field.valueAsNumber;
  }
  return values;
}

/** An answer that failed before its first word is left out, and two turns of a person in a row become one: templates
    expect turns that alternate. */
function turns(upTo) {
  const list = [];
  const system = byId("system").value.trim();
  if (system) list.push({ role: "system", content: system });
  for (const { role, content } of messages.slice(0, upTo)) {
    if (!content) continue;
    if (list.at(-1)?.role === role) list.at(-1).content += "\n\n" + content;
    else list.push({ role, content });
  }
  return list;
}

// ---- answers

const isBusy = () => abort !== null;

function send(text) {
  messages.push({ role: "user", content: text });
  showAll();
  toEnd();
  return answer();
}

/** Writes the next answer, or goes on with the last one. */
async function answer({ goesOn = false } = {}) {
  const model = byId("chat-model").value;
  if (!goesOn) messages.push({ role: "assistant", content: "", model });
  const message = messages.at(-1);
  delete message.fault;
  delete message.finish;
  const body = { model, messages: turns(messages.length), ...settings() };
  if (goesOn) Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
  abort = new AbortController();
  showAll();
  const begin = performance.now();
  let first = null, usage = null, frame = 0;
  const draw = () => {
    frame = 0;
    const stays = isNearEnd();
    shown.get(message)?.update();
    if (stays) toEnd();
    saveSoon();
  };
  try {
    for await (const chunk of streamChat(body, abort.signal)) {
      if (chunk.usage) usage = chunk.usage;
      const choice = chunk.choices[0];
      if (choice?.delta.content) {
        first ??= performance.now();
        message.content += choice.delta.content;
        if (!frame) frame = requestAnimationFrame(draw);
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      message.finish = "stopped";
    } else {
      message.fault = error.message;
      if (["key", "gone", "loading"].includes(error.kind)) reportFault(error);
    }
  }
  cancelAnimationFrame(frame);
  if (usage && first !== null) {
    const time = (performance.now() - first) / 1000;
    message.stats = {
      n_tokens: usage.completion_tokens,
      first: (first - begin) / 1000,
      rate: usage.completion_tokens > 1 ? (usage.completion_tokens - 1) / time : null,
    };
    showContext(usage.total_tokens);
  }
  abort = null;
  const stays = isNearEnd();
  showAll();
  if (stays) toEnd();
  keep();
}

function stop() {
  abort?.abort();
}

function regenerate() {
  if (isBusy()) return;
  if (messages.at(-1)?.role === "assistant") messages.pop();
  answer();
  toPrompt(); // the button is gone with its message
}

// ---- what is kept

function saveSoon() {
  if (performance.now() - lastSaved > 500) keep();
}

function keep() {
  if (leaves) return;
  lastSaved = performance.now();
  const isKept = save("messages", messages);
  byId("keys").classList.toggle("not-kept", !isKept);
}

function keepSettings() {
  const values = { system: byId("system").value, model: byId("chat-model").value };
  for (const name of numbers) values[name] = byId(name).value;
  save("settings", values);
}

// ---- what is shown

function showAll() {
  const place = byId("messages");
  const last = messages.at(-1);
  for (const [message, { element }] of shown) {
    if (messages.includes(message)) continue;
    element.remove();
    shown.delete(message);
  }
  for (const message of messages) {
    if (!shown.has(message)) {
      const view = message.role === "user" ? personView(message) : answerView(message);
      shown.set(message, view);
      place.append(view.element);
    }
    const { element, update } = shown.get(message);
    element.classList.toggle("writing", isBusy() && message === last);
    element.classList.toggle("last", message === last);
    update();
  }
  // Told once, when the answer is whole.
  place.setAttribute("aria-busy", String(isBusy()));
  byId("welcome").hidden = messages.length > 0;
  byId("new-chat").disabled = messages.length === 0;
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = isBusy();
  byId("stop").hidden = !isBusy();
  if (hadFocus) toPrompt();
  if (messages.length === 0) showContext(0);
}

function personView(message) {
  const text = make("div", { class: "text" });
  const edit = button("Edit", "edit", () => !isBusy() && beginEdit(message, element), { class: "quiet edit" });
  const actions = make("div", { class: "actions" }, edit, copyButton(() => message.content));
  const element = make("article", { class: "message person", "aria-label": "You" }, text, actions);
  const update = () => {
    if (text.textContent !== message.content) text.textContent = message.content;
  };
  return { element, update };
}

function answerView(message) {
  const who = make("p", { class: "who" }, message.model || "Model");
  const text = make("div", { class: "text markdown" });
  const waiting = make("p", { class: "waiting" }, "Reading the prompt");
  const note = make("p", { class: "note" });
  const fault = make("p", { class: "fault" });
  const goOn = button("Continue", "more", () => !isBusy() && answer({ goesOn: true }), { class: "quiet go-on" });
  const again = button("Regenerate", "again", regenerate, { class: "quiet again" });
  const copy = copyButton(() => message.content);
  const actions = make("div", { class: "actions" }, copy, again, goOn, note);
  const element = make("article", { class: "message answer", "aria-label": "Answer" }, who, text, waiting, fault, actions);
  let drawn = null;
  const update = () => {
    const isWriting = element.classList.contains("writing");
    if (drawn !== message.content) renderMarkdown(text, message.content);
    drawn = message.content;
    waiting.hidden = !isWriting || message.content !== "";
    fault.textContent = message.fault ?? "";
    fault.hidden = !message.fault;
    copy.hidden = !message.content;
    goOn.hidden = !message.content || !(["length", "stopped"].includes(message.finish) || message.fault);
    actions.hidden = isWriting;
    note.textContent = noteOf(message);
  };
  return { element, update };
}

function noteOf({ stats, finish, content }) {
  const parts = [];
  if (finish === "length") parts.push("cut at the limit of tokens");
  if (finish === "stopped") parts.push("stopped");
  if (finish === "stop" && !content) parts.push("the model had nothing to say");
  if (stats) {
    parts.push(plural(stats.n_tokens, "token"));
    if (stats.rate) parts.push(`${rate(stats.rate)} tokens/s`);
    parts.push(`first after ${seconds(stats.first)}`);
  }
  return parts.join(" · ");
}

async function showContext(n_tokens) {
  const find = () => models.find((model) => model.id === byId("chat-model").value)?.max_model_len;
  // A model that is loaded on first use has none before.
  if (n_tokens && !find()) models = await listModels().catch(() => models);
  const most = find();
  byId("context").textContent = n_tokens && most ? `${n_tokens} of ${plural(most, "token")} of context` : "";
}

function beginEdit(message, element) {
  const field = make("textarea", { "aria-label": "Edit the message", rows: 1 });
  field.value = message.content;
  const close = () => {
    form.replaceWith(...hidden);
    element.classList.remove("editing");
    element.querySelector(".edit").focus();
  };
  const submit = () => {
    const text = field.value.trim();
    if (!text || isBusy()) return;
    messages = messages.slice(0, messages.indexOf(message));
    send(text);
    toPrompt();
  };
  const form = make(
    "form",
    { class: "edit-form", onsubmit: (event) => { event.preventDefault(); submit(); } },
    field,
    make("small", {}, "What follows this message is written anew."),
    make("div", { class: "actions" },
      make("button", { type: "submit" }, "Send"),
      make("button", { type: "button", class: "quiet", onclick: close }, "Cancel")),
  );
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSendKey(event)) {
      event.preventDefault();
      submit();
    }
  });
  field.addEventListener("input", () => fit(field));
  const hidden = [...element.children];
  element.replaceChildren(form);
  element.classList.add("editing");
  fit(field);
  field.focus();
}

const isSendKey = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

/** As many lines as the text has, up to a third of the window. */
function fit(field) {
  field.rows = 1;
  const style = getComputedStyle(field);
  const line = Number.parseFloat(style.lineHeight);
  const padding = Number.parseFloat(style.paddingTop) + Number.parseFloat(style.paddingBottom);
  const most = Math.max(3, Math.floor(innerHeight / 3 / line));
  field.rows = Math.min(most, Math.max(1, Math.round((field.scrollHeight - padding) / line)));
}

/** Where a keyboard goes on. On a phone this would open the keyboard of the screen over the answer. */
function toPrompt() {
  if (matchMedia("(pointer: coarse)").matches) return;
  byId("prompt").focus({ preventScroll: true });
}

// ---- the end of the page

const isNearEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - nearEnd;

function toEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
}

// ---- from the frame of the page

export function setModels(list) {
  models = list;
  const select = byId("chat-model");
  const wanted = select.value || load("settings", {}).model;
  select.replaceChildren(...list.map(({ id }) => make("option", { value: id }, id)));
  if (list.some(({ id }) => id === wanted)) select.value = wanted;
  byId("welcome-lead").textContent = `Ask ${select.value} something.`;
}

function clear() {
  const before = messages;
  stop();
  messages = [];
  showAll();
  keep();
  const undo = button("Bring it back", "again", () => {
    if (messages.length === 0) messages = before;
    place.remove();
    showAll();
    keep();
  });
  const place = make("p", { class: "undo", role: "status" }, "The conversation is cleared. ", undo);
  byId("welcome").append(place);
  setTimeout(() => place.remove(), 15000);
  toPrompt();
}

export function start(onFault) {
  reportFault = onFault;
  const kept = load("settings", {});
  for (const name of ["system", ...numbers]) byId(name).value = kept[name] ?? defaults[name] ?? "";
  byId("settings").addEventListener("input", keepSettings);
  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("reset-settings").addEventListener("click", () => {
    for (const name of ["system", ...numbers]) byId(name).value = defaults[name] ?? "";
    keepSettings();
  });
  byId("chat-model").addEventListener("change", () => {
    keepSettings();
    byId("welcome-lead").textContent = `Ask ${byId("chat-model").value} something.`;
  });
  byId("toggle-settings").addEventListener("click", () => {
    const opens = byId("settings").hidden;
    byId("settings").hidden = !opens;
    byId("view-chat").classList.toggle("with-settings", opens);
    byId("toggle-settings").setAttribute("aria-expanded", String(opens));
    if (opens) byId("system").focus();
  });
  byId("new-chat").addEventListener("click", clear);
  byId("stop").addEventListener("click", stop);
  byId("to-end").addEventListener("click", toEnd);
  addEventListener("scroll", () => (byId("to-end").hidden = isNearEnd()), { passive: true });

  const prompt = byId("prompt");
  const submit = () => {
    const text = prompt.value.trim();
    if (!text || isBusy()) return;
    prompt.value = "";
    fit(prompt);
    send(text);
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener("input", () => fit(prompt));
  prompt.addEventListener("keydown", (event) => {
    if (isSendKey(event)) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !prompt.value && !isBusy()) {
      const last = messages.findLast(({ role }) => role === "user");
      if (!last) return;
      event.preventDefault();
      shown.get(last).element.querySelector(".edit")?.click();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  addEventListener("pagehide", () => {
    keep();
    leaves = true;
  });
  addEventListener("pageshow", () => (leaves = false));

  byId("ideas").append(...ideas.map((idea) =>
    make("li", {}, make("button", { type: "button", class: "idea", onclick: () => !isBusy() && send(idea) }, idea))));
  for (const message of messages) {
    // The page was left while it was being written.
    if (message.role === "assistant" && !message.finish && !message.fault) message.finish = "stopped";
  }
  showAll();
  if (messages.length > 0) requestAnimationFrame(toEnd);
}

// SPDX-License-Identifier: Apache-2.0
// The frame of the page: views by the address' fragment, the models, the API key, and what is wrong with the server.
import { listModels } from "./api.js";
import * as chat from "./chat.js";
import * as compare from "./compare.js";
import { byId, make } from "./dom.js";
import * as engine from "./engine.js";
import { getApiKey, setApiKey } from "./store.js";

const views = { chat, engine, compare };

function showView() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return; // the skip link
  const name = wanted in views ? wanted : "chat";
  for (const key of Object.keys(views)) byId(`view-${key}`).hidden = key !== name;
  for (const link of document.querySelectorAll(".views a")) {
    const isHere = link.hash === `#${name}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (isHere) document.title = `${link.textContent} · lowbit`;
  }
  views[name].shown?.();
}

// ---- the server: models, key, notices

async function connect() {
  try {
    const models = await listModels();
    byId("key-form").hidden = true;
    notice("");
    for (const view of Object.values(views)) view.setModels?.(models);
  } catch (fault) {
    onFault(fault);
  }
}

/** Faults that concern the whole page; every view hands in its own. */
function onFault(fault) {
  if (fault.kind === "key") {
    const isFirst = byId("key-form").hidden;
    byId("key-form").hidden = false;
    byId("key-note").textContent = fault.message;
    if (isFirst || getApiKey()) byId("key").focus();
    return;
  }
  const text = fault.kind === "loading" ? "The model is being loaded. This page goes on by itself." : fault.message;
  notice(text);
}

function notice(text) {
  const place = byId("notice");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(byId("key").value.trim());
  byId("key").value = "";
  connect().then(() => byId("key-form").hidden && byId("prompt").focus());
});

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment names the view
  const place = byId("view-chat").hidden ? byId("main") : byId("prompt");
  place.focus();
});

// The engine's poll sees first that the server has gone or come back. While a notice is shown it asks again.
engine.watch((isThere) => {
  byId("state").replaceChildren(make("span", { class: isThere ? "dot" : "dot off" }), isThere ? "Connected" : "Not connected");
  if (isThere && !byId("notice").hidden) connect();
  else if (!isThere && byId("notice").hidden) notice("The server does not answer. Is lowbit serve still running?");
});

for (const view of Object.values(views)) view.start?.(onFault);
addEventListener("hashchange", showView);
showView();
connect();

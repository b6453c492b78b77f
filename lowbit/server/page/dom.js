// SPDX-License-Identifier: Apache-2.0
// Elements from code. Text becomes text nodes, never markup: what a model says cannot become part of the page.

export const byId = (id) => document.getElementById(id);

/** make("button", {class: "x", onclick: f, "aria-label": "y"}, "text", node, ...): null and false are left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** One of the drawings at the end of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(svg.namespaceURI, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export function button(label, iconName, onclick, more = {}) {
  return make("button", { type: "button", class: "quiet", onclick, ...more }, icon(iconName), make("span", {}, label));
}

/** A button that copies what text() gives and says so. */
export function copyButton(text, label = "Copy") {
  const say = (word) => {
    copy.lastChild.textContent = word;
    setTimeout(() => (copy.lastChild.textContent = label), 1600);
  };
  const copy = button(label, "copy", async () => {
    try {
      await navigator.clipboard.writeText(text());
      say("Copied");
    } catch {
      say(copyOldWay(text()) ? "Copied" : "Not allowed");
    }
  });
  return copy;
}

/** Without https the clipboard's interface is there on localhost alone. */
function copyOldWay(text) {
  const before = document.activeElement;
  const field = make("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  return done;
}

export const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`);

export const rate = (value) => value.toFixed(value < 100 ? 1 : 0);

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) {
    count /= 1000;
    ++at;
  }
  return `${at === 0 ? count : count.toPrecision(3)} ${units[at]}`;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// SPDX-License-Identifier: Apache-2.0
// What the browser keeps: settings and the conversation until they are cleared, the API key until the tab closes.
// Storage can be off or full; the page then works without it.

const prefix = "lowbit.";

export function load(key, otherwise) {
  try {
    const text = localStorage.getItem(prefix + key);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** False: it was not kept. */
export function save(key, value) {
  try {
    localStorage.setItem(prefix + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

let apiKey = "";
try {
  apiKey = sessionStorage.getItem(prefix + "key") ?? "";
} catch {
  // It is asked for again.
}

export const getApiKey = () => apiKey;

export function setApiKey(key) {
  apiKey = key;
  try {
    sessionStorage.setItem(prefix + "key", key);
  } catch {
    // It holds until the page is closed.
  }
}

// SPDX-License-Identifier: Apache-2.0
// The theme that was chosen, before the first paint: this one script is not a module, for modules wait for the
// document. Without a choice the system's preference holds.
(() => {
  const key = "lowbit.theme";
  let chosen = null;
  try {
    chosen = localStorage.getItem(key);
  } catch {
    // No storage, no choice.
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (chosen === null ? dark.matches : chosen === "dark");
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    document.getElementById("theme")?.setAttribute("aria-pressed", String(isDark()));
  };
  show();
  dark.addEventListener("change", show);
  addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      chosen = isDark() ? "light" : "dark";
      try {
        localStorage.setItem(key, chosen);
      } catch {
        // It holds until the page is closed.
      }
      show();
    });
  });
})();

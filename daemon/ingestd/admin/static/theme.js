// Runs before the first paint, so that a chosen theme never flashes.
"use strict";
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("ingestd-theme"); } catch { /* storage may be closed to us */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  document.documentElement.classList.add("js");

  // ---- colours: system, light, dark ----
  const order = ["system", "light", "dark"];
  let theme = null;
  function colours(name) {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    try { localStorage.setItem("ingestd-theme", name); } catch { /* storage may be closed to us */ }
    theme.title = "Colours: " + name;
    theme.setAttribute("aria-label", theme.title);
    document.dispatchEvent(new Event("ingestd:theme"));
  }
  document.addEventListener("DOMContentLoaded", () => {
    theme = document.getElementById("theme-switch");
    theme.hidden = false;
    colours(document.documentElement.dataset.theme || "system");
    theme.addEventListener("click", () => {
      const now = document.documentElement.dataset.theme || "system";
      colours(order[(order.indexOf(now) + 1) % order.length]);
    });
  });
})();

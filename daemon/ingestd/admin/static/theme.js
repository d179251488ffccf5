// Runs before the first paint, so that a chosen theme never flashes.
"use strict";
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("ingestd-theme"); } catch { /* storage may be closed to us */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  document.documentElement.classList.add("js");
})();

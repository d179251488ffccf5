// Keeps the page live: one request at a time, no refresh while hidden or paused, slower while the daemon does not answer.
"use strict";
(() => {
  const EVERY_MS = 2000, SLOWEST_MS = 15000;
  const live = document.getElementById("live");
  if (!live) return;
  let paused = false, failures = 0, last = Date.now(), next = Date.now() + EVERY_MS;
  let view = new URLSearchParams(location.search);
  const source = live.dataset.live || "/live";

  // The canvas is not the server's, and what a reader has opened stays open.
  Object.assign(Idiomorph.defaults.callbacks, {
    beforeNodeMorphed: (node) => !(node instanceof Element && node.hasAttribute("data-keep")),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  });

  // ---- requests take turns: of those that wait htmx would send the last alone, and call all of them answered at once ----
  let asked = 0, turn = Promise.resolve(), giveUp = () => {};
  function ask(send) {
    asked += 1;
    // An answer that cannot be drawn settles nothing in htmx, and nobody would have a turn any more.
    const sent = () => new Promise((resolve, reject) => {
      giveUp = reject;
      send().then(resolve, reject);
    });
    // What went wrong has been told already; the next has its turn all the same.
    turn = turn.then(sent).catch(() => {}).then(() => { asked -= 1; });
  }

  // ---- refresh: one that waits for its turn shows the view of that moment, so a second need not wait ----
  let waiting = false;
  function refresh() {
    if (waiting) return;
    waiting = true;
    ask(() => {
      waiting = false;
      const query = view.toString();
      return htmx.ajax("GET", source + (query ? "?" + query : ""), { target: live, swap: "morph:innerHTML" });
    });
  }

  function answered(good) {
    failures = good ? 0 : failures + 1;
    if (good) last = Date.now();
    next = Date.now() + Math.min(EVERY_MS * 2 ** failures, SLOWEST_MS);
    tell();
  }

  document.body.addEventListener("htmx:afterRequest", ({ detail }) => {
    // An action that is refused shows nothing new, and is no daemon that does not answer either.
    if (detail.successful || detail.requestConfig.verb === "get" || !detail.xhr.status) answered(detail.successful);
  });
  document.body.addEventListener("htmx:onLoadError", (event) => {
    answered(false);
    giveUp(event.detail.error);
  });
  document.body.addEventListener("htmx:afterSettle", () => document.dispatchEvent(new Event("ingestd:drawn")));

  setInterval(() => {
    if (!paused && !document.hidden && !asked && Date.now() >= next) refresh();
    tell();
  }, 250);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) next = 0; });

  // ---- the dot that says how old what you see is ----
  const button = document.getElementById("live-switch"), text = document.getElementById("live-text");
  function tell() {
    const seconds = Math.floor((Date.now() - last) / 1000);
    const state = paused ? "paused" : failures || seconds > 10 ? "stale" : "on";
    const age = seconds < 60 ? seconds + " s" : Math.floor(seconds / 60) + " min";
    const words = { on: "Live · " + age, paused: "Paused · " + age + " old", stale: "Not answering · " + age + " old" }[state];
    if (button.dataset.state !== state) button.dataset.state = state;
    if (text.textContent !== words) text.textContent = words;
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    if (!paused) next = 0;
    tell();
  });

  // ---- another view, without losing the place ----
  function show(query) {
    view = new URLSearchParams(query);
    const text = view.toString();
    history.replaceState(null, "", text ? "?" + text : location.pathname);
    refresh();
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-view]");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    show(new URL(link.href).search);
  });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "chart-pick") return;
    const query = new URLSearchParams(view);
    query.set("chart", event.target.value);
    show(query);
  });

  // ---- actions: the same forms as without JavaScript, answered in place ----
  const toast = document.getElementById("toast");
  let fading = 0, acting = null;
  function say(words, bad) {
    clearTimeout(fading);
    toast.textContent = words;
    toast.className = bad ? "on bad" : "on";
    fading = setTimeout(() => { toast.className = ""; }, bad ? 8000 : 4000);
  }
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-act]");
    if (!form) return;
    event.preventDefault();
    const press = form.querySelector("button"), action = form.getAttribute("action"), values = Object.fromEntries(new FormData(form));
    press.disabled = true;
    ask(async () => {
      acting = form;
      try {
        await htmx.ajax("POST", action, { target: live, swap: "morph:innerHTML", values });
      } finally {
        acting = null;
        press.disabled = false;
      }
    });
  });
  // What was filled in has been said: the form is put away. Refused, it stays for another try.
  function done() {
    const around = acting?.closest("details.doing");
    if (!around) return;
    acting.reset();
    around.open = false;
    around.querySelector("summary").focus();
  }
  document.body.addEventListener("htmx:afterRequest", (event) => {
    const words = event.detail.xhr?.getResponseHeader("X-Ingestd-Message");
    if (words) {
      done();
      say(words, false);
    } else if (event.detail.requestConfig.verb === "post" && !event.detail.successful) say(reason(event.detail.xhr), true);
  });
  function reason(request) {
    try {
      return JSON.parse(request.responseText).detail;
    } catch {
      return "The daemon does not answer.";
    }
  }
})();

// The page itself: what it knows, when it asks, which view is open.

import { call, forgetToken, hasToken, setToken, takeToken, tokenIn } from "./api.js";
import { act } from "./actions.js";
import { h, show } from "./dom.js";
import { short } from "./format.js";
import { button, commandLine, heading } from "./parts.js";
import { overview } from "./overview.js";
import { releases, spoken } from "./releases.js";
import { release } from "./release.js";
import { transfers } from "./transfers.js";
import { peers } from "./peers.js";
import { models } from "./models.js";
import { access } from "./access.js";
import { trust } from "./trust.js";
import { health } from "./health.js";

const VIEWS = {
  "": { title: "Overview", view: overview, asks: ["ls", "ps", "peers"] },
  releases: { title: "Releases", view: releases, asks: ["ls", "pledge.list"] },
  release: { title: "Release", view: release, asks: ["ls"], hidden: true },
  transfers: { title: "Transfers", view: transfers, asks: ["peers", "ls"] },
  peers: { title: "Peers", view: peers, asks: ["peers"] },
  models: { title: "Models", view: models, asks: ["ps", "ls"] },
  access: { title: "Access", view: access, asks: ["token.list", "usage", "ps"] },
  trust: { title: "Trust", view: trust, asks: ["trust.list"] },
  health: { title: "Health", view: health, asks: [] },
};

// Seconds between two questions; what is on no view that is open is not asked.
const EVERY = {
  jobs: 1, alerts: 2, status: 3, peers: 2, ps: 2, ls: 4, "token.list": 5, usage: 5, "trust.list": 5,
  "pledge.list": 5,
};
const ALWAYS = ["status", "jobs", "alerts"];
const TICK = 500; // milliseconds

const state = {
  view: "", argument: "", down: false, notice: null, drafts: {}, chat: { said: [], busy: false },
  status: null, jobs: null, alerts: null, ls: null, peers: null, ps: null, usage: null,
  "token.list": null, "trust.list": null, "pledge.list": null, doctor: null, found: {}, errors: {},
};
const asked = {}; // when each was asked last, and whether the answer is still to come
let drawing = false;

/** Change what the page knows, and have it shown. */
function change(values) {
  Object.assign(state, values);
  redraw();
}

function redraw() {
  if (drawing) return;
  drawing = true;
  // Not requestAnimationFrame: that never comes in a tab that lies behind another one.
  setTimeout(() => { drawing = false; draw(); });
}

/** Ask for something again now, as after a change that the owner made. */
function refresh(...names) {
  for (const name of names) delete asked[name];
  tick();
}

const app = { state, change, redraw, refresh };
app.act = act(app);

// -- asking

async function ask(name) {
  const mine = { at: Date.now(), waits: true, took: 0 };
  asked[name] = mine;
  try {
    const found = await call(name, name === "usage" ? { days: 30 } : {});
    if (asked[name] !== mine) return; // asked anew since, after a change
    if (name === "jobs" || name === "alerts") tellNews(name, found);
    change({ [name]: found, down: false, errors: { ...state.errors, [name]: null } });
  } catch (error) {
    if (error.code === "BAD_TOKEN") leave();
    else if (error.code === "SILENT") change({ down: true });
    else change({ errors: { ...state.errors, [name]: error } });
  } finally {
    mine.waits = false;
    mine.took = Date.now() - mine.at;
  }
}

function tick() {
  if (!hasToken() || document.hidden) return;
  const now = Date.now();
  for (const name of new Set([...ALWAYS, ...VIEWS[state.view].asks])) {
    const last = asked[name];
    // What takes the node long is asked seldom: a tenth of its time at most.
    const pause = last && Math.max(EVERY[name] * 1000, 10 * last.took);
    if (!last || (!last.waits && now - last.at >= pause)) ask(name);
  }
}

function leave() {
  forgetToken();
  change({ stale: true });
}

// -- news for those who do not look

let heard = null; // ids of alerts, and states of jobs, that are no news any more
function tellNews(name, found) {
  const known = new Map(Object.entries(heard?.[name] ?? {}));
  const news = [];
  const now = {};
  for (const one of name === "jobs" ? found.jobs : found.alerts) {
    const [id, text] = name === "jobs"
      ? [`${one.job} ${one.state}`, `${one.operation} ${spoken(app, one.subject)}: ${one.state}`]
      : [one.id, one.text];
    now[id] = true;
    if (!known.has(id)) news.push(text);
  }
  const first = !heard?.[name];
  heard = { ...heard, [name]: now };
  if (first) return;
  if (name === "jobs" && news.length) refresh("ls");
  const log = document.getElementById("news");
  for (const text of news) log.append(h("p", {}, text));
  while (log.childElementCount > 20) log.firstElementChild.remove();
}

// -- showing

function draw() {
  const { title } = VIEWS[state.view];
  document.title = `${title} · Allod`;
  show(document.getElementById("node"), nodeLine());
  show(document.getElementById("nav"), hasToken() ? navigation() : null);
  const main = document.getElementById("main");
  if (!hasToken()) show(main, h("div", { key: "welcome" }, welcome()));
  else show(main, state.down && downLine(), h("div", { key: state.view + state.argument },
    VIEWS[state.view].view(app)));
  show(document.getElementById("notice"), notice());
}

const nodeLine = () => state.status && [
  h("span", { class: "unseen" }, "This node: "),
  h("code", { title: state.status.peer }, short(state.status.peer, 10, 6)),
];

function navigation() {
  const running = state.jobs?.jobs.filter((one) => one.state === "running").length;
  const wrong = state.alerts?.alerts.filter((one) => one.level !== "note").length;
  const counts = {
    transfers: [running, "running"], health: [wrong, "to look at"],
    peers: [state.status?.peers, "connected"],
  };
  const open = state.view === "release" ? "releases" : state.view;
  return h("ul", {}, Object.entries(VIEWS).filter(([, one]) => !one.hidden).map(([name, one]) => {
    const [number, what] = counts[name] ?? [];
    return h("li", {}, h("a", { href: `#/${name}`, "aria-current": open === name ? "page" : null },
      one.title,
      number ? h("span", { class: `number ${name === "health" ? "warn" : ""}` },
        h("span", { class: "unseen" }, ", "), number,
        h("span", { class: "unseen" }, ` ${what}`)) : null));
  }));
}

const downLine = () => h("p", { class: "banner", role: "alert", key: "down" },
  "The node does not answer. ", h("code", {}, "allod up"),
  " starts it; this page goes on by itself when it does.");

function notice() {
  const said = state.notice;
  if (!said) return null;
  return h("div", { class: `said ${said.bad ? "bad" : ""}` },
    h("span", { class: "words" }, said.text, said.next ? ` ${said.next}` : ""),
    said.command && commandLine(said.command),
    button("Dismiss", () => change({ notice: null }), { class: "quiet" }));
}

function welcome() {
  const given = (event) => {
    event.preventDefault();
    const text = event.currentTarget.elements.token.value.trim();
    setToken(tokenIn(text) || text);
    change({ stale: false });
    tick();
  };
  return [
    heading("This page wants a token", state.stale
      ? "The one that this tab has is no longer good: the node has started anew, with another."
      : "Only who may run commands as the owner of this node may look at it, or change it."),
    h("p", {}, "In a terminal on this machine, this prints the link that opens it:"),
    commandLine("allod page"),
    h("form", { onsubmit: given, class: "row" },
      h("div", { class: "field grow" },
        h("label", { for: "token" }, "Or paste the link, or the token, here"),
        h("input", { id: "token", name: "token", type: "password", autocomplete: "off" })),
      h("button", { type: "submit" }, "Open")),
  ];
}

// -- moving about

function route() {
  if (/token=/.test(location.hash)) takeToken();
  const [, name = "", argument = ""] = /^#\/([\w]*)\/?(.*)$/.exec(location.hash) ?? [];
  const moved = state.view !== name || state.argument !== decodeURIComponent(argument);
  state.view = name in VIEWS ? name : "";
  state.argument = decodeURIComponent(argument);
  draw();
  tick();
  if (moved) {
    if (!state.notice?.bad) state.notice = null;
    document.getElementById("title")?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

takeToken();
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", tick);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment says which view is open
  document.getElementById("main").focus();
});
route();
setInterval(tick, TICK);

// What the node works on: fetches above all, with who sends the bytes; and who takes from it.

import { h } from "./dom.js";
import { ago, amount, duration, share, short, size } from "./format.js";
import { fetchCommand } from "./actions.js";
import { spoken } from "./releases.js";
import { button, commandLine, field, heading, mark, none, read, section, table, ticked }
  from "./parts.js";

const TONES = { running: "soft", done: "good", failed: "bad", cancelled: "warn" };

export function transfers(app) {
  const all = app.state.jobs?.jobs ?? [];
  const running = all.filter((one) => one.state === "running");
  const ended = all.filter((one) => one.state !== "running");
  const takers = app.state.peers?.peers.filter((one) => one.uploads) ?? [];
  return [
    heading("Transfers"),
    section("Fetch a release", form(app)),
    section("At work", running.length ? jobList(app, running) : none("Nothing at the moment.")),
    section("Given to others now", takers.length
      ? table("Peers who are sent files now", ["Peer", "#Files at once"],
        takers.map((one) => [one.peer, [h("code", {}, one.peer), one.uploads]]))
      : none("Nobody takes from this node at the moment.")),
    section("Lately", ended.length ? jobList(app, ended) : none("Nothing has ended yet.")),
  ];
}

function wanted(draft) {
  const list = (text) => (text ?? "").split(/\s+/).filter(Boolean);
  return {
    ref: draft.ref ?? "", peers: list(draft.peers), include: list(draft.include),
    pin: draft.pin ?? true, ask: true,
  };
}

function form(app) {
  const draft = app.state.drafts.fetch ?? {};
  const changed = (event) => {
    app.state.drafts.fetch = read(event.currentTarget);
    app.redraw();
  };
  const go = async (event) => {
    event.preventDefault();
    const target = event.currentTarget;
    const job = await app.act.fetch(wanted(read(target)));
    if (job === null) return;
    target.reset();
    app.state.drafts.fetch = {};
    app.redraw();
  };
  return [
    h("form", { oninput: changed, onsubmit: go, class: "card" },
      h("div", { class: "row" },
        field("Link, name or CID", "ref",
          { form: "fetch", required: true, placeholder: "alice/tiny-llm" }),
        field("Only these files", "include", { form: "fetch", placeholder: "*.safetensors" }),
        field("Ask this peer first", "peers", { form: "fetch", placeholder: "/ip4/…/p2p/…" })),
      h("div", { class: "row spread" },
        ticked("keep it until it is unpinned", "pin", true),
        commandLine(fetchCommand(wanted(draft))),
        h("button", { type: "submit" }, "Fetch"))),
  ];
}

export const jobList = (app, jobs) =>
  h("ul", { class: "jobs" }, jobs.map((one) => h("li", { key: one.job }, job(app, one))));

function job(app, one) {
  const what = `${one.operation} ${spoken(app, one.subject)}`;
  const going = one.state === "running";
  return [
    h("div", { class: "row spread" },
      h("strong", { class: "grow clip", title: one.subject }, one.operation, " ",
        h("span", { class: "subject" }, spoken(app, one.subject))),
      going ? h("span", { class: "soft" }, `for ${duration(Date.now() / 1000 - one.since)}`)
        : h("span", {}, mark(one.state, TONES[one.state]), " ",
          h("span", { class: "soft" }, ago(one.ended))),
      going ? button("Cancel", () => app.act.cancel(one.job, what),
        { class: "quiet", "aria-label": `Cancel ${what}` }) : null),
    going && one.progress ? progress(one) : null,
    one.sources.length ? sources(one) : null,
    one.error ? problem(app, one) : going && one.note
      ? h("p", { class: "soft clip", title: one.note }, one.note) : null,
  ];
}

function progress(one) {
  const done = one.progress;
  const part = share(done);
  const rate = done.rate ? `${done.unit === "B" ? size(done.rate) : Math.round(done.rate)}/s` : "";
  const left = done.total && done.rate ? `${duration((done.total - done.done) / done.rate)} left` : "";
  const from = done.sources ? `${done.sources} source${done.sources === 1 ? "" : "s"}` : "";
  return h("div", { class: "progress" },
    h("progress", { max: 1, value: part, "aria-label": `${one.operation}: ${done.phase}` }),
    h("span", {}, [done.phase, amount(done), part === null ? "" : `${Math.floor(100 * part)} %`,
      rate, left, from].filter(Boolean).join(" · ")));
}

const sources = (one) => h("ul", { class: "sources", "aria-label": "Who sent the bytes" },
  one.sources.slice(0, 12).map((each) => h("li", {},
    h("code", { title: each.peer }, short(each.peer)), ` ${size(each.bytes)} by ${each.kind}`)),
  one.sources.length > 12 ? h("li", { class: "soft" }, `and ${one.sources.length - 12} more`) : null);

function problem(app, one) {
  const again = app.state.begun?.[one.job]?.params ?? { ref: one.subject };
  const tried = app.state.jobs.jobs.some((each) => each.job > one.job &&
    each.operation === one.operation && each.subject === one.subject);
  return h("p", { class: "problem" }, one.error.message, " ",
    h("span", { class: "soft" }, one.error.next), " ",
    one.operation !== "fetch" || tried ? null : one.error.code === "UNTRUSTED"
      ? button("Take it all the same…", () => app.act.fetchTrusting(again, one.error.message))
      : button("Try again", () => app.act.fetch(again), { class: "quiet" }));
}

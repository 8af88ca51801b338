// What is wrong, and what mends it: alerts all the time, the doctor's look when asked.

import { call } from "./api.js";
import { h } from "./dom.js";
import { ago, count, moment } from "./format.js";
import { button, commandLine, heading, mark, none, section } from "./parts.js";

const TONES = { problem: "bad", warning: "warn", note: "soft", ok: "good" };

export function health(app) {
  const { alerts, doctor } = app.state;
  const checks = doctor?.value?.checks ?? [];
  return [
    heading("Health"),
    section("Now", !alerts ? none("Asking the node…")
      : alerts.alerts.length ? alertList(alerts.alerts) : none("Nothing. All is well.")),
    section("Checks", h("div", { class: "row" },
      button(doctor?.waits ? "Looking…" : "Look at everything", () => examine(app),
        { disabled: doctor?.waits ?? false }),
      commandLine("allod doctor")),
    doctor?.error ? h("p", { class: "problem" }, doctor.error.code === "NOT_FOUND"
      ? "This node has no such look." : doctor.error.message) : null,
    checks.length ? findings(checks) : null),
  ];
}

async function examine(app) {
  app.change({ doctor: { waits: true } });
  try {
    app.change({ doctor: { value: await call("doctor") } });
  } catch (error) {
    app.change({ doctor: { error } });
  }
}

const ORDER = ["problem", "warning", "note"];

function findings(checks) {
  const well = checks.filter((one) => one.level === "ok");
  const others = checks.filter((one) => one.level !== "ok")
    .sort((one, other) => ORDER.indexOf(one.level) - ORDER.indexOf(other.level));
  return [
    h("ul", { class: "alerts" }, others.map((one) =>
      h("li", { key: one.name, class: TONES[one.level] }, finding(one), fix(one.fix)))),
    h("details", {}, h("summary", {}, `${count(well.length, "check")} found nothing wrong`),
      h("ul", { class: "card" }, well.map((one) => h("li", { key: one.name }, finding(one))))),
  ];
}

const finding = (one) => h("p", {}, mark(one.level, TONES[one.level] ?? "soft"), " ",
  h("strong", {}, one.name), ` ${one.found}`);

export const alertList = (alerts) => h("ul", { class: "alerts" }, alerts.map((one) =>
  h("li", { key: one.id, class: TONES[one.level] },
    h("p", {}, mark(one.level, TONES[one.level] ?? "soft"), " ", one.text,
      one.at ? h("span", { class: "soft", title: moment(one.at) }, ` ${ago(one.at)}`) : null),
    fix(one.fix))));

/** A fix is a command line or, where one command does not do, a sentence. */
const fix = (text) => (!text ? null
  : /^allod [^;?]*$/.test(text) ? commandLine(text, "What mends it")
    : h("p", { class: "soft" }, text));

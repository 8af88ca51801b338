// What the node holds.

import { h } from "./dom.js";
import { count, short, size, ago, moment } from "./format.js";
import { badge, button, field, heading, mark, none, read, table } from "./parts.js";

const SHOWN = 300; // rows at once
const VERDICTS = { admitted: "good", refused: "bad", unjudged: "warn" };

/** How a release is called in commands: by its name if that names only this one. */
export function refOf(one, all) {
  if (!one.petname) return one.manifest;
  const same = all.filter((other) => other.petname === one.petname && other.name === one.name &&
    other.version === one.version);
  return same.length === 1 ? `${one.petname}/${one.name}@${one.version}` : one.manifest;
}

/** A reference as a person knows it: by the name of what is held, else with a short id. */
export function spoken(app, ref) {
  const one = app.state.ls?.releases.find((each) => ref.includes(each.manifest));
  if (one) return `${called(one)} ${one.version}`;
  const link = /^allod:(?:\/\/)?([a-z2-7]{40,})\/([^@?]+)@?/.exec(ref);
  return link ? `${short(link[1])}/${link[2]}` : short(ref, 48, 12);
}

export const called = (one) => `${one.petname || short(one.publisher)}/${one.name}`;

export function releases(app) {
  const { ls, errors } = app.state;
  const title = heading("Releases", ls && ls.releases.length
    ? `${count(ls.releases.length, "release")}, ` +
      `${ls.releases.filter((one) => one.complete).length} of them whole` : null);
  if (errors.ls) return [title, none(errors.ls.message)];
  if (!ls) return [title, none("Asking the node…")];
  if (!ls.releases.length) {
    return [title, none("Nothing yet. Fetch a release under Transfers, or publish one: " +
      "allod publish FOLDER --as NAME")];
  }
  const draft = app.state.drafts.filter ?? { words: "" };
  const words = draft.words.toLowerCase().split(/\s+/).filter(Boolean);
  const found = ls.releases.filter((one) => {
    const text = `${called(one)} ${one.version} ${one.kind} ${one.license}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const filter = (event) => {
    app.state.drafts.filter = read(event.currentTarget);
    app.redraw();
  };
  return [
    h("div", { class: "row spread" }, title,
      button("Free room…", () => app.act.gc(), { class: "plain" }),
      button("Verify all", () => app.act.verify("", ""), { class: "plain" })),
    h("form", { class: "row", role: "search", oninput: filter,
      onsubmit: (event) => event.preventDefault() },
      field("Only those with these words", "words", { form: "filter", type: "search" })),
    found.length ? table("Releases that this node holds",
      ["Release", "Kind", "#Size", "Licence", "Trust", "State", "Copies", "Checked", ""],
      found.slice(0, SHOWN).map((one) => [one.manifest, row(app, one, ls.releases)]))
      : none("No release has all these words."),
    found.length > SHOWN ? none(`${SHOWN} of ${found.length} are shown; words narrow it down.`)
      : null,
  ];
}

function row(app, one, all) {
  const ref = refOf(one, all);
  const name = `${called(one)} ${one.version}`;
  const action = (label, does, props = {}) =>
    button(label, does, { class: "quiet", "aria-label": `${label} ${name}`, ...props });
  return [
    [h("a", { href: `#/release/${encodeURIComponent(one.manifest)}` }, called(one)),
      h("span", { class: "soft" }, ` ${one.version}`)],
    one.kind,
    size(one.size),
    one.license || h("span", { class: "soft" }, "none"),
    mark(one.verdict, VERDICTS[one.verdict] ?? "soft"),
    [one.complete ? badge("whole") : badge("in part", "warn"),
      one.pinned ? [" ", badge("pinned", "good")] : null],
    copies(app, one),
    checked(app, one, ref),
    h("span", { class: "actions" },
      one.pinned ? action("Unpin", () => app.act.unpin(ref, name))
        : action("Pin", () => app.act.pin(ref, name)),
      action("Verify", () => app.act.verify(ref, name)),
      action("Remove", () => app.act.remove(ref, name), { class: "quiet bad" })),
  ];
}

/** How many healthy copies were seen of what is pledged, and how many there should be. */
function copies(app, one) {
  for (const pledge of app.state["pledge.list"]?.pledges ?? []) {
    const seen = pledge.releases.find((each) => each.manifest === one.manifest);
    if (seen) {
      const few = seen.healthy === null || seen.healthy < pledge.keep;
      return h("span", { title: seen.trouble || null },
        mark(`${seen.healthy ?? "?"}/${pledge.keep}`, few ? "warn" : "good"));
    }
  }
  return h("span", { class: "soft", title: "not pledged" }, "–");
}

/** When its bytes were last hashed, as far as the node remembers: since it started. */
export function checked(app, one, ref) {
  const job = app.state.jobs?.jobs.find((job) => job.operation === "verify" &&
    job.ended && job.state !== "cancelled" && ["", ref, one.ref, one.manifest].includes(job.subject));
  if (!job) return h("span", { class: "soft", title: `taken in ${moment(one.added)}` }, "on arrival");
  const tone = job.state === "done" ? "good" : "bad";
  return h("span", { title: moment(job.ended) }, mark(ago(job.ended), tone));
}

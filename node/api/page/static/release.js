// One release: what the policy makes of it and why, where it comes from, its files.

import { call } from "./api.js";
import { h } from "./dom.js";
import { ago, command, moment, short, size } from "./format.js";
import { lineage } from "./lineage.js";
import { called, checked, refOf } from "./releases.js";
import { button, commandLine, heading, mark, none, section, table } from "./parts.js";

const FILES_SHOWN = 200;

export function release(app) {
  const manifest = app.state.argument;
  const one = app.state.ls?.releases.find((each) => each.manifest === manifest);
  if (!app.state.ls) return [heading("Release"), none("Asking the node…")];
  if (!one) return [heading("Release"), none("This node does not hold it, or holds it no more.")];
  const ref = refOf(one, app.state.ls.releases);
  const name = `${called(one)} ${one.version}`;
  const origin = look(app, "provenance", manifest);
  const files = look(app, "files", manifest);
  return [
    h("div", { class: "row spread" }, heading(name), h("span", { class: "actions" },
      one.pinned ? button("Unpin", () => app.act.unpin(ref, name), { class: "plain" })
        : button("Pin", () => app.act.pin(ref, name), { class: "plain" }),
      button("Verify", () => app.act.verify(ref, name), { class: "plain" }),
      one.complete ? null : button("Fetch the rest", () => app.act.fetch({ ref })),
      one.kind === "model" ? button("Serve", () => app.act.serve({ ref })) : null,
      button("Remove", () => app.act.remove(ref, name), { class: "bad" }))),
    h("dl", { class: "facts" },
      h("dt", {}, "Publisher"), h("dd", {}, one.petname ? `${one.petname}, ` : "",
        h("code", {}, one.publisher)),
      h("dt", {}, "Manifest"), h("dd", {}, h("code", {}, one.manifest)),
      h("dt", {}, "Kind, licence"), h("dd", {}, `${one.kind}, ${one.license || "no licence stated"}`),
      h("dt", {}, "Size"), h("dd", {}, size(one.size), one.complete ? "" : ", in part here",
        one.pinned ? ", pinned" : ""),
      h("dt", {}, "Here since"), h("dd", {}, moment(one.added), "; its bytes were checked ",
        checked(app, one, ref))),
    section("Verdict", origin.error ? none(origin.error.message)
      : origin.value ? verdict(origin.value) : none("Asking the policy…"), commandLine(command("why", ref))),
    section("Where it comes from", origin.value ? lineage(app, origin.value) : none("…"),
      commandLine(command("provenance", ref))),
    section("Copies", copies(app, ref, name, manifest)),
    section("Files", files.error ? none(files.error.message)
      : files.value ? fileTable(files.value.files) : none("Asking the node…")),
  ];
}

/** Ask once for what is known of a release; again when it is opened again. */
function look(app, operation, ref, anew = false) {
  const key = `${operation} ${ref}`;
  const known = app.state.found[key];
  if (known && (known.waits || (!anew && Date.now() - known.at < 15000))) return known;
  const asked = { ...known, waits: true, at: Date.now() };
  app.state.found = { ...app.state.found, [key]: asked };
  const keep = (values) => {
    app.state.found = { ...app.state.found, [key]: { at: Date.now(), ...values } };
    app.redraw();
  };
  if (anew) app.redraw();
  call(operation, { ref }).then((value) => keep({ value }), (error) => keep({ error }));
  return asked;
}

/** Who else has it, looked for when asked: that takes the network some seconds. */
function copies(app, ref, name, manifest) {
  const { value, error, waits } = app.state.found[`copies ${manifest}`] ?? {};
  return [
    error ? h("p", { class: "problem" }, error.message) : null,
    value ? [
      h("p", {}, mark(`${value.healthy}${value.keep ? ` of ${value.keep}` : ""} healthy`,
        value.healthy < (value.keep ?? 1) ? "warn" : "good"),
      value.checked ? h("span", { class: "soft" }, ` looked at ${ago(value.checked)}`) : null,
      value.trouble ? ` ${value.trouble}` : null),
      value.copies.length ? table("Peers that were asked", ["Peer", "Copy", "Proved", "Why not"],
        value.copies.map((one) => [one.peer, [h("code", { title: one.peer }, short(one.peer, 12, 8)),
          mark(one.healthy ? "healthy" : one.whole ? "not proved" : "in part",
            one.healthy ? "good" : "soft"),
          one.proved ? ago(one.proved) : "–", one.why || "–"]])) : null,
    ] : null,
    h("div", { class: "row spread" }, commandLine(command("status", ref)),
      button(waits ? "Looking…" : "Look for copies", () => look(app, "copies", manifest, true),
        { class: "plain", disabled: waits ?? false }),
      button("Keep 3 copies…", () => app.act.pledge(ref, name), { class: "plain" })),
  ];
}

const verdict = (found) => h("div", { class: `verdict ${found.verdict === "admitted" ? "good" : "bad"}` },
  h("p", {}, mark(found.verdict, found.verdict === "admitted" ? "good" : "bad"), " by the rule ",
    h("code", {}, found.rule), ". ", found.reason),
  found.evidence.length ? h("ul", {}, found.evidence.map((one) => h("li", {}, one))) : null,
  found.next ? h("p", { class: "soft" }, found.next) : null);

function fileTable(files) {
  return [
    table("Files of this release", ["Path", "#Size", "Here", "CID"],
      files.slice(0, FILES_SHOWN).map((one) => [one.path, [
        one.path, size(one.size), one.held ? mark("whole", "good") : mark("no", "soft"),
        h("code", {}, one.cid)]])),
    files.length > FILES_SHOWN
      ? none(`${FILES_SHOWN} of ${files.length} are shown; allod files lists them all.`) : null,
  ];
}

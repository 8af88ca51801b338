// Whom the node trusts, and what it denies.

import { h } from "./dom.js";
import { command, moment } from "./format.js";
import { button, commandLine, field, heading, none, read, section, table } from "./parts.js";

export function trust(app) {
  const { "trust.list": found, errors } = app.state;
  const title = heading("Trust", "What comes in, whose word counts, what is denied.");
  if (errors["trust.list"]) return [title, none(errors["trust.list"].message)];
  if (!found) return [title, none("Asking the node…")];
  return [
    title,
    section("Publishers with a name here", found.publishers.length
      ? table("Trusted publishers", ["Called", "Publisher", ""], found.publishers.map((one) =>
        [one.publisher, [one.petname, h("code", {}, one.publisher),
          button("Trust no longer", () => app.act.distrust(one.petname),
            { class: "quiet bad", "aria-label": `Trust ${one.petname} no longer` })]]))
      : none("None yet."), form(app)),
    found.seen.length ? section("Seen, but without a name", table("Publishers that were taken in",
      ["Publisher", "Since", ""], found.seen.map((one) => [one.publisher, [
        h("code", {}, one.publisher), since(one.since),
        button("Name it", () => name(app, one.publisher),
          { class: "quiet", "aria-label": `Name ${one.publisher}` })]]))) : null,
    section("Policy", h("dl", { class: "facts" },
      h("dt", {}, "File"), h("dd", {}, h("code", {}, found.file)),
      h("dt", {}, "Who is new"), h("dd", {}, found.tofu),
      h("dt", {}, "Rules"), h("dd", {}, found.rules),
      h("dt", {}, "Communities"), h("dd", {}, found.subscriptions.length
        ? found.subscriptions.map((one) => one.ref).join(", ") : "none"),
      h("dt", {}, "Deny lists"), h("dd", {}, found.deny.length
        ? found.deny.map((one) => `${one.file}: ${one.entries}`).join("; ") : "none")),
    commandLine("allod trust list")),
  ];
}

const since = (when) => (typeof when === "number" ? moment(when) : String(when).slice(0, 10));

function name(app, publisher) {
  app.state.drafts.trust = { ref: publisher, petname: "" };
  const field = document.getElementById("field-trust-ref");
  field.value = publisher;
  document.getElementById("field-trust-petname").focus();
  app.redraw();
}

function form(app) {
  const draft = app.state.drafts.trust ?? {};
  return h("form", {
    class: "card",
    oninput: (event) => { app.state.drafts.trust = read(event.currentTarget); app.redraw(); },
    onsubmit: async (event) => {
      event.preventDefault();
      const target = event.currentTarget;
      const { ref, petname } = read(target);
      if (await app.act.trust(ref, petname)) {
        target.reset();
        app.state.drafts.trust = {};
        app.redraw();
      }
    },
  },
  h("div", { class: "row" },
    field("Publisher's id, a link, or a release", "ref", { form: "trust", required: true }),
    field("Called", "petname", { form: "trust", required: true, placeholder: "alice" })),
  h("div", { class: "row spread" },
    commandLine(command("trust", "add", draft.ref || "ID", "--as", draft.petname || "NAME")),
    h("button", { type: "submit" }, "Trust")));
}

// Who may ask the models, and what was used.

import { h } from "./dom.js";
import { button, commandLine, field, heading, mark, none, read, section, table } from "./parts.js";
import { tokenCommand } from "./actions.js";

const TONES = { good: "good", expired: "warn", revoked: "bad" };

export function access(app) {
  const { "token.list": list, usage, errors } = app.state;
  return [
    heading("Access", "Tokens are the keys of people and programs who may ask the models."),
    app.state.secret ? secret(app) : null,
    section("Tokens", errors["token.list"] ? none(errors["token.list"].message)
      : !list ? none("Asking the node…") : tokens(app, list.tokens)),
    section("Make one", form(app)),
    section("Used in the last 30 days", !usage ? none("Asking the node…") : used(usage)),
  ];
}

function tokens(app, all) {
  if (!all.length) return none("None yet.");
  return table("Tokens", ["Name", "State", "Models", "#A minute", "#Tokens a day", "#Today", "Until", ""],
    all.map((one) => [one.id, [
      h("span", { title: one.id }, one.name),
      mark(one.state, TONES[one.state] ?? "soft"),
      one.models.join(", ") || "all",
      one.rpm ?? "–",
      one.tpd?.toLocaleString("en") ?? "–",
      one.used_today.toLocaleString("en"),
      (one.expires ?? "never").slice(0, 10),
      one.state === "good" ? button("Revoke", () => app.act.revoke(one.name),
        { class: "quiet bad", "aria-label": `Revoke ${one.name}` }) : null,
    ]]));
}

const secret = (app) => h("div", { class: "card good", role: "status" },
  h("p", {}, "The token ", h("strong", {}, app.state.secret.name),
    " is shown this once and kept nowhere. Put it where keys are kept."),
  h("p", {}, h("code", { class: "secret" }, app.state.secret.token)),
  button("I have it", () => app.change({ secret: null })));

function form(app) {
  const draft = app.state.drafts.token ?? {};
  const number = (text) => Number.parseInt(text, 10) || null;
  const wanted = (given) => ({
    name: given.name ?? "", expires: given.expires ?? "",
    models: (given.models ?? "").split(/\s+/).filter(Boolean),
    rpm: number(given.rpm), tpd: number(given.tpd),
  });
  const go = async (event) => {
    event.preventDefault();
    const target = event.currentTarget;
    const found = await app.act.newToken(wanted(read(target)));
    if (!found) return;
    target.reset();
    app.state.drafts.token = {};
    app.change({ secret: { name: found.name, token: found.token } });
  };
  const digits = { form: "token", inputmode: "numeric", pattern: "[0-9]*", placeholder: "no limit" };
  return h("form", { class: "card", onsubmit: go,
    oninput: (event) => { app.state.drafts.token = read(event.currentTarget); app.redraw(); } },
  h("div", { class: "row" },
    field("Name", "name", { form: "token", required: true, placeholder: "ci" }),
    field("Only these models", "models", { form: "token", placeholder: "all" }),
    field("Requests a minute", "rpm", digits),
    field("Tokens a day", "tpd", digits),
    field("Good for", "expires", { form: "token", placeholder: "ever, or 30d" })),
  h("div", { class: "row spread" }, commandLine(tokenCommand(wanted(draft))),
    h("button", { type: "submit" }, "Make it")));
}

function used({ usage, cut }) {
  if (!usage.length) return none("Nothing.");
  const sums = new Map();
  for (const one of usage) {
    const key = `${one.token}\n${one.model}`;
    const sum = sums.get(key) ?? { ...one, requests: 0, prompt_tokens: 0, completion_tokens: 0,
      errors: 0, seconds: 0 };
    for (const name of ["requests", "prompt_tokens", "completion_tokens", "errors", "seconds"]) {
      sum[name] += one[name];
    }
    sums.set(key, sum);
  }
  const all = [...sums.entries()].sort(([, one], [, other]) =>
    other.prompt_tokens + other.completion_tokens - one.prompt_tokens - one.completion_tokens);
  const most = Math.max(1, ...all.map(([, one]) => one.prompt_tokens + one.completion_tokens));
  return [
    table("What was used, by token and model",
      ["Token", "Model", "#Requests", "#Prompt", "#Answers", "#Errors", "#Seconds", "Share"],
      all.map(([key, one]) => [key, [
        one.token, one.model, one.requests.toLocaleString("en"),
        one.prompt_tokens.toLocaleString("en"), one.completion_tokens.toLocaleString("en"),
        one.errors || "–", one.seconds.toFixed(1),
        h("meter", { min: 0, max: most, value: one.prompt_tokens + one.completion_tokens,
          "aria-label": "Tokens, beside the one who used most" }),
      ]])),
    cut ? none("There is more than is shown; allod usage --days asks for less.") : null,
    commandLine("allod usage"),
  ];
}

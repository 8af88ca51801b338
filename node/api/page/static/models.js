// What is served, and a chat to try it.

import { chat } from "./api.js";
import { h } from "./dom.js";
import { command, duration, short, size } from "./format.js";
import { serveCommand } from "./actions.js";
import { called, refOf } from "./releases.js";
import { button, commandLine, field, heading, mark, none, read, section, table, ticked }
  from "./parts.js";

const TONES = { ready: "good", loading: "warn", cold: "soft", remote: "soft", failed: "bad" };

export function models(app) {
  const { ps, errors, status } = app.state;
  const title = heading("Models", status
    ? `Programs of this machine ask them at ${status.http}/v1, in OpenAI's words or Ollama's.` : null);
  if (errors.ps) return [title, none(errors.ps.message)];
  if (!ps) return [title, none("Asking the node…")];
  return [
    title,
    ps.models.length ? table("Models that are served",
      ["Model", "State", "Engine", "#Memory", "#Context", "#Busy", "Unloaded in", "Peers", ""],
      ps.models.map((one) => [one.model, row(app, one)]))
      : none("None yet."),
    ps.models.some((one) => one.failure) ? h("ul", { class: "plainly" }, ps.models
      .filter((one) => one.failure).map((one) => h("li", { class: "problem" },
        `${one.model}: ${one.failure}`))) : null,
    section("Serve another", serving(app)),
    section("Try it", talk(app, ps.models)),
  ];
}

function row(app, one) {
  const peers = [one.shared ? "may ask" : "", one.via_peers ? "may answer" : ""].filter(Boolean);
  return [
    h("span", { title: one.manifest }, one.model),
    mark(one.state, TONES[one.state] ?? "soft"),
    one.engine || "–",
    one.memory ? size(one.memory) : "–",
    one.context || "–",
    one.state === "remote" ? "–" : `${one.busy}/${one.slots}${one.waiting ? ` +${one.waiting}` : ""}`,
    one.until ? duration(one.until - Date.now() / 1000) : "–",
    peers.join(", ") || "–",
    button("Stop", () => app.act.stop(one.model),
      { class: "quiet bad", "aria-label": `Stop ${one.model}` }),
  ];
}

function serving(app) {
  const all = app.state.ls?.releases ?? [];
  const held = all.filter((one) => one.kind === "model");
  const draft = app.state.drafts.serve ?? {};
  const wanted = (given) => ({
    ref: given.ref || (held.length ? refOf(held[0], all) : ""), name: given.name ?? "",
    context: Number.parseInt(given.context, 10) || 0, lazy: given.lazy ?? false,
  });
  if (!held.length) return none("This node holds no model. Fetch one under Transfers.");
  return h("form", {
    class: "card",
    oninput: (event) => { app.state.drafts.serve = read(event.currentTarget); app.redraw(); },
    onsubmit: (event) => {
      event.preventDefault();
      app.act.serve(wanted(read(event.currentTarget)));
    },
  },
  h("div", { class: "row" },
    h("div", { class: "field" }, h("label", { for: "serve-ref" }, "Release"),
      h("select", { id: "serve-ref", name: "ref" }, held.map((one) =>
        h("option", { key: one.manifest, value: refOf(one, all) }, `${called(one)} ${one.version}`)))),
    field("Called", "name", { form: "serve", placeholder: "as its publisher calls it" }),
    field("Context, in tokens", "context",
      { form: "serve", inputmode: "numeric", pattern: "[0-9]*", placeholder: "as configured" })),
  h("div", { class: "row spread" }, ticked("load it when somebody asks", "lazy"),
    commandLine(serveCommand(wanted(draft))), h("button", { type: "submit" }, "Serve")));
}

// -- the chat

function talk(app, served) {
  const talkable = served.filter((one) => one.capabilities.includes("chat"));
  if (!talkable.length) return none("None of the served models can chat.");
  const state = app.state.chat;
  const send = (event) => {
    event.preventDefault();
    const box = event.currentTarget.elements.question;
    const text = box.value.trim();
    if (!text || state.busy) return;
    box.value = "";
    ask(app, event.currentTarget.elements.model.value, text);
  };
  const keys = (event) => { // Enter sends, as everywhere; with Shift it is a new line
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.currentTarget.form.requestSubmit();
  };
  return h("div", { class: "chat card" },
    h("div", { role: "log", "aria-label": "Conversation", "aria-live": "polite",
      "aria-busy": String(state.busy), class: "said", tabindex: "0" },
      state.said.length ? state.said.map(line)
        : none("What is said here goes to the model and is kept nowhere.")),
    h("form", { onsubmit: send },
      h("div", { class: "row" },
        h("div", { class: "field" }, h("label", { for: "chat-model" }, "Model"),
          h("select", { id: "chat-model", name: "model" }, talkable.map((one) =>
            h("option", { key: one.model, value: one.model }, one.model)))),
        h("div", { class: "field grow" }, h("label", { for: "chat-question" }, "Question"),
          h("textarea", { id: "chat-question", name: "question", rows: 2, onkeydown: keys }))),
      h("div", { class: "row spread" },
        commandLine(command("run", talkable[0].model)),
        button("Forget it", () => { state.said = []; app.redraw(); },
          { class: "plain", disabled: state.busy || !state.said.length }),
        state.busy ? button("Stop", () => state.abort.abort(), { class: "bad" })
          : h("button", { type: "submit" }, "Ask"))));
}

function line(one, at) {
  return h("div", { class: `turn ${one.role}`, key: at },
    h("strong", {}, one.role === "user" ? "You" : one.model),
    one.thought ? h("details", {}, h("summary", {}, "Thoughts"), h("p", { class: "soft" },
      one.thought)) : null,
    h("p", {}, one.text || (one.error ? "" : "…")),
    one.error ? h("p", { class: "problem" }, one.error) : null,
    one.end ? h("small", { class: "soft" }, ending(one.end)) : null);
}

function ending({ usage, servedBy, digest }) {
  const tokens = usage ? `${usage.completion_tokens} tokens, ${usage.prompt_tokens} of the prompt` : "";
  const by = servedBy ? `by ${short(servedBy)}` : "";
  const of = digest ? `digest ${short(digest)}` : "";
  return [tokens, by, of].filter(Boolean).join(" · ");
}

async function ask(app, model, text) {
  const state = app.state.chat;
  const answer = { role: "assistant", model, text: "" };
  const messages = [...state.said.filter((one) => !one.error), { role: "user", text }]
    .map((one) => ({ role: one.role, content: one.text }));
  state.said = [...state.said, { role: "user", text }, answer];
  state.busy = true;
  state.abort = new AbortController();
  app.redraw();
  const end = () => {
    const log = document.querySelector(".chat .said");
    if (log) log.scrollTop = log.scrollHeight;
  };
  try {
    for await (const piece of chat(model, messages, state.abort.signal)) {
      if (piece.text) answer.text += piece.text;
      else if (piece.thought) answer.thought = (answer.thought ?? "") + piece.thought;
      else answer.end = piece;
      app.redraw();
      end();
    }
  } catch (error) {
    if (error.name === "AbortError") answer.end = { usage: null };
    else answer.error = [error.message, error.next].filter(Boolean).join(" ");
  } finally {
    state.busy = false;
    app.redraw();
    setTimeout(end);
  }
}

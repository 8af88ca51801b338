// What the owner does here: each action is a command, too, and says which.

import { begin, call } from "./api.js";
import { show, h } from "./dom.js";
import { command } from "./format.js";
import { button, commandLine } from "./parts.js";
import { spoken } from "./releases.js";

/** The actions, each telling at the foot of the page what came of it. */
export function act(app) {
  const brief = (ref) => spoken(app, ref);
  const told = (text, line) => app.change({ notice: { text, command: line } });
  const failed = (error, line) => app.change({
    notice: { text: error.message, next: error.next, command: line, bad: true },
  });

  /** Do something at once. `after`: what to ask for again. Whether it went well. */
  async function run(operation, params, line, text, after) {
    try {
      const found = await call(operation, params);
      told(typeof text === "function" ? text(found) : text, line);
      app.refresh(...after);
      return found;
    } catch (error) {
      failed(error, line);
      return null;
    }
  }

  /** Begin something that takes long; it goes on when this page is closed. */
  async function start(operation, params, line, text) {
    try {
      const job = await begin(operation, params);
      app.state.begun = { ...app.state.begun, [job]: { operation, params } };
      told(text, line);
      app.refresh("jobs");
      return job;
    } catch (error) {
      failed(error, line);
      return null;
    }
  }

  return {
    told,
    failed,
    pin: (ref, name) => run("pin", { ref }, command("pin", ref),
      `${name} is pinned: it stays until it is unpinned.`, ["ls"]),
    unpin: (ref, name) => run("unpin", { ref }, command("unpin", ref),
      `${name} is pinned no longer: gc may take it.`, ["ls"]),
    verify: (ref, name) => start("verify", { ref }, command("verify", ref),
      `Hashing ${name || "the whole store"} again.`),
    fetch: (params) => start("fetch", params, fetchCommand(params), `Fetching ${brief(params.ref)}.`),
    serve: (params) => start("serve", params, serveCommand(params), `Loading ${brief(params.ref)}.`),
    newToken: (params) => run("token.new", params, tokenCommand(params),
      (found) => `The token ${found.name} was made.`, ["token.list"]),
    trust: (ref, petname) => run("trust.add", { ref, petname },
      command("trust", "add", ref, "--as", petname),
      (found) => `${found.publisher} is trusted, as ${found.petname}.`, ["trust.list", "ls"]),

    async remove(ref, name) {
      const line = command("rm", ref);
      if (!await confirm(`Remove ${name}?`,
        "This node forgets it. The next gc frees the files that no other release needs.",
        line, "Remove")) return null;
      return run("rm", { ref }, line, `${name} is removed.`, ["ls"]);
    },
    async stop(model) {
      const line = command("stop", model);
      if (!await confirm(`Stop serving ${model}?`,
        "Its engine ends, and answers on their way with it.", line, "Stop")) return null;
      return run("stop", { model }, line, `${model} is served no longer.`, ["ps"]);
    },
    async cancel(job, what) {
      const line = command("cancel", String(job));
      if (!await confirm(`Cancel ${what}?`,
        "What has come is kept; the same command goes on where it was.", line, "Cancel it",
        "Let it run")) return null;
      return run("cancel", { job }, line, `${what} was cancelled.`, ["jobs"]);
    },
    async revoke(name) {
      const line = command("token", "revoke", name);
      if (!await confirm(`Revoke the token ${name}?`,
        "Whoever uses it is refused from now on. That cannot be undone.", line, "Revoke")) {
        return null;
      }
      return run("token.revoke", { name }, line, `The token ${name} is revoked.`, ["token.list"]);
    },
    async distrust(name) {
      const line = command("trust", "rm", name);
      if (!await confirm(`Trust ${name} no longer?`,
        "What the node holds of it stays, and is judged anew.", line, "Trust no longer")) {
        return null;
      }
      return run("trust.rm", { name }, line, `${name} is trusted no longer.`, ["trust.list"]);
    },
    async pledge(ref, name) {
      const line = command("pledge", ref, "--keep", "3");
      if (!await confirm(`Help to keep three copies of ${name}?`,
        "This node looks now and then how many there are, and keeps its own as long as they are few.",
        line, "Pledge", "No")) return null;
      return run("pledge.add", { ref, keep: 3 }, line, `Three copies of ${name} are pledged.`,
        ["pledge.list", "ls"]);
    },
    async gc() {
      const line = command("gc");
      const would = await run("gc", { dry_run: true }, command("gc", "--dry-run"),
        (found) => `${found.bytes.toLocaleString("en")} bytes would be freed.`, []);
      if (!would || !await confirm("Free the room?",
        `${would.bytes.toLocaleString("en")} bytes in ${would.files} files, and ` +
        `${would.releases} releases that nothing pins, would go.`, line, "Free it")) return null;
      return run("gc", {}, line,
        (found) => `${found.bytes.toLocaleString("en")} bytes are free again.`, ["ls", "status"]);
    },
    async fetchTrusting(params, why) {
      const wanted = { ...params, yes: true };
      if (!await confirm("Take it from a publisher who is new here?", why, fetchCommand(wanted),
        "Take it")) return null;
      return start("fetch", wanted, fetchCommand(wanted), `Fetching ${brief(params.ref)}.`);
    },
  };
}

export const fetchCommand = (params) => command(
  "fetch", params.ref || "REF",
  (params.peers ?? []).flatMap((one) => ["--peer", one]),
  (params.include ?? []).flatMap((one) => ["--include", one]),
  params.pin === false ? "--no-pin" : "",
  params.yes ? "--yes" : "",
);

export const serveCommand = (params) => command(
  "serve", params.ref || "REF",
  params.name ? ["--as", params.name] : [],
  params.context ? ["--context", String(params.context)] : [],
  params.lazy ? "--lazy" : "",
);

export const tokenCommand = (params) => command(
  "token", "new", params.name,
  (params.models ?? []).flatMap((one) => ["--model", one]),
  params.rpm ? ["--rpm", String(params.rpm)] : [],
  params.tpd ? ["--tpd", String(params.tpd)] : [],
  params.expires ? ["--expires", params.expires] : [],
);

/** Ask for a yes in a dialog; false if it is closed. */
function confirm(title, text, line, yes, no = "Keep it") {
  const dialog = document.getElementById("question");
  show(dialog,
    h("h2", { id: "question-title" }, title),
    h("p", { id: "question-text" }, text),
    commandLine(line),
    h("div", { class: "row end" },
      button(no, () => dialog.close("no"), { class: "plain", autofocus: true }),
      button(yes, () => dialog.close("yes"), { class: "bad" })));
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// What the page asks of the node that served it. The token stays in this tab.

const KEPT = "allod-token";

export class Failed extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code ?? "OTHER";
    this.next = error.next ?? "";
  }
}

/** The token of a link, or nothing. */
export function tokenIn(text) {
  const found = /[#&]token=([^&\s]+)/.exec(text);
  return found ? decodeURIComponent(found[1]) : "";
}

/** Take the token out of the link, so that neither the history nor a screenshot keeps it. */
export function takeToken() {
  const token = tokenIn(location.hash);
  if (token) {
    setToken(token);
    history.replaceState(null, "", location.pathname + "#/");
  }
  return hasToken();
}

export const hasToken = () => Boolean(sessionStorage.getItem(KEPT));
export const forgetToken = () => sessionStorage.removeItem(KEPT);
export const setToken = (token) => sessionStorage.setItem(KEPT, token);

async function post(path, value, headers = {}, signal = undefined) {
  try {
    return await fetch(path, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Authorization: `Bearer ${sessionStorage.getItem(KEPT) ?? ""}`,
        ...headers,
      },
      body: JSON.stringify(value),
      cache: "no-store",
      credentials: "omit",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed({ code: "SILENT", message: "The node does not answer.", next: "allod up" });
  }
}

async function refused(response) {
  let error = { message: `The node answered ${response.status}.` };
  try {
    error = (await response.json()).error ?? error;
  } catch { /* it is no JSON: the status has to do */ }
  if (response.status === 401) error = { ...error, code: "BAD_TOKEN" };
  return new Failed(error);
}

/** Yield the lines of an answer as they come. */
async function* lines(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const whole = rest.split("\n");
      rest = whole.pop();
      yield* whole.filter((line) => line.trim());
      if (done) break;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Have an operation done; its result. */
export async function call(operation, params = {}) {
  const response = await post(`/control/v1/${operation}`, params);
  if (response.status !== 200) throw await refused(response);
  for await (const line of lines(response)) {
    const message = JSON.parse(line);
    if (message.error) throw new Failed(message.error);
    if (message.result) return message.result;
  }
  throw new Failed({ code: "SILENT", message: "The node went away before it was done." });
}

/** Have a long operation done in the background; the number of its job. */
export async function begin(operation, params) {
  const response = await post(
    `/control/v1/${operation}`, params, { Prefer: "respond-async" });
  if (response.status !== 202) throw await refused(response);
  return (await response.json()).job;
}

/** Ask a served model; yields {text} and {thought}, and at the end {usage, servedBy, digest}. */
export async function* chat(model, messages, signal) {
  const response = await post(
    "/v1/chat/completions",
    { model, messages, stream: true, stream_options: { include_usage: true } }, {}, signal);
  if (response.status !== 200) throw await refused(response);
  const end = {
    servedBy: response.headers.get("x-served-by"),
    digest: response.headers.get("x-model-digest"),
    usage: null,
  };
  for await (const line of lines(response)) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const event = JSON.parse(line.slice(6));
    if (event.error) throw new Failed(event.error);
    if (event.usage) end.usage = event.usage;
    for (const choice of event.choices ?? []) {
      const { content, reasoning_content: thought } = choice.delta ?? {};
      if (thought) yield { thought };
      if (content) yield { text: content };
    }
  }
  yield end;
}

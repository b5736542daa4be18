// The pack's routes for runs. A part of the panel whose route the server does not have is hidden:
// `get` answers null then, and `has` says so from then on.

export class Refused extends Error {}

const TIMEOUT_MS = 30_000;

export class Routes {
  constructor(api) {
    this.api = api;
    this.missing = new Set();
    this.ended = new AbortController();
  }

  close() {
    this.ended.abort();
  }

  has(what) {
    return !this.missing.has(what);
  }

  // `what` is the last word of the route, such as "curve"; "" is the run itself.
  path(name, what = "", query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
    const asked = new URLSearchParams(given).toString();
    return `/cocktail/runs/${encodeURIComponent(name)}${what && `/${what}`}${asked && `?${asked}`}`;
  }

  async get(name, what = "", query = {}) {
    return this.fetch(this.path(name, what, query), what, {});
  }

  async list(query = {}) {
    return this.fetch(`/cocktail/runs${query.deleted ? "?deleted=true" : ""}`, "list", {});
  }

  async post(name, what, value = {}) {
    const answer = await this.fetch(this.path(name, what), what, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(value),
    });
    if (answer === null) throw new Refused("This version of Cocktail on the server cannot do that.");
    return answer;
  }

  async fetch(path, what, options) {
    const signal = AbortSignal.any
      ? AbortSignal.any([this.ended.signal, AbortSignal.timeout(TIMEOUT_MS)])
      : this.ended.signal;
    let answer;
    try {
      answer = await this.api.fetchApi(path, { ...options, signal, cache: "no-store" });
    } catch (error) {
      if (this.ended.signal.aborted) throw error;
      throw new Refused("ComfyUI does not answer. Is it still running?");
    }
    let value = null;
    try {
      value = await answer.json();
    } catch {
      value = null;
    }
    if (answer.ok && value !== null) return value;
    // A route that is not there answers in plain text; a run that is not there has a reason.
    if ((answer.status === 404 || answer.status === 405) && typeof value?.error !== "string") {
      this.missing.add(what);
      return null;
    }
    throw new Refused(String(value?.error ?? `The server answers ${answer.status}.`));
  }

  picture(name, id, side) {
    return this.api.apiURL(`/cocktail/runs/${encodeURIComponent(name)}/pairs/${encodeURIComponent(id)}/image?side=${side}`);
  }

  view({ file, subfolder, type }) {
    return this.api.apiURL(`/view?${new URLSearchParams({ filename: file, subfolder, type })}`);
  }
}

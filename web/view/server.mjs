// The pack's routes for a grid, and ComfyUI's own.
import { parse, write } from "./exact.mjs";

export class Refused extends Error {}

// Where the pack's routes are: ComfyUI may be served below a path.
const ROOT = new URL("../../", import.meta.url).pathname;
export const COMFYUI = new URL("../../../", import.meta.url).pathname;
const TIMEOUT_MS = 60_000;

// A route that answers nothing answers {}.
function read(text) {
  try {
    return parse(text || "{}");
  } catch {
    return null;
  }
}

export class Server {
  constructor(grid) {
    this.grid = grid;
    this.root = `${ROOT}grids/${encodeURIComponent(grid)}`;
    // The grid may still be rendered.
    this.changes = true;
  }

  // The same object as long as nothing has changed.
  async states() {
    const { mark, ...news } = await this.get("/states", { after: this.mark ?? "" });
    this.mark = mark;
    if (news.states !== undefined || !this.known) this.known = { ...this.known, ...news };
    return this.known;
  }

  // A number for every picture, equal for equal pixels; and how many have still to be compared.
  pixels() {
    return this.get("/pixels");
  }

  // The settings of a cell, its API prompt and its workflow.
  cell(key) {
    return this.get(`/cells/${key}`);
  }

  async get(path, query = {}) {
    const asked = new URLSearchParams(query).toString();
    return this.fetch(`${this.root}${path}${asked && `?${asked}`}`, {});
  }

  async post(path, value) {
    return this.fetch(this.root + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: write(value) });
  }

  // What a route of ComfyUI answers.
  async comfyui(path, value) {
    const options = value === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: write(value) };
    return this.fetch(COMFYUI + path, options);
  }

  async grids() {
    return this.fetch(`${ROOT}grids`, {});
  }

  async fetch(path, options) {
    let answer;
    try {
      answer = await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    } catch {
      throw new Refused("ComfyUI does not answer. Is it still running?");
    }
    const value = read(await answer.text().catch(() => ""));
    if (answer.ok && value !== null) return value;
    const refused = new Refused(String(value?.error?.message ?? value?.error ?? `The server answers ${answer.status}.`));
    refused.status = answer.status;
    refused.value = value;
    throw refused;
  }

  // A picture of at least `side` pixels if there is one so small, otherwise as it is.
  picture(key, side = Infinity) {
    const small = [128, 256, 512].find((one) => one >= side);
    return `${this.root}/pictures/${key}${small ? `?side=${small}` : ""}`;
  }
}

// A cell rendered once more with other settings, beside it. That is a prompt of its own in ComfyUI's
// queue; its picture is in ComfyUI's temp folder and does not belong to the grid.
import { button, make, setText } from "../runs/dom.mjs";
import { Queued } from "./queued.mjs";

// The inputs that are changed most come first, in this order; a text input stands for prompts.
const FIRST = ["seed", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "width", "height", "text"];
const NUMBERS = ["INT", "FLOAT"];

const known = new WeakMap();

// The form of a cell: the same one each time, so that what was typed and queued stays.
export function againOf(lens, cell, found) {
  const { page } = lens;
  if (!known.has(page)) known.set(page, new Map());
  const cells = known.get(page);
  if (!cells.has(cell.key)) cells.set(cell.key, new Again(lens, cell, found.prompt));
  return [cells.get(cell.key).element];
}

class Again {
  constructor(lens, cell, prompt) {
    Object.assign(this, { lens, cell, prompt, server: lens.page.server });
    this.fields = make("div", { class: "fields" });
    this.words = make("p", { class: "quiet", role: "status" });
    this.list = make("ul", { class: "again" });
    this.queue = button("Queue it", () => this.press(), { disabled: true });
    this.element = make(
      "details",
      { class: "again", on: { toggle: () => this.opened() } },
      make("summary", { text: "Render again with ..." }),
      make("p", { class: "quiet", text: "ComfyUI puts it at the end of its queue. The picture is not part of the grid and is gone when ComfyUI is started again." }),
      this.fields,
      make("div", { class: "row" }, this.queue, this.words),
      this.list,
    );
  }

  async opened() {
    if (!this.element.open || this.inputs) return;
    this.inputs = [];
    try {
      const kinds = [...new Set(Object.values(this.prompt).map((node) => node.class_type))];
      const infos = Object.assign({}, ...(await Promise.all(kinds.map((kind) => this.server.comfyui(`object_info/${encodeURIComponent(kind)}`)))));
      const gone = kinds.filter((kind) => !infos[kind]);
      if (gone.length) throw new Error(`This ComfyUI has no node ${gone.join(", ")}.`);
      this.inputs = inputsOf(this.prompt, infos);
      this.fill();
    } catch (error) {
      this.inputs = null;
      setText(this.words, error.message);
    }
  }

  fill() {
    const rows = this.inputs.map((input) => make("label", {}, make("span", { text: input.label }), (input.element = field(input))));
    const first = this.inputs.filter((input) => input.first).length;
    this.fields.replaceChildren(...rows.slice(0, first), make("details", {}, make("summary", { text: "All other inputs" }), make("div", { class: "fields" }, ...rows.slice(first))));
    this.queue.disabled = false;
  }

  async press() {
    let changes;
    try {
      changes = this.inputs.map((input) => [input, valueOf(input)]).filter(([input, value]) => value !== input.value);
    } catch (error) {
      setText(this.words, error.message);
      return;
    }
    const prompt = shown(this.prompt);
    for (const [{ id, name }, value] of changes) prompt[id].inputs[name] = value;
    const words = changes.length ? changes.map(([{ label }, value]) => `${label}: ${value}`).join(", ") : "nothing changed";
    this.queue.disabled = true;
    setText(this.words, "");
    try {
      const queued = new Queued(this.server, prompt);
      await queued.send();
      this.list.prepend(this.row(queued, words));
      queued.follow();
    } catch (error) {
      setText(this.words, error.message);
    } finally {
      this.queue.disabled = false;
    }
  }

  // What was queued: how it stands, and a button that ends it or shows its picture.
  row(queued, words) {
    const state = make("span", { class: "quiet", role: "status" });
    const end = button("Cancel", () => queued.cancel());
    const show = button("Show beside the cell", () => this.show(queued.picture, words), { hidden: true });
    queued.tell = (text) => setText(state, text);
    queued.ended = () => {
      end.hidden = true;
      show.hidden = !queued.picture;
      const { lens, cell } = this;
      if (queued.picture && lens.dialog.open && lens.alone && lens.cells[0].key === cell.key && !lens.facts.hidden) this.show(queued.picture, words);
    };
    return make("li", {}, make("span", { text: words }), make("div", { class: "row" }, state, end, show));
  }

  show(picture, words) {
    const { lens, cell } = this;
    lens.open([{ ...cell, words: "the cell" }, { ...cell, key: `${cell.key} again`, picture, words: `again, ${words}` }], "side");
  }
}

// The inputs of a prompt that are no links: [{id, name, label, type, choices, value, first}].
function inputsOf(prompt, infos) {
  const found = [];
  for (const [id, node] of Object.entries(prompt)) {
    const info = infos[node.class_type];
    const all = { ...info.input.optional, ...info.input.required };
    for (const [name, value] of Object.entries(node.inputs)) {
      if (Array.isArray(value) || !all[name] || (node.class_type === "SaveImage" && name === "filename_prefix")) continue;
      const [type, options = {}] = all[name];
      const choices = Array.isArray(type) ? type : type === "COMBO" ? options.options : null;
      if (!choices && ![...NUMBERS, "STRING", "BOOLEAN"].includes(type)) continue;
      found.push({ id, name, value, choices, type, options, first: FIRST.includes(name), node: node._meta?.title || info.display_name || node.class_type, use: useOf(prompt, id) });
    }
  }
  for (const input of found) {
    const alike = found.filter((other) => other.name === input.name);
    const apart = new Set(alike.map((other) => other.use)).size === alike.length;
    input.label = input.name.replaceAll("_", " ") + (alike.length < 2 ? "" : apart ? ` (${input.use})` : ` (${input.node}, ${input.id})`);
  }
  const place = (input) => (input.first ? FIRST.indexOf(input.name) : FIRST.length);
  return found.sort((one, other) => place(one) - place(other));
}

// The input that a node is linked to, such as "positive", if it is linked to one alone.
function useOf(prompt, id) {
  const uses = Object.values(prompt).flatMap((node) => Object.entries(node.inputs).filter(([, value]) => Array.isArray(value) && String(value[0]) === id).map(([name]) => name));
  return uses.length === 1 ? uses[0] : `node ${id}`;
}

function field({ type, choices, options, value }) {
  if (choices) return make("select", {}, ...[...new Set([value, ...choices])].map((one) => make("option", { value: String(one), text: String(one), selected: one === value })));
  if (type === "BOOLEAN") return make("input", { type: "checkbox", checked: value });
  if (type === "STRING" && options.multiline) return make("textarea", { rows: 2, value });
  if (type === "FLOAT") return make("input", { type: "number", step: "any", min: options.min, max: options.max, value: String(value) });
  return make("input", { type: "text", inputmode: type === "INT" ? "numeric" : undefined, value: String(value) });
}

// What was typed, of the input's type; the value itself where it is as before. Raises an error in words.
function valueOf({ element, type, choices, value, label }) {
  if (choices) return [value, ...choices].find((one) => String(one) === element.value);
  if (type === "BOOLEAN") return element.checked;
  const text = element.value;
  if (text === String(value)) return value;
  if (type === "STRING") return text;
  if (type === "INT" && /^\s*-?\d{1,20}\s*$/.test(text)) return BigInt(text) === BigInt(Number(text)) ? Number(text) : BigInt(text);
  if (type === "FLOAT" && text.trim() && Number.isFinite(Number(text))) return Number(text);
  throw new Error(`${label} must be a ${type === "INT" ? "whole number" : "number"}.`);
}

// A copy that shows its pictures and saves none.
function shown(prompt) {
  const copy = structuredClone(prompt);
  for (const node of Object.values(copy)) if (node.class_type === "SaveImage") Object.assign(node, { class_type: "PreviewImage", inputs: { images: node.inputs.images } });
  return copy;
}

// The map of a grid's cells on its node: a square for each, coloured by state, and the newest picture.
// Hover over a square for its labels, click it for its picture.

const COLOURS = { ".": "#8a8f98", r: "#e0a100", f: "#2e9e5b", x: "#cc3a2f" };
const WORDS = { ".": "missing", r: "running", f: "finished", x: "failed" };
const LETTERS = { running: "r", finished: "f", failed: "x" };
const PROPERTY = "cocktail_grid";
const MOST_SIDE = 14;
const WIDTH = 300;
const HEIGHT = 120;
// Classic nodes leave it free above and below: with their usual 10 px no line of text has room.
const MARGIN = 4;

export function attach(node, api, listeners) {
  const map = new CellMap(node, api);
  const widget = node.addDOMWidget("cells", "cocktail_map", map.element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => (map.grid ? 290 : 24),
  });
  widget.serialize = false;
  listeners.add(map.listen);
  const removed = node.onRemoved;
  node.onRemoved = function (...given) {
    listeners.delete(map.listen);
    return removed?.apply(this, given);
  };
  const executed = node.onExecuted;
  node.onExecuted = function (output, ...given) {
    const name = output?.cocktail?.[0]?.name;
    if (name) map.show(name);
    return executed?.call(this, output, ...given);
  };
  const known = node.properties?.[PROPERTY];
  if (typeof known === "string") map.show(known);
}

class CellMap {
  constructor(node, api) {
    this.node = node;
    this.api = api;
    this.grid = null;
    this.loading = null;
    this.element = document.createElement("div");
    this.element.className = "cocktail-map";
    Object.assign(this.element.style, { display: "flex", flexDirection: "column", gap: "4px", padding: "0 6px", boxSizing: "border-box", fontSize: "11px", overflow: "hidden" });
    this.text = document.createElement("div");
    this.text.setAttribute("role", "status");
    this.text.textContent = "cells appear here when the grid is queued";
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.style.alignSelf = "flex-start";
    this.canvas.hidden = true;
    this.picture = document.createElement("img");
    this.picture.hidden = true;
    Object.assign(this.picture.style, { maxHeight: "110px", maxWidth: "100%", objectFit: "contain", alignSelf: "flex-start" });
    this.link = document.createElement("a");
    this.link.textContent = "Look, compare and vote";
    this.link.target = "_blank";
    this.link.hidden = true;
    this.link.style.color = "inherit";
    this.element.append(this.text, this.link, this.canvas, this.picture);
    this.canvas.addEventListener("mousemove", (event) => {
      const cell = this.cellAt(event);
      this.canvas.title = cell === null ? "" : this.words(cell);
    });
    this.canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell !== null) this.look(this.grid.keys[cell]);
    });
    this.listen = (event) => this.hear(event);
  }

  hear(event) {
    if (event.node !== undefined && String(event.node) === String(this.node.id) && event.name !== this.grid?.name) {
      this.show(event.name);
      return;
    }
    if (event.name === this.loading?.name) this.loading.stale = true;
    if (!this.grid || event.name !== this.grid.name) return;
    if (event.plan) {
      this.show(event.name);
      return;
    }
    if (event.key) {
      if (event.file) this.grid.files[event.key] = event.file;
      const letters = [...this.grid.states];
      this.grid.keys.forEach((key, cell) => {
        if (key === event.key) letters[cell] = LETTERS[event.status] ?? ".";
      });
      this.grid.states = letters.join("");
      if (event.status === "finished") this.look(event.key);
    }
    if (event.feed && this.grid) {
      this.feed = event.feed;
      // Cells that were running when the grid was paused or cancelled are missing again.
      if (!event.feed.in_flight.length) this.grid.states = this.grid.states.replaceAll("r", ".");
    }
    this.draw();
  }

  async show(name) {
    if (this.loading?.name === name) {
      this.loading.stale = true;
      return;
    }
    // The answer may lack what changed while it was on its way: then it is asked for again. The grid
    // that was asked for last is shown, whichever comes first.
    const loading = (this.loading = { name });
    try {
      do {
        loading.stale = false;
        const answer = await this.api.fetchApi(`/cocktail/grids/${encodeURIComponent(name)}/states`);
        const found = answer.ok ? await answer.json() : null;
        if (!found || this.loading !== loading) return;
        this.grid = found;
      } while (loading.stale);
    } finally {
      if (this.loading === loading) this.loading = null;
    }
    this.node.properties ??= {};
    this.node.properties[PROPERTY] = name;
    this.link.href = `${this.api.fileURL("/cocktail/view")}#grid=${encodeURIComponent(name)}`;
    this.link.hidden = false;
    const newest = Object.keys(this.grid.files).at(-1);
    if (newest) this.look(newest);
    this.draw();
    const least = this.node.computeSize();
    if (this.node.size[1] < least[1]) this.node.setSize([Math.max(this.node.size[0], least[0]), least[1]]);
    this.node.setDirtyCanvas?.(true, true);
  }

  look(key) {
    const file = this.grid.files[key];
    if (!file) return;
    const slash = file.lastIndexOf("/");
    const query = new URLSearchParams({
      filename: file.slice(slash + 1),
      subfolder: `cocktail/grids/${this.grid.name}/${file.slice(0, slash)}`,
      type: "output",
    });
    this.picture.src = this.api.apiURL(`/view?${query}`);
    this.picture.alt = this.words(this.grid.keys.indexOf(key));
    this.picture.title = this.picture.alt;
    this.picture.hidden = false;
  }

  // The first axis gives the columns, all others the rows.
  place(cell) {
    const [column, ...others] = this.grid.positions[cell];
    const row = others.reduce((sum, at, axis) => sum * this.grid.axes[axis + 1].values.length + at, 0);
    return [column, row];
  }

  words(cell) {
    const labels = this.grid.positions[cell].map((at, axis) => this.grid.axes[axis].values[at]);
    return `${labels.join(" · ")}: ${WORDS[this.grid.states[cell]]}`;
  }

  cellAt(event) {
    if (!this.grid) return null;
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
    const cell = this.grid.positions.findIndex((_, at) => {
      const [x, y] = this.place(at);
      return x === column && y === row;
    });
    return cell < 0 ? null : cell;
  }

  draw() {
    const { axes, states } = this.grid;
    this.columns = axes[0].values.length;
    this.rows = axes.slice(1).reduce((product, axis) => product * axis.values.length, 1);
    const side = Math.max(1, Math.min(MOST_SIDE, Math.floor(WIDTH / this.columns), Math.floor(HEIGHT / this.rows)));
    const gap = side > 3 ? 1 : 0;
    this.canvas.width = this.columns * side;
    this.canvas.height = this.rows * side;
    this.canvas.style.maxWidth = "100%";
    this.canvas.style.maxHeight = `${HEIGHT}px`;
    const pen = this.canvas.getContext("2d");
    [...states].forEach((letter, cell) => {
      const [x, y] = this.place(cell);
      pen.fillStyle = COLOURS[letter];
      pen.fillRect(x * side, y * side, side - gap, side - gap);
    });
    const count = (letter) => states.split(letter).length - 1;
    const parts = [`${this.grid.name}: ${count("f")} of ${states.length} cells`];
    if (count("r")) parts.push(`${count("r")} running`);
    if (count("x")) parts.push(`${count("x")} failed`);
    if (this.feed) parts.push(this.feed.message || this.feed.state);
    this.text.textContent = parts.join(", ");
    this.canvas.setAttribute("aria-label", this.text.textContent);
    this.canvas.hidden = false;
  }
}

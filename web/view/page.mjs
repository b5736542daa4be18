// The page of one grid. Its state is in the address, so that a link shows the same.
import { button, make, setText } from "../runs/dom.mjs";
import { address } from "./address.mjs";
import { Axes } from "./axes.mjs";
import { Arrangement, Grid } from "./grid.mjs";
import { Hand } from "./hand.mjs";
import { Kept } from "./kept.mjs";
import { Lens } from "./lens.mjs";
import { Table } from "./table.mjs";

const FILTERS = [["all", "All rows"], ["gaps", "Rows with missing or failed cells"], ["favourite", "Rows with favourites"], ["left", "Rows that are not all rejected"], ["different", "Rows whose pictures differ"]];
const LOOK_MS = 3000;
const LARGE = 3000;
const SAVE_MS = 300;
const TILE = 160;
const MOST_COMPARED = 4;
const KEYS = [
  ["Arrows", "in the table: from cell to cell"], ["Left, right", "in the large view: the next prompt"], ["Up, down", "in the large view: the next checkpoint or epoch"],
  ["PageUp, PageDown", "in the large view: the next value of the other axes, such as the seed"], ["Enter", "the large view"], ["Space", "in the large view: the baseline and back"],
  ["b", "make this column the baseline"], ["c", "choose for comparing"], ["v", "compare what is chosen"], ["f, x", "favourite, reject"],
  ["d, s, k, g", "in the large view: difference, slider, in turn, side by side"], ["z", "in the large view: zoom in and back; Shift with the arrows moves what is zoomed"], ["m", "in the large view: settings"], ["+, -", "larger and smaller; so do Ctrl with the wheel, and two fingers"], ["Esc", "closes the large view"],
];

export class Page {
  // `server` answers what a grid has: a Server, or the Folder that it was exported to. `tools` makes
  // what only a server can do: buttons of the page, and parts of a cell's settings.
  constructor(server, state, tools = {}) {
    this.server = server;
    this.tools = tools;
    this.kept = new Kept(server.grid);
    this.state = state;
    this.chosen = new Map();
    this.base = state.base ?? null;
    this.tile = state.tile ?? TILE;
    this.filter = state.filter ?? "all";
  }

  async start() {
    this.grid = new Grid(await this.server.states());
    this.arrangement = new Arrangement(this.grid, this.state);
    document.title = this.grid.name;
    this.build();
    this.arranged();
    this.revealBaseline();
    if (this.filter === "different") this.seePixels();
    if (this.server.changes) this.timer = setTimeout(() => this.look(), LOOK_MS);
  }

  build() {
    this.table = new Table(this);
    this.hand = new Hand(this.table);
    this.axes = new Axes(this);
    this.lens = new Lens(this);
    this.message = make("p", { class: "status", role: "status" });
    this.size = make("input", { type: "range", min: 48, max: 512, step: 16, value: this.tile, "aria-label": "size of the pictures", on: { input: () => this.resize(Number(this.size.value)) } });
    const filter = make("select", { "aria-label": "rows that are shown", on: { change: () => this.filtered(filter.value) } }, ...FILTERS.map(([value, text]) => make("option", { value, text, selected: value === this.filter })));
    this.compare = button("Compare", () => this.compareChosen(), { disabled: true, "aria-keyshortcuts": "v" });
    const more = this.tools.ofPage?.(this) ?? [];
    const keys = make("details", { class: "chip" }, make("summary", { text: "Keys" }), make("dl", { class: "menu keys" }, ...KEYS.flatMap(([key, text]) => [make("dt", { text: key }), make("dd", { text })])));
    document.body.replaceChildren(
      make("header", { class: "bar" }, make("h1", { text: this.grid.name }), this.axes.element, make("div", { class: "row tools" }, this.size, filter, this.compare, ...more, keys)),
      make("main", { class: "whole" }, this.message, this.table.element),
      this.lens.dialog,
    );
  }

  // After a change of what is where: everything is drawn, and the address says so.
  arranged() {
    this.axes.show();
    this.redraw();
  }

  redraw() {
    this.table.show(this.tile);
    this.save();
    this.tell();
  }

  tell(extra = "") {
    const { grid, table } = this;
    const [finished, failed] = [grid.count("f"), grid.count("x")];
    const rows = this.filter === "all" ? "" : ` ${table.rows.length} rows are shown.`;
    setText(this.message, extra || `${finished} of ${grid.keys.length} cells${failed ? `, ${failed} failed` : ""}.${rows}`);
  }

  save() {
    const { arrangement } = this;
    history.replaceState(null, "", address({ grid: this.grid.name, ...arrangement.toJson(), base: this.base ?? undefined, tile: Math.round(this.tile), filter: this.filter === "all" ? undefined : this.filter }));
  }

  resize(tile) {
    this.tile = Math.max(48, Math.min(512, tile));
    this.size.value = this.tile;
    this.table.resize(this.tile);
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), SAVE_MS);
  }

  filtered(filter) {
    this.filter = filter;
    this.redraw();
    if (filter === "different") this.seePixels();
  }

  // Asks which pictures have equal pixels, until all are compared.
  async seePixels() {
    const seeing = (this.seeing = {});
    let waiting = 1;
    while (waiting && this.seeing === seeing && this.filter === "different") {
      try {
        const found = await this.server.pixels();
        [this.pixels, waiting] = [found.pixels, found.waiting];
      } catch (error) {
        this.tell(error.message);
        return;
      }
      if (this.filter !== "different") return;
      this.redraw();
      if (waiting) this.tell(`${waiting} pictures have still to be compared.`);
    }
  }

  // Whether a row of cells is shown.
  wants(cells) {
    const there = cells.filter(Boolean);
    if (this.filter === "gaps") return there.some((cell) => cell.state !== "f");
    if (this.filter === "favourite") return there.some((cell) => this.kept.mark(cell.key) === "favourite");
    if (this.filter === "different") return this.differ(there);
    if (this.filter === "left") return there.some((cell) => this.kept.mark(cell.key) !== "reject");
    return true;
  }

  // The same for the row of a position that may be on another tab.
  wantsRowOf(position) {
    const { columns } = this.arrangement;
    const inColumn = (values) => this.grid.cell(position.map((value, axis) => (columns.includes(axis) ? values[columns.indexOf(axis)] : value)));
    return this.filter === "all" || this.wants(this.table.columns.map(inColumn));
  }

  // Whether pictures of a row differ from the baseline's, or from each other where there is none.
  differ(cells) {
    const number = (cell) => (cell?.state === "f" ? this.pixels?.[cell.key] : undefined);
    const known = cells.filter((cell) => number(cell) !== undefined);
    if (!this.base) return new Set(known.map(number)).size > 1;
    return known.some((cell) => ![undefined, number(cell)].includes(number(this.baselineOf(cell))));
  }

  // The grid fills while it is rendered.
  async look() {
    try {
      const found = await this.server.states();
      const axes = found.axes === this.grid.axes || JSON.stringify(found.axes) === JSON.stringify(this.grid.axes);
      const same = found === this.grid.found || (axes && found.states === this.grid.states && found.keys.every((key, at) => key === this.grid.keys[at]));
      if (!same) {
        this.grid = axes ? this.grid.take(found) : new Grid(found);
        for (const key of this.chosen.keys()) if (!found.keys.includes(key)) this.chosen.delete(key);
        this.counted();
        if (!axes) {
          this.arrangement = new Arrangement(this.grid, {});
          this.base = null;
        }
        this.arrangement.grid = this.grid;
        if (axes) this.redraw();
        else this.arranged();
        if (this.filter === "different") this.seePixels();
      } else if (this.lost) this.tell();
      this.lost = false;
    } catch (error) {
      this.lost = true;
      this.tell(error.message);
    }
    const calm = this.grid.states.includes(".") ? 1 : 4;
    this.timer = setTimeout(() => this.look(), LOOK_MS * calm * (this.grid.keys.length > LARGE ? 4 : 1));
  }

  // What a key does with a cell; false for keys that mean nothing here.
  act(key, cell) {
    if (key === "+" || key === "-") this.resize(this.tile + (key === "+" ? 32 : -32));
    else if (key === "v") this.compareChosen();
    else if (!cell) return false;
    else if (key === "b") this.pin(cell);
    else if (key === "c") this.choose(cell);
    else if (key === "f") this.toggle(cell, "favourite");
    else if (key === "x") this.toggle(cell, "reject");
    else return false;
    return true;
  }

  toggle(cell, mark) {
    this.kept.toggle(cell.key, mark);
    this.table.drawn = "";
    this.table.draw();
  }

  choose(cell) {
    if (cell.state !== "f") return;
    if (!this.chosen.delete(cell.key)) this.chosen.set(cell.key, cell);
    while (this.chosen.size > MOST_COMPARED) this.chosen.delete(this.chosen.keys().next().value);
    this.counted();
    this.table.drawn = "";
    this.table.draw();
  }

  counted() {
    this.compare.disabled = this.chosen.size < 2;
    setText(this.compare, this.chosen.size ? `Compare (${this.chosen.size})` : "Compare");
  }

  compareChosen() {
    if (this.chosen.size > 1) this.lens.open([...this.chosen.values()], "side");
    else this.tell("Choose two to four cells with c, then compare them with v.");
  }

  // The values of the column axes of the baseline column.
  pin(cell) {
    const values = this.arrangement.columns.map((axis) => [axis, cell.position[axis]]);
    const same = this.base && JSON.stringify(values) === JSON.stringify(this.base);
    this.base = same ? null : values;
    this.redraw();
    this.tell(same ? "There is no baseline." : "This column is the baseline.");
  }

  isBaseline(across, values) {
    if (!across || !this.base) return false;
    return this.base.every(([axis, value]) => values[this.arrangement.columns.indexOf(axis)] === value);
  }

  // A link may lead to a column that is far to the right.
  revealBaseline() {
    const column = this.table.columns.findIndex((values) => this.isBaseline(true, values));
    if (column < 0) return;
    this.table.focusOn(0, column, false);
    this.table.reveal();
  }

  isBaselineCell(cell) {
    return Boolean(this.base?.every(([axis, value]) => cell.position[axis] === value));
  }

  baselineOf(cell) {
    if (!this.base) return null;
    const position = [...cell.position];
    for (const [axis, value] of this.base) position[axis] = value;
    const found = this.grid.cell(position);
    return found?.state === "f" && found.key !== cell.key ? found : null;
  }

  open(row, column) {
    const cell = this.table.at(row, column);
    this.table.focusOn(row, column, false);
    if (cell?.state === "f") this.lens.open([cell]);
    else if (cell?.state === "x") this.tell(this.grid.reasons[cell.key] ? `This cell failed: ${this.grid.reasons[cell.key]}` : "This cell failed. The reason is in the grid's manifest.json and on its node.");
  }

  // To the next picture along some axes, over gaps and over rows that are not shown.
  step(axes, by) {
    const { arrangement, grid, lens, table } = this;
    const [{ position: from }] = lens.cells;
    const all = arrangement.combinations(axes);
    const at = all.findIndex((values) => axes.every((axis, level) => values[level] === from[axis]));
    for (let next = at + by; axes.length && all[next]; next += by) {
      const position = [...from];
      axes.forEach((axis, level) => (position[axis] = all[next][level]));
      const cell = grid.cell(position);
      const tabbed = arrangement.rest.some((axis) => arrangement.tabs[axis] !== position[axis]);
      if (cell?.state !== "f" || !(tabbed ? this.wantsRowOf(position) : table.placeOf(position))) continue;
      if (tabbed) {
        for (const axis of arrangement.rest) arrangement.tabs[axis] = position[axis];
        this.arranged();
      }
      table.focusOn(...table.placeOf(position), false);
      table.reveal();
      lens.open([cell]);
      return;
    }
  }

  back() {
    this.table.focusOn(...this.table.focus);
  }
}

// The cells as a table that holds only the pictures near what is seen, however many there are.
import { make } from "../runs/dom.mjs";

const GAP = 4;
const MOST_PICTURES = 280;
const LEVEL_PX = 24;
const UNREAD = "cannot be read";
const STATES = { f: "", x: "failed", ".": "not rendered yet" };

export class Table {
  // `page` gives the grid, the arrangement, what is kept, and does what keys and clicks ask for.
  constructor(page) {
    this.page = page;
    this.tiles = new Map();
    this.spare = [];
    this.focus = [0, 0];
    this.heads = make("div", { class: "heads" });
    this.sides = make("div", { class: "sides" });
    this.corner = make("div", { class: "corner" });
    this.cells = make("div", { class: "cells" });
    this.inner = make("div", { class: "inner" }, this.corner, this.heads, this.sides, this.cells);
    this.element = make("div", { class: "table", role: "region", "aria-label": "cells", on: { scroll: () => this.later(), keydown: (event) => this.key(event) } }, this.inner);
    this.watch = new ResizeObserver(() => this.later());
    this.watch.observe(this.element);
  }

  // Arranges the cells anew; `tile` is the wished side of a picture in pixels.
  show(tile) {
    const { arrangement } = this.page;
    this.columns = arrangement.combinations(arrangement.columns);
    const all = arrangement.combinations(arrangement.rows);
    this.rows = this.page.filter === "all" ? all : all.filter((row) => this.page.wants(this.columns.map((column) => this.cellOf(row, column))));
    this.wished = tile;
    this.focus = [Math.min(this.focus[0], Math.max(0, this.rows.length - 1)), Math.min(this.focus[1], this.columns.length - 1)];
    const focused = this.cells.contains(document.activeElement);
    for (const element of this.tiles.values()) this.put(element);
    this.tiles.clear();
    this.drawn = "";
    this.draw();
    if (focused) this.focusOn(...this.focus);
  }

  // Pictures of another size, where they are.
  resize(tile) {
    this.wished = tile;
    this.draw();
  }

  // Larger or smaller, by a factor; what is at `x` and `y` of the table stays there.
  zoom(factor, x, y) {
    const { element, size } = this;
    const from = Math.round(this.wished) < size.tile ? size.tile : this.wished;
    const [column, row] = [(element.scrollLeft + x - size.side) / size.step, (element.scrollTop + y - size.head) / size.step];
    this.page.resize(from * factor);
    const { step, side, head } = this.size;
    element.scrollLeft = column * step - x + side;
    element.scrollTop = row * step - y + head;
    this.draw();
  }

  cellOf(row, column) {
    const { grid, arrangement } = this.page;
    return grid.cell(arrangement.position(row, column));
  }

  at(row, column) {
    return this.rows[row] && this.columns[column] ? this.cellOf(this.rows[row], this.columns[column]) : null;
  }

  // Row and column of a position on this tab; null if its row is not shown.
  placeOf(position) {
    const { rows, columns } = this.page.arrangement;
    const find = (list, axes) => list.findIndex((values) => values.every((value, level) => value === position[axes[level]]));
    const place = [find(this.rows, rows), find(this.columns, columns)];
    return place.includes(-1) ? null : place;
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  sizes() {
    const { arrangement } = this.page;
    const [width, height] = [this.element.clientWidth, this.element.clientHeight];
    // Where pictures would be more than the page can hold at a time, they are drawn larger.
    const least = Math.sqrt((width * height * 1.5) / MOST_PICTURES) - GAP;
    const tile = Math.max(Math.round(this.wished), Math.ceil(least));
    const side = arrangement.rows.length * Math.min(140, Math.max(64, width / 8));
    return { tile, step: tile + GAP, head: arrangement.columns.length * LEVEL_PX, side, width, height };
  }

  draw() {
    if (!this.rows) return;
    const size = (this.size = this.sizes());
    this.inner.style.width = `${size.side + this.columns.length * size.step}px`;
    this.inner.style.height = `${size.head + this.rows.length * size.step}px`;
    const { scrollLeft, scrollTop } = this.element;
    const near = size.tile / 2;
    const range = (from, length, most) => [Math.max(0, Math.floor((from - near) / size.step)), Math.min(most, Math.ceil((from + length + near) / size.step))];
    const columns = range(scrollLeft, size.width - size.side, this.columns.length);
    const rows = range(scrollTop, size.height - size.head, this.rows.length);
    const drawn = JSON.stringify([columns, rows, size]);
    if (drawn === this.drawn) return;
    // While the table is only scrolled, tiles that stay are as they were.
    const sized = JSON.stringify(size);
    if (!this.drawn || sized !== this.sized) this.stale = true;
    [this.drawn, this.sized] = [drawn, sized];
    const focused = this.cells.contains(document.activeElement);
    this.drawTiles(rows, columns);
    this.drawLabels(this.heads, this.columns, this.page.arrangement.columns, columns, true);
    this.drawLabels(this.sides, this.rows, this.page.arrangement.rows, rows, false);
    this.corner.style.cssText = `width:${size.side}px;height:${size.head}px;margin-bottom:-${size.head}px`;
    if (focused) this.tiles.get(this.focus.join())?.focus({ preventScroll: true });
  }

  drawTiles(rows, columns) {
    const wanted = new Set();
    for (let row = rows[0]; row < rows[1]; row++) for (let column = columns[0]; column < columns[1]; column++) wanted.add(`${row},${column}`);
    for (const [place, tile] of this.tiles)
      if (!wanted.has(place)) {
        this.put(tile);
        this.tiles.delete(place);
      }
    for (const place of wanted) {
      const there = this.tiles.get(place);
      if (there && !this.stale) continue;
      const [row, column] = place.split(",").map(Number);
      this.fill(there ?? this.take(place), row, column);
    }
    this.stale = false;
  }

  put(tile) {
    tile.picture.removeAttribute("src");
    tile.remove();
    this.spare.push(tile);
  }

  take(place) {
    const tile = this.spare.pop() ?? this.newTile();
    this.tiles.set(place, tile);
    this.cells.append(tile);
    return tile;
  }

  newTile() {
    const picture = make("img", { alt: "", decoding: "async", draggable: "false" });
    const word = make("span", { class: "word" });
    const tile = make("button", { type: "button", class: "tile", on: { click: () => this.page.open(...tile.place), focus: () => this.focused(tile) } }, picture, word);
    picture.addEventListener("error", () => {
      tile.unread = picture.getAttribute("src");
      word.textContent = UNREAD;
    });
    return Object.assign(tile, { picture, word });
  }

  fill(tile, row, column) {
    const { size } = this;
    const cell = this.at(row, column);
    tile.place = [row, column];
    tile.style.cssText = `left:${size.side + column * size.step}px;top:${size.head + row * size.step}px;width:${size.tile}px;height:${size.tile}px`;
    tile.tabIndex = row === this.focus[0] && column === this.focus[1] ? 0 : -1;
    const source = cell?.state === "f" ? this.page.server.picture(cell.key, size.tile * devicePixelRatio) : null;
    const stays = source !== null && tile.picture.getAttribute("src") === source;
    const unread = stays && tile.unread === source;
    const word = unread ? UNREAD : cell ? STATES[cell.state] : "left out";
    const mark = cell ? this.page.kept.mark(cell.key) : "";
    tile.className = `tile ${cell ? { f: "there", x: "failed", ".": "missing" }[cell.state] : "none"} ${mark} ${cell && this.page.chosen.has(cell.key) ? "chosen" : ""}`;
    tile.word.textContent = word;
    const words = this.page.grid.words(this.page.arrangement.position(this.rows[row], this.columns[column]));
    tile.setAttribute("aria-label", [words, word, mark].filter(Boolean).join(", "));
    tile.title = words;
    tile.setAttribute("aria-disabled", String(!cell));
    if (source === null) tile.picture.removeAttribute("src");
    else if (!stays) {
      tile.unread = null;
      tile.picture.src = source;
    }
  }

  // The labels beside the cells: a line for each axis, and one label over all the cells that share it.
  drawLabels(element, combinations, axes, [from, to], across) {
    const { grid } = this.page;
    const { size } = this;
    const labels = [];
    axes.forEach((axis, level) => {
      for (let at = from; at < to; ) {
        const same = (other) => combinations[other].slice(0, level + 1).join() === combinations[at].slice(0, level + 1).join();
        let [first, end] = [at, at + 1];
        while (first > 0 && same(first - 1)) first--;
        while (end < combinations.length && same(end)) end++;
        const text = grid.axes[axis].values[combinations[at][level]] || "empty";
        const [start, length] = [first * size.step, (end - first) * size.step - GAP];
        const part = size.side / Math.max(1, axes.length);
        const style = across
          ? `left:${size.side + start}px;top:${level * LEVEL_PX}px;width:${length}px;height:${LEVEL_PX}px`
          : `left:${level * part}px;top:${size.head + start}px;width:${part}px;height:${length}px`;
        const label = make("div", { class: `label${this.page.isBaseline(across, combinations[at]) ? " base" : ""}`, title: `${grid.axes[axis].label}: ${text}` }, make("span", { text }));
        label.style.cssText = style;
        labels.push(label);
        at = end;
      }
    });
    element.replaceChildren(...labels);
  }

  // When the large view closes, the browser gives the focus back to where it was opened from: the cell
  // that was looked at last counts.
  focused(tile) {
    if (!this.page.lens.looking) this.focusOn(...tile.place, false);
  }

  focusOn(row, column, move = true) {
    const before = this.tiles.get(this.focus.join());
    if (before) before.tabIndex = -1;
    this.focus = [Math.max(0, Math.min(row, this.rows.length - 1)), Math.max(0, Math.min(column, this.columns.length - 1))];
    if (move) this.reveal();
    const tile = this.tiles.get(this.focus.join());
    if (!tile) return;
    tile.tabIndex = 0;
    if (move) tile.focus({ preventScroll: true });
  }

  reveal() {
    const { element, size } = this;
    const [row, column] = this.focus;
    const [x, y] = [column * size.step, row * size.step];
    const [width, height] = [size.width - size.side, size.height - size.head];
    element.scrollLeft = Math.min(x, Math.max(element.scrollLeft, x + size.step - width));
    element.scrollTop = Math.min(y, Math.max(element.scrollTop, y + size.step - height));
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [row, column] = this.focus;
    const page = Math.max(1, Math.floor((this.size.height - this.size.head) / this.size.step));
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [row, 0], End: [row, this.columns.length - 1], PageUp: [row - page, column], PageDown: [row + page, column],
    }[event.key];
    if (to) this.focusOn(...to);
    else if (!this.page.act(event.key, this.at(row, column))) return;
    event.preventDefault();
  }
}

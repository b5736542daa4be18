// One to four pictures large: side by side, in turn, with a slider, or their difference. They zoom and
// move together.
import { button, make, refill, setText } from "../runs/dom.mjs";
import { write } from "./exact.mjs";
import { compared } from "./pixels.mjs";

const MODES = [["side", "Side by side"], ["turn", "In turn"], ["slider", "Slider"], ["difference", "Difference"]];
const OF_TWO = ["slider", "difference"];
const TURN_MS = 500;
const MOST_ZOOM = 32;
const ZOOM = 1.5;
const MOVED_PX = 60;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SAVED_MS = 60_000;

export class Lens {
  constructor(page) {
    this.page = page;
    this.mode = "side";
    this.stage = make("div", { class: "stage", on: { wheel: (event) => this.wheel(event), pointerdown: (event) => this.down(event), pointermove: (event) => this.drag(event), pointerup: (event) => this.up(event), pointercancel: (event) => this.up(event), dblclick: () => this.reset() } });
    this.words = make("p", { class: "words", role: "status" });
    this.badge = make("p", { class: "badge", role: "status" });
    this.modes = make("div", { class: "row", role: "group", "aria-label": "how pictures are compared" });
    this.slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "where the slider is", on: { input: () => this.place() } });
    this.gain = make("input", { type: "range", min: 1, max: 32, value: 8, "aria-label": "gain of the difference", on: { input: () => this.place() } });
    this.steps = make("div", { class: "row", role: "group", "aria-label": "other pictures" });
    this.marks = make("div", { class: "row" });
    const zoom = [["−", "Zoom out", "-", 1 / ZOOM], ["+", "Zoom in", "+", ZOOM]].map(([text, label, key, factor]) => button(text, () => this.zoomAll(factor), { "aria-label": label, "aria-keyshortcuts": key }));
    this.facts = make("div", { class: "facts", hidden: true, tabIndex: 0 });
    this.dialog = make(
      "dialog",
      { class: "lens", "aria-label": "pictures", tabIndex: -1, on: { keydown: (event) => this.key(event), click: (event) => this.clicked(event), close: () => this.closed() } },
      make("header", { class: "row" }, this.modes, this.slider, this.gain, make("span", { class: "grow" }), this.steps, this.marks, ...zoom, button("Close", () => this.dialog.close(), { "aria-keyshortcuts": "Escape" })),
      this.stage,
      this.facts,
      make("footer", {}, this.words, this.badge),
    );
    this.pointers = new Map();
    this.looking = false;
  }

  // `cells` are one to four finished cells; a single one is looked at with its neighbours by the arrows.
  open(cells, mode = this.mode) {
    this.cells = cells;
    this.mode = cells.length < 2 || (cells.length > 2 && OF_TWO.includes(mode)) ? "side" : mode;
    this.alone = cells.length === 1;
    this.facts.hidden = !this.alone || !this.tellsFacts;
    this.stop();
    this.reset();
    this.build();
    this.looking = true;
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.dialog.focus();
    }
    this.hold();
  }

  build() {
    const { page, cells, mode } = this;
    this.images = cells.map((cell) => make("img", { alt: page.grid.words(cell.position), src: cell.picture ?? page.server.picture(cell.key), draggable: "false" }));
    const panes = mode === "side" ? this.images.map((image, at) => make("div", { class: "pane" }, image, this.alone ? null : make("span", { class: "caption", text: this.apart()[at] }))) : [make("div", { class: `pane ${mode}` }, ...this.images)];
    this.stage.replaceChildren(...panes);
    this.stage.dataset.count = String(panes.length);
    this.modes.hidden = cells.length < 2;
    const modes = cells.length > 2 ? MODES.filter(([name]) => !OF_TWO.includes(name)) : MODES;
    const back = cells.some((cell) => cell.picture) ? [button("Back to the cell", () => this.open(cells.slice(0, 1)))] : [];
    refill(this.modes, ...modes.map(([name, text]) => button(text, () => this.open(this.cells, name), { "aria-pressed": String(mode === name), "data-key": name })), ...back);
    this.slider.hidden = mode !== "slider";
    this.gain.hidden = mode !== "difference";
    if (mode === "turn") this.turning = setInterval(() => this.turn(), TURN_MS);
    this.shown = 0;
    this.place();
    this.tell();
  }

  // In what the pictures differ, for each of them.
  apart() {
    const [first, ...others] = this.cells;
    const different = this.page.grid.axes.map((axis, at) => [axis, at]).filter(([, at]) => others.some((cell) => cell.position[at] !== first.position[at]));
    return this.cells.map((cell) => cell.words ?? different.map(([axis, at]) => `${axis.label}: ${axis.values[cell.position[at]] || "empty"}`).join(", "));
  }

  // Space is a key of the large view too, so a button that a mouse has pressed does not keep it.
  clicked(event) {
    if (event.detail && event.target.tagName === "BUTTON") this.dialog.focus({ preventScroll: true });
  }

  // Buttons come and go; keys are heard as long as something in the dialog has the focus.
  hold() {
    if (!this.dialog.contains(document.activeElement)) this.dialog.focus();
  }

  tell() {
    const { page, cells } = this;
    const [first] = cells;
    setText(this.words, this.alone ? page.grid.words(first.position) : this.apart().join("  |  "));
    setText(this.badge, "");
    refill(
      this.marks,
      ...(this.alone
        ? [
            button("Favourite", () => this.mark("favourite"), { "data-key": "f", "aria-pressed": String(page.kept.mark(first.key) === "favourite"), "aria-keyshortcuts": "f" }),
            button("Reject", () => this.mark("reject"), { "data-key": "x", "aria-pressed": String(page.kept.mark(first.key) === "reject"), "aria-keyshortcuts": "x" }),
            button("Choose", () => this.choose(), { "data-key": "c", "aria-pressed": String(page.chosen.has(first.key)), "aria-keyshortcuts": "c" }),
            button("Baseline", () => this.pin(), { "data-key": "b", "aria-pressed": String(page.isBaselineCell(first)), "aria-keyshortcuts": "b" }),
            button("Settings", () => this.settings(), { "data-key": "m", "aria-expanded": String(!this.facts.hidden), "aria-keyshortcuts": "m" }),
          ]
        : []),
    );
    refill(this.steps, ...(this.alone ? this.neighbours() : []));
    if (!this.facts.hidden) this.fillFacts();
    if (cells.length === 2) this.measure(cells);
    if (this.dialog.open) this.hold();
  }

  // Buttons that lead to other pictures, with the axes that they go along.
  neighbours() {
    const { page } = this;
    const { across, down, besides } = page.arrangement.ways;
    const keys = [[across, "ArrowLeft", "ArrowRight"], [down, "ArrowUp", "ArrowDown"], [besides, "PageUp", "PageDown"]];
    const shown = keys.filter(([axes], at) => axes.length && !(at === 1 && axes[0] === across[0]));
    return shown.map(([axes, before, after]) => {
      const name = axes.map((axis) => page.grid.axes[axis].label).join(", ");
      const go = (text, word, by, key) => button(text, () => page.step(axes, by), { "data-key": key, "aria-label": `${word}: ${name}`, "aria-keyshortcuts": key });
      return make("span", { class: "step" }, go("‹", "Previous", -1, before), make("span", { text: name, title: name }), go("›", "Next", 1, after));
    });
  }

  // In an exported folder pictures cannot be read by the page, but it is known which are equal.
  async measure(cells) {
    let words = "";
    try {
      words = this.page.server.changes ? await compared(...this.images.slice(0, 2)) : await this.known(cells);
    } catch {
      // Pictures that cannot be read say so themselves.
    }
    if (words && this.cells === cells) setText(this.badge, words);
  }

  async known(cells) {
    const { pixels } = await this.page.server.pixels();
    const [one, other] = cells.map((cell) => pixels[cell.key]);
    return one === other ? "Pixel-equal." : "The pixels differ.";
  }

  mark(mark) {
    this.page.toggle(this.cells[0], mark);
    this.tell();
  }

  choose() {
    this.page.choose(this.cells[0]);
    this.tell();
  }

  pin() {
    this.page.pin(this.cells[0]);
    this.tell();
  }

  settings() {
    if (!this.alone) return;
    this.tellsFacts = this.facts.hidden;
    this.facts.hidden = !this.tellsFacts;
    this.tell();
  }

  async fillFacts() {
    const [cell] = this.cells;
    let found;
    try {
      found = await this.page.server.cell(cell.key);
    } catch (error) {
      if (this.cells[0] === cell) this.facts.replaceChildren(make("p", { text: error.message }));
      return;
    }
    if (this.cells[0] !== cell) return;
    const { page } = this;
    const lines = Object.entries(found.settings).flatMap(([name, value]) => [make("dt", { text: name.replaceAll("_", " ") }), make("dd", { text: typeof value === "string" ? value || "empty" : write(value) })]);
    const graphs = Object.entries({ "API prompt": found.prompt, workflow: found.workflow }).filter(([, value]) => value);
    const buttons = graphs.flatMap(([what, value]) => [button(`Copy ${what}`, () => this.copy(what, value)), button(`Save ${what}`, () => this.save(what, value))]);
    const open = page.tools.link ? [make("a", { class: "button", href: page.tools.link(page, cell.key), target: "_blank", text: "Open in ComfyUI" })] : [];
    const more = page.tools.ofCell?.(this, cell, found) ?? [];
    this.facts.replaceChildren(make("div", { class: "row" }, ...open, ...buttons), ...more, make("dl", {}, ...lines));
    if (this.dialog.open) this.hold();
  }

  // As a file, which ComfyUI's page opens when it is dropped there.
  save(what, value) {
    const url = URL.createObjectURL(new Blob([write(value, 2)], { type: "application/json" }));
    make("a", { href: url, download: `${this.page.grid.name} ${this.cells[0].key.slice(0, 8)} ${what}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), SAVED_MS);
  }

  async copy(what, value) {
    try {
      await navigator.clipboard.writeText(write(value, 2));
      setText(this.badge, `The ${what} is on the clipboard.${what === "workflow" ? " Paste it into ComfyUI's page to open it." : ""}`);
    } catch {
      setText(this.badge, "The browser does not let this page write to the clipboard.");
    }
  }

  turn() {
    this.shown = (this.shown + 1) % this.images.length;
    this.place();
  }

  // Puts zoom, slider and gain on the pictures.
  place() {
    const { zoom, x, y } = this.view;
    this.images.forEach((image, at) => {
      image.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
      image.style.imageRendering = zoom >= 3 ? "pixelated" : "auto";
      image.style.opacity = this.mode === "turn" && at !== this.shown ? "0" : "1";
      image.style.clipPath = "";
    });
    const [pane] = this.stage.children;
    pane.style.filter = this.mode === "difference" ? `brightness(${this.gain.value})` : "";
    if (this.mode === "slider") {
      // The cut stays where the slider is, however far the picture is moved.
      const at = (pane.clientWidth * this.slider.value) / 100;
      for (const image of this.images.slice(1)) image.style.clipPath = `inset(0 0 0 ${(at - x) / zoom}px)`;
    }
    if (this.mode === "turn") setText(this.badge, `${this.shown + 1} of ${this.images.length}`);
  }

  reset() {
    this.view = { zoom: 1, x: 0, y: 0 };
    if (this.images?.length) this.place();
  }

  zoomBy(factor, x, y) {
    const { view } = this;
    const zoom = Math.max(1, Math.min(MOST_ZOOM, view.zoom * factor));
    const change = zoom / view.zoom;
    this.view = zoom === 1 ? { zoom, x: 0, y: 0 } : { zoom, x: x - (x - view.x) * change, y: y - (y - view.y) * change };
    this.place();
  }

  // About the middle of every picture.
  zoomAll(factor) {
    const [pane] = this.stage.children;
    this.zoomBy(factor, pane.clientWidth / 2, pane.clientHeight / 2);
  }

  moveBy(right, down) {
    const { zoom, x, y } = this.view;
    if (zoom > 1) this.view = { zoom, x: x + right, y: y + down };
    this.place();
  }

  wheel(event) {
    event.preventDefault();
    const box = (event.target.closest(".pane") ?? this.stage).getBoundingClientRect();
    this.zoomBy(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 1) {
      this.moveBy(event.clientX - before.clientX, event.clientY - before.clientY);
    } else if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, one]) => one);
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const box = this.stage.children[0].getBoundingClientRect();
      this.zoomBy(far(event) / far(before), (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
    }
    this.pointers.set(event.pointerId, event);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
  }

  key(event) {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === this.facts && event.key.startsWith("Page")) return;
    const { across, down, besides } = this.page.arrangement.ways;
    const steps = { ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, -1], ArrowDown: [down, 1], PageUp: [besides, -1], PageDown: [besides, 1] };
    const does = {
      d: () => this.compare("difference"), s: () => this.compare("slider"), k: () => this.compare("turn"), g: () => this.compare("side"),
      z: () => (this.view.zoom > 1 ? this.reset() : this.zoomAll(4)), "+": () => this.zoomAll(ZOOM), "-": () => this.zoomAll(1 / ZOOM),
      f: () => this.alone && this.mark("favourite"), x: () => this.alone && this.mark("reject"), m: () => this.settings(), c: () => this.alone && this.choose(), b: () => this.alone && this.pin(),
    };
    // What is moved is the view, so the picture goes the other way.
    if (event.shiftKey && event.key in ARROWS) this.moveBy(...ARROWS[event.key].map((way) => -way * MOVED_PX));
    else if (event.key in steps && this.alone) this.page.step(...steps[event.key]);
    else if (event.key === " " && event.target.tagName !== "BUTTON") this.flick();
    else if (event.key in does) does[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // With one picture, beside the baseline's.
  compare(mode) {
    const cells = this.alone ? [this.page.baselineOf(this.cells[0]), this.cells[0]].filter(Boolean) : this.cells;
    if (cells.length > 1) this.open(cells, mode);
    else setText(this.badge, "Choose a baseline first: b on a cell makes its column the baseline.");
  }

  flick() {
    if (!this.alone) {
      this.turn();
      return;
    }
    const base = this.page.baselineOf(this.cells[0]);
    if (!base) return this.compare("turn");
    const [image] = this.images;
    const [own, other] = [this.page.server.picture(this.cells[0].key), this.page.server.picture(base.key)];
    const shows = image.getAttribute("src") === own ? other : own;
    image.src = shows;
    setText(this.badge, shows === other ? "The baseline." : "");
  }

  stop() {
    clearInterval(this.turning);
    this.turning = null;
  }

  closed() {
    // The word of it comes late: by then it may be open again.
    if (this.dialog.open) return;
    this.looking = false;
    this.stop();
    this.stage.replaceChildren();
    this.images = [];
    this.page.back();
  }
}

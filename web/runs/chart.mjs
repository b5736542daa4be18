// The loss chart of a run, with other runs laid over it. Raw loss faint, smoothed bold; validation as
// points with their standard errors; a star at the best, another at the one that votes prefer; marks for
// checkpoints and restarts.
import { button, changed, make, refill, setText } from "./dom.mjs";
import { Curve, smoothed } from "./curve.mjs";
import { Epoch } from "./epoch.mjs";
import { duration, number, titleOf } from "./words.mjs";

// Colours that stay apart for colour-blind eyes (Okabe and Ito), for dark and light ground.
const DARK = { train: "#56b4e9", validation: ["#f0a83c", "#e77fb3", "#c3d94e", "#e8743b"], rate: "#9aa0aa", others: ["#2ebd92", "#b9a3f0", "#e9dc4f", "#d98f6a"] };
const LIGHT = { train: "#0067a8", validation: ["#c25a00", "#a84e82", "#6d7a00", "#b03a00"], rate: "#6b7078", others: ["#00805c", "#6b4fc0", "#8a7a00", "#8f4a2a"] };
const HEIGHT = [190, 340];
const MOST_OTHERS = 4;
const NEAR = 24;
const KEPT = "cocktail.runs.chart";

export class Chart {
  constructor(panel) {
    this.panel = panel;
    this.options = { x: "step", smooth: 0.9, log: false, rate: false, ...kept() };
    this.curves = new Map();
    this.others = [];
    this.size = 0;
    this.canvas = make("div", { class: "plot", tabIndex: 0, role: "img", "aria-label": "loss chart" });
    this.readout = make("div", { class: "readout", role: "status" });
    this.legend = make("div", { class: "legend" });
    this.problem = make("p", { class: "quiet", hidden: true });
    const slider = make("input", {
      type: "range", min: 0, max: 0.99, step: 0.01, value: this.options.smooth, "aria-label": "smoothing",
      on: { input: () => this.set({ smooth: Number(slider.value) }) },
    });
    const axis = make(
      "select",
      { "aria-label": "horizontal axis", on: { change: () => this.setX(axis.value) } },
      ...["step", "epoch", "time"].map((value) => make("option", { value, text: value, selected: value === this.options.x })),
    );
    this.adds = make("div", { class: "overlay" });
    this.epoch = new Epoch(panel);
    this.element = make(
      "section",
      { class: "chart", "aria-label": "loss" },
      make(
        "div",
        { class: "row controls" },
        make("label", { class: "inline grow" }, make("span", { text: "smooth" }), slider),
        make("label", { class: "inline" }, make("span", { text: "x" }), axis),
        this.check("log", "log", "logarithmic scale"),
        this.check("rate", "rate", "learning rate"),
        (this.back = button("Whole run", () => this.unzoom(), { hidden: true })),
      ),
      this.canvas,
      this.readout,
      this.epoch.element,
      this.legend,
      this.adds,
      this.problem,
    );
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(this.canvas);
  }

  check(name, text, title) {
    const input = make("input", { type: "checkbox", checked: this.options[name], on: { change: () => this.set({ [name]: input.checked }) } });
    return make("label", { class: "inline", title }, input, make("span", { text }));
  }

  close() {
    this.resized.disconnect();
    this.plot?.destroy();
    this.plot = null;
    this.curves.clear();
    cancelAnimationFrame(this.frame);
  }

  async show(run) {
    const other = run.name !== this.run?.name;
    this.run = run;
    if (other) {
      this.curves.clear();
      this.others = [];
      this.unzoomed();
      this.plot?.destroy();
      this.plot = null;
      this.shape = null;
      setText(this.readout, "");
      this.epoch.clear();
    }
    this.overlays();
    if (other) await this.load();
    else await this.follow();
  }

  // What a new state of the runs changes: the list of those that could be laid over, and the curves.
  async follow() {
    const names = [this.run.name, ...this.others];
    const grown = await Promise.all(names.map((name) => this.curves.get(name)?.follow()));
    const colour = getComputedStyle(this.element).color;
    if (grown.some(Boolean) || colour !== this.colour) this.draw();
  }

  async load() {
    const names = [this.run.name, ...this.others];
    const [from, to] = this.zoom ?? [];
    try {
      const found = await Promise.all(
        names.map((name) => {
          if (!this.curves.has(name)) this.curves.set(name, new Curve(this.panel.routes, name));
          return this.curves.get(name).load(this.options.x, from, to);
        }),
      );
      if (this.panel.closed || names[0] !== this.run.name) return;
      this.element.hidden = found[0] === null;
      this.problem.hidden = true;
    } catch (error) {
      if (this.panel.closed) return;
      setText(this.problem, error.message);
      this.problem.hidden = false;
      return;
    }
    // Runs may have been laid over or taken away while this was read.
    for (const name of this.curves.keys()) if (name !== this.run.name && !this.others.includes(name)) this.curves.delete(name);
    this.draw();
  }

  set(options) {
    Object.assign(this.options, options);
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.options));
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.draw();
  }

  async setX(x) {
    this.unzoomed();
    this.set({ x });
    await this.load();
  }

  unzoomed() {
    this.zoom = null;
    this.back.hidden = true;
  }

  unzoom() {
    this.unzoomed();
    this.load();
  }

  overlays() {
    const runs = this.panel.runs.filter((run) => run.name !== this.run.name && run.status !== "unreadable");
    this.others = this.others.filter((name) => runs.some((run) => run.name === name));
    const known = runs.map((run) => [run.name, titleOf(run)]);
    if (!changed(this.adds, [known, this.others])) return;
    const left = runs.filter((run) => !this.others.includes(run.name));
    const choice = make(
      "select",
      {
        "aria-label": "lay another run over this one",
        "data-key": "overlay",
        disabled: this.others.length >= MOST_OTHERS,
        on: { change: () => choice.value && this.overlay([...this.others, choice.value]) },
      },
      make("option", { value: "", text: "Compare with another run…" }),
      ...left.map((run) => make("option", { value: run.name, text: titleOf(run) })),
    );
    refill(this.adds, ...(left.length ? [choice] : []));
  }

  overlay(names) {
    this.others = names;
    this.overlays();
    this.load();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.panel.closed) this.paint();
    });
  }

  async paint() {
    const { default: uPlot } = await import("../vendor/uPlot.mjs");
    const lines = this.lines();
    if (!lines || this.panel.closed || !this.canvas.clientWidth) return;
    const tables = lines.map((line) => [line.x, ...line.columns]);
    const data = tables.length ? uPlot.join(tables) : [[], []];
    this.colour = getComputedStyle(this.element).color;
    const shape = JSON.stringify([lines.map((line) => [line.kind, line.label, line.colour]), this.options.log, this.options.rate, this.options.x, this.colour]);
    this.drawn = lines;
    this.size = data[0].length;
    if (this.plot && shape === this.shape) this.plot.setData(data);
    else {
      this.plot?.destroy();
      this.shape = shape;
      this.canvas.replaceChildren();
      this.plot = new uPlot(this.uplotOptions(lines), data, this.canvas);
    }
    this.describe(lines);
  }

  // What is known of a run's curve on the axis that is chosen.
  curveOf(name) {
    const curve = this.curves.get(name);
    return curve?.x === this.options.x ? curve.value : null;
  }

  // What is drawn, in the order of drawing: {kind, label, x, columns, colour, error?}.
  lines() {
    const main = this.curveOf(this.run?.name);
    if (!main) return null;
    const ground = luminance(getComputedStyle(this.panel.root).backgroundColor);
    this.colours = ground < 0.4 ? DARK : LIGHT;
    const found = [];
    const part = (curve, run, train, validation) => {
      const { x, min, max, mean } = curve.train;
      const own = run === this.run;
      if (own && x.length) found.push({ kind: "raw", label: "training", x, columns: [max, min, mean], colour: train });
      if (x.length) found.push({ kind: "smooth", run, label: own ? "training, smoothed" : titleOf(run), x, columns: [smoothed(mean, this.options.smooth)], colour: train });
      for (const [at, [name, set]] of Object.entries(curve.validation).entries()) {
        if (!set?.x?.length) continue;
        const label = own ? name : `${titleOf(run)}: ${name}`;
        found.push({ kind: "validation", run, name, label, x: set.x, columns: [set.loss], error: set.error ?? [], colour: validation[at % validation.length] });
      }
      if (own && this.options.rate && curve.rate.x.length) {
        for (const [name, label] of [["unet", "learning rate"], ["text_encoder", "learning rate of the text encoder"]])
          if (curve.rate[name]?.some((rate) => Number.isFinite(rate)))
            found.push({ kind: "rate", label, x: curve.rate.x, columns: [curve.rate[name]], colour: this.colours.rate, dash: name === "unet" ? [] : [4, 3] });
      }
    };
    this.others.forEach((name, at) => {
      const run = this.panel.runs.find((one) => one.name === name);
      const value = this.curveOf(name);
      if (run && value) part(value, run, this.colours.others[at], [this.colours.others[at]]);
    });
    part(main, this.run, this.colours.train, this.colours.validation);
    return found;
  }

  uplotOptions(lines) {
    const style = getComputedStyle(this.element);
    const faint = withAlpha(style.color, 0.12);
    const ink = withAlpha(style.color, 0.75);
    const font = `11px ${style.fontFamily}`;
    const series = [{}];
    const bands = [];
    for (const line of lines) {
      const at = series.length;
      const base = { label: line.label, spanGaps: true, stroke: line.colour, scale: "y" };
      if (line.kind === "raw") {
        const edge = { ...base, width: 0, stroke: "transparent", points: { show: false } };
        series.push(edge, { ...edge }, { ...base, stroke: withAlpha(line.colour, 0.22), width: 1, points: { show: false } });
        bands.push({ series: [at, at + 1], fill: withAlpha(line.colour, 0.12) });
      } else if (line.kind === "smooth") series.push({ ...base, width: line.run === this.run ? 2 : 1.5, points: { show: false } });
      else if (line.kind === "validation")
        series.push({ ...base, width: 1.5, dash: line.run === this.run ? undefined : [5, 4], points: { show: true, size: line.x.length > 60 ? 4 : 6, fill: line.colour } });
      else series.push({ ...base, scale: "rate", width: 1, dash: line.dash, points: { show: false } });
    }
    if (series.length === 1) series.push({ show: false });
    const grid = { stroke: faint, width: 1 };
    const axis = { stroke: ink, font, grid, ticks: { ...grid, size: 4 } };
    const rated = lines.some((line) => line.kind === "rate");
    return {
      ...this.measures(),
      padding: [10, rated ? 0 : 18, 0, 0],
      series,
      bands,
      legend: { show: false },
      scales: {
        x: { time: false },
        y: { distr: this.options.log ? 3 : 1, range: (plot, low, high) => this.range(low, high) },
        rate: { distr: this.options.log ? 3 : 1, range: (plot, low, high) => (this.options.log ? [low || 1e-9, high || 1] : [0, (high || 1) * 1.05]) },
      },
      axes: [
        { ...axis, size: 30, values: (plot, marks) => marks.map((mark) => this.xWords(mark)) },
        { ...axis, size: 52, values: (plot, marks) => marks.map((mark) => (mark === null ? "" : number(mark, 3))) },
        ...(rated ? [{ ...axis, side: 1, size: 52, scale: "rate", grid: { show: false }, values: (plot, marks) => marks.map((mark) => (mark === null ? "" : number(mark, 3))) }] : []),
      ],
      cursor: { drag: { x: true, y: false, setScale: false }, points: { size: 7 } },
      hooks: {
        ready: [(plot) => plot.over.addEventListener("click", () => this.choose())],
        draw: [(plot) => this.marks(plot)],
        setCursor: [(plot) => this.point(plot)],
        setSelect: [(plot) => this.select(plot)],
      },
    };
  }

  measures() {
    const width = Math.max(200, this.canvas.clientWidth);
    return { width, height: Math.round(Math.min(HEIGHT[1], Math.max(HEIGHT[0], width * 0.5))) };
  }

  resize() {
    if (!this.plot) this.draw();
    else if (this.plot.width !== this.measures().width) this.plot.setSize(this.measures());
  }

  // Neither single outliers of the raw loss nor error bars press everything else flat.
  range(low, high) {
    const shown = [];
    for (const line of this.drawn) {
      if (line.kind === "rate") continue;
      const values = line.columns.at(-1).filter(Number.isFinite);
      if (line.kind === "raw") {
        const sorted = [...values].sort((a, b) => a - b);
        shown.push(sorted[Math.floor(0.02 * sorted.length)], sorted[Math.floor(0.98 * (sorted.length - 1))]);
      } else for (const value of values) shown.push(value);
    }
    const used = shown.filter((value) => Number.isFinite(value) && (!this.options.log || value > 0));
    if (!used.length) return this.options.log ? [0.01, 1] : [0, 1];
    let bottom = Infinity;
    let top = -Infinity;
    for (const value of used) {
      bottom = Math.min(bottom, value);
      top = Math.max(top, value);
    }
    if (this.options.log) return [bottom * 0.97, top * 1.03];
    const room = (top - bottom || Math.abs(top) || 1) * 0.08;
    return [bottom - room, top + room];
  }

  marks(plot) {
    const main = this.curves.get(this.run.name)?.value;
    if (!main) return;
    const pen = plot.ctx;
    const dot = devicePixelRatio || 1;
    const { left, top, width, height } = plot.bbox;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    pen.lineWidth = dot;
    pen.setLineDash([4 * dot, 3 * dot]);
    pen.strokeStyle = withAlpha(this.colour, 0.55);
    for (const x of main.restarts) {
      const at = plot.valToPos(x, "x", true);
      line(pen, at, top, at, top + height);
    }
    pen.setLineDash([]);
    for (const one of this.drawn) {
      if (one.kind !== "validation") continue;
      pen.strokeStyle = withAlpha(one.colour, 0.5);
      one.x.forEach((x, at) => {
        const error = one.error[at];
        if (!error) return;
        const middle = plot.valToPos(x, "x", true);
        const low = one.columns[0][at] - error;
        const high = plot.valToPos(one.columns[0][at] + error, "y", true);
        const bottom = this.options.log && low <= 0 ? top + height : plot.valToPos(low, "y", true);
        line(pen, middle, bottom, middle, high);
        for (const y of [bottom, high]) line(pen, middle - 3 * dot, y, middle + 3 * dot, y);
      });
    }
    pen.fillStyle = withAlpha(this.colour, 0.6);
    for (const { x } of main.checkpoints) {
      const at = plot.valToPos(x, "x", true);
      pen.beginPath();
      pen.moveTo(at, top + height - 7 * dot);
      pen.lineTo(at - 4 * dot, top + height);
      pen.lineTo(at + 4 * dot, top + height);
      pen.fill();
    }
    const best = this.bestPoint(main);
    if (best) {
      pen.fillStyle = this.colours.validation[0];
      pen.strokeStyle = getComputedStyle(this.panel.root).backgroundColor;
      pen.lineWidth = 1.5 * dot;
      star(pen, plot.valToPos(best.x, "x", true), plot.valToPos(best.loss, "y", true), 9 * dot);
      pen.stroke();
      pen.fill();
    }
    const voted = this.votedPoint(main);
    if (voted) {
      const at = Number.isFinite(voted.loss) ? plot.valToPos(voted.loss, "y", true) : top + 16 * dot;
      pen.strokeStyle = this.colour;
      pen.lineWidth = 2 * dot;
      star(pen, plot.valToPos(voted.x, "x", true), at, 14 * dot);
      pen.stroke();
    }
    pen.restore();
  }

  bestPoint(curve) {
    const { best } = curve;
    if (!best || !Number.isFinite(best.x) || !Number.isFinite(best.loss)) return null;
    return best;
  }

  // Where the checkpoint is that leads a vote, at the height of its validation loss.
  votedPoint(curve) {
    const { voted } = curve;
    if (!voted || !Number.isFinite(voted.x)) return null;
    const [set] = Object.values(curve.validation).filter((one) => one?.x?.length);
    return { ...voted, loss: set ? set.loss[nearest(set.x, voted.x)] : null };
  }

  // The checkpoint that the cursor is at: its column in grids.
  choose() {
    const { left } = this.plot?.cursor ?? {};
    const checkpoints = this.curves.get(this.run.name)?.value?.checkpoints ?? [];
    if (!(left >= 0) || !checkpoints.length) return;
    const far = (one) => Math.abs(this.plot.valToPos(one.x, "x") - left);
    const found = checkpoints.reduce((best, one) => (far(one) < far(best) ? one : best));
    if (far(found) <= NEAR) this.panel.does(() => this.epoch.show(this.run, found));
    else this.epoch.clear();
  }

  xWords(value) {
    if (value === null || value === undefined) return "";
    if (this.options.x === "time") return duration(value);
    if (this.options.x === "epoch") return number(value, 4);
    return Math.abs(value) >= 10_000 && value % 100 === 0 ? `${value / 1000}k` : String(Math.round(value));
  }

  point(plot) {
    const { left } = plot.cursor;
    if (left < 0 || !this.size) {
      setText(this.readout, this.summary ?? "");
      return;
    }
    const x = plot.posToVal(left, "x");
    const where = this.options.x === "step" ? `step ${Math.round(x)}` : this.options.x === "epoch" ? `epoch ${x.toFixed(2)}` : duration(x) || "0 s";
    const parts = [where];
    for (const one of this.drawn) {
      if (one.kind === "raw") continue;
      const at = nearest(one.x, x);
      const value = one.columns[0][at];
      if (!Number.isFinite(value)) continue;
      const error = one.error?.[at] ? ` ± ${number(one.error[at], 2)}` : "";
      parts.push(`${one.label} ${number(value)}${error}`);
    }
    setText(this.readout, parts.join(" · "));
  }

  select(plot) {
    const { left, width } = plot.select;
    if (width < 6) return;
    this.zoom = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    if (this.options.x === "step") this.zoom = [Math.floor(this.zoom[0]), Math.ceil(this.zoom[1])];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.back.hidden = false;
    this.load();
  }

  key(event) {
    if (!this.plot || !["ArrowLeft", "ArrowRight", "Home", "End", "Enter"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Enter") {
      this.choose();
      return;
    }
    const { width } = this.plot.over.getBoundingClientRect();
    const step = Math.max(1, width / 50);
    const now = this.plot.cursor.left < 0 ? 0 : this.plot.cursor.left;
    const left = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: width - 1 }[event.key];
    this.plot.setCursor({ left: Math.min(width - 1, Math.max(0, left)), top: 10 });
  }

  // The chart in words: under it, and for who does not see it.
  describe(lines) {
    const main = this.curves.get(this.run.name).value;
    const parts = Object.entries(main.validation).flatMap(([name, set]) => {
      const points = (set?.loss ?? []).map((loss, at) => ({ loss, x: set.x[at] })).filter(({ loss }) => Number.isFinite(loss));
      if (!points.length) return [];
      const [first] = points;
      const lowest = points.reduce((best, point) => (point.loss < best.loss ? point : best));
      const change = 100 * (lowest.loss / first.loss - 1);
      const best = lowest === first ? "" : `, lowest ${number(lowest.loss)} at ${this.where(lowest.x)} (${change.toFixed(1)} %)`;
      return [`${name} ${number(first.loss)} at ${this.zoom ? this.where(first.x) : "the start"}${best}`];
    });
    const voted = this.votedPoint(main);
    if (voted) parts.push(`${voted.decided ? "human winner" : "leads the vote"}: ${this.where(voted.x)}, ${voted.votes} votes in ${voted.grid}`);
    this.summary = parts.join(" · ");
    this.canvas.dataset.lastStep = String(main.last_step ?? 0);
    this.canvas.setAttribute("aria-label", `loss chart of ${titleOf(this.run)}. ${this.summary || "No validation yet."}`);
    if (!this.plot || this.plot.cursor.left === undefined || this.plot.cursor.left < 0) setText(this.readout, this.summary);
    else this.point(this.plot);
    const shown = lines.filter((one) => one.kind !== "raw");
    if (!changed(this.legend, [shown.map((one) => [one.label, one.colour]), main.restarts.length > 0, main.checkpoints.length > 0, this.bestPoint(main) !== null, voted?.decided])) return;
    const entries = shown.map((one) => {
      const swatch = make("i", { class: `swatch ${one.kind}` });
      swatch.style.setProperty("--ink", one.colour);
      const remove =
        one.kind === "smooth" && one.run !== this.run
          ? button("×", () => this.overlay(this.others.filter((name) => name !== one.run.name)), { class: "bare", "aria-label": `take ${one.label} away` })
          : null;
      return make("span", { class: "entry" }, swatch, make("span", { text: one.label }), remove);
    });
    if (main.checkpoints.length) entries.push(make("span", { class: "entry" }, make("i", { text: "▴" }), make("span", { text: "checkpoint" })));
    if (main.restarts.length) entries.push(make("span", { class: "entry" }, make("i", { text: "┊" }), make("span", { text: "restart" })));
    if (this.bestPoint(main)) entries.push(make("span", { class: "entry" }, make("i", { text: "★" }), make("span", { text: "best" })));
    if (voted) entries.push(make("span", { class: "entry" }, make("i", { text: "☆" }), make("span", { text: voted.decided ? "human winner" : "leads the vote" })));
    refill(this.legend, ...entries);
  }

  where(x) {
    return this.options.x === "time" ? duration(x) : `${this.options.x} ${this.options.x === "epoch" ? number(x, 3) : Math.round(x)}`;
  }
}

function kept() {
  try {
    const value = JSON.parse(localStorage.getItem(KEPT)) ?? {};
    const x = ["step", "epoch", "time"].includes(value.x) ? value.x : "step";
    const smooth = value.smooth >= 0 && value.smooth <= 0.99 ? value.smooth : 0.9;
    return { x, smooth, log: value.log === true, rate: value.rate === true };
  } catch {
    return {};
  }
}

function line(pen, x, y, toX, toY) {
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(toX, toY);
  pen.stroke();
}

function star(pen, x, y, radius) {
  pen.beginPath();
  for (let corner = 0; corner < 10; corner += 1) {
    const angle = (Math.PI * corner) / 5 - Math.PI / 2;
    const far = corner % 2 ? radius * 0.45 : radius;
    pen.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
  }
  pen.closePath();
}

function nearest(values, x) {
  let low = 0;
  let high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(values[low] - x) <= Math.abs(values[high] - x) ? low : high;
}

const probe = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d", { willReadFrequently: true });

// Any CSS colour as [red, green, blue], 0 to 255.
function rgb(colour) {
  probe.clearRect(0, 0, 1, 1);
  probe.fillStyle = colour;
  probe.fillRect(0, 0, 1, 1);
  return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
}

function withAlpha(colour, alpha) {
  return `rgba(${rgb(colour).join(", ")}, ${alpha})`;
}

export function luminance(colour) {
  const [red, green, blue] = rgb(colour);
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
}

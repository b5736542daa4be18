// Bars for the numbers of Block Weights: hover to see a block's name and share, drag across to
// paint, use the arrow keys when focused. The bars keep no state: they read and write the node's
// widgets, and a workflow saves only those.

const COLOURS = { bar: "#5b8def", base: "#8a8f98", hover: "#e0a100", line: "#8a8f9855", text: "#c8ccd4" };
const HEIGHT = 90;
const LEGEND = 12;
const NUMBER = /^-?\d{1,60}(\/\d{1,60}|\.\d{1,60})?$/;
const CUSTOM = "custom";
const READ = ["preset", "weights", "base", "layout"];
const HINT = "drag to change, hover for names";

export function attach(node, api) {
  const bars = new BlockBars(node, api);
  const widget = node.addDOMWidget("bars", "cocktail_bars", bars.element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => HEIGHT + 40,
    getMaxHeight: () => HEIGHT + 40,
    onDraw: () => bars.refresh(),
  });
  widget.serialize = false;
  for (const name of READ) follow(node, name, () => bars.refresh());
  const least = node.computeSize();
  if (node.size[1] < least[1]) node.setSize([Math.max(node.size[0], least[0]), least[1]]);
  node.setDirtyCanvas?.(true, true);
}

function follow(node, name, refresh) {
  const widget = node.widgets.find((one) => one.name === name);
  const before = widget.callback;
  widget.callback = function (...given) {
    const answer = before?.apply(this, given);
    refresh();
    return answer;
  };
}

class BlockBars {
  constructor(node, api) {
    this.node = node;
    this.api = api;
    this.known = null;
    this.at = null;
    this.element = document.createElement("div");
    this.element.className = "cocktail-bars";
    Object.assign(this.element.style, { display: "flex", flexDirection: "column", gap: "4px", fontSize: "11px", overflow: "hidden" });
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider");
    this.canvas.setAttribute("aria-label", "block weights");
    Object.assign(this.canvas.style, { width: "100%", height: `${HEIGHT}px`, flex: "none", touchAction: "none", cursor: "crosshair" });
    this.text = document.createElement("div");
    this.text.setAttribute("role", "status");
    Object.assign(this.text.style, { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis" });
    this.element.append(this.canvas, this.text);
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.drag = null));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    this.load();
  }

  async load() {
    const answer = await this.api.fetchApi("/cocktail/block_presets");
    if (!answer.ok) return;
    this.known = await answer.json();
    this.refresh(true);
  }

  widget(name) {
    return this.node.widgets.find((widget) => widget.name === name);
  }

  linked(name) {
    return (this.node.inputs ?? []).some((input) => input.name === name && input.link != null);
  }

  state() {
    return READ.map((name) => (this.linked(name) ? null : String(this.widget(name).value)));
  }

  // Called when the node is drawn and before a change by hand: reads the widgets again if one of
  // them has changed.
  refresh(always = false) {
    const state = JSON.stringify(this.state());
    if (!this.known || (!always && state === this.seen)) return;
    this.seen = state;
    this.shown = this.read();
    if (this.at >= (this.shown.slots?.length ?? 0)) this.at = null;
    this.draw();
  }

  // {slots, numbers} with BASE first and the numbers as text, or {problem}.
  read() {
    const [preset, weights, base, layout] = this.state();
    if (preset === null || (preset === CUSTOM && weights === null)) return { problem: "the weights are linked" };
    const name = preset === CUSTOM ? weights.trim() : preset;
    const shown = this.ofPreset(name, layout) ?? (preset === CUSTOM && !/^\p{L}/u.test(name) ? this.ofNumbers(name) : this.unknown(name));
    if (shown.problem || base === "") return shown;
    if (base === null) return { ...shown, fixedBase: true };
    if (base.trim() && !NUMBER.test(base.trim())) return { problem: "base is not a number" };
    return base.trim() ? { ...shown, numbers: [base.trim(), ...shown.numbers.slice(1)], ownBase: true, under: shown.numbers[0] } : shown;
  }

  ofPreset(name, layout) {
    const found = Object.hasOwn(this.known.presets, name) ? this.known.presets[name] : null;
    if (!found) return null;
    const [kind, numbers] = layout in found ? [layout, found[layout]] : Object.entries(found)[0];
    return { slots: this.known.layouts[kind], numbers: numbers.map(String) };
  }

  // An unknown name may be a preset that was saved in the meantime: ask again, once for each name.
  unknown(name) {
    if (this.asked !== name) {
      this.asked = name;
      this.load();
    }
    return { problem: this.known.problem || `there is no preset ${name}` };
  }

  ofNumbers(text) {
    const numbers = text.replace(/^[[\]]+|[[\]]+$/g, "").replace(/^[ ,]+|[ ,]+$/g, "").trim().split(/[\s,]+/);
    const wrong = numbers.find((number) => !NUMBER.test(number) || !Number.isFinite(valueOf(number)));
    if (wrong !== undefined) return { problem: wrong ? `${wrong} is not a number` : "no weights" };
    for (const slots of Object.values(this.known.layouts)) {
      if (numbers.length === slots.length) return { slots, numbers };
      if (numbers.length === slots.length - 1) return { slots, numbers: ["0", ...numbers], withoutBase: true };
    }
    return { problem: `${numbers.length} numbers; SD1.5 has 25 blocks, SDXL 19` };
  }

  change(values) {
    const { shown } = this;
    const numbers = [...shown.numbers];
    let base = false;
    for (const [slot, value] of values) {
      if (slot === 0 && shown.fixedBase) continue;
      if (slot === 0 && shown.ownBase) this.put("base", value);
      else numbers[slot] = value;
      base ||= slot === 0 && !shown.ownBase;
    }
    if (shown.ownBase) numbers[0] = shown.under;
    if (shown.withoutBase && !base) numbers.shift();
    this.put("weights", numbers.join(", "));
    this.put("preset", CUSTOM);
    this.refresh(true);
    this.node.setDirtyCanvas?.(true, true);
  }

  put(name, value) {
    const widget = this.widget(name);
    if (widget.value === value) return;
    widget.value = value;
    widget.callback?.(value);
  }

  slotAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const slot = Math.floor(((event.clientX - box.left) / box.width) * this.shown.slots.length);
    return Math.max(0, Math.min(this.shown.slots.length - 1, slot));
  }

  valueAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const part = (event.clientY - box.top) / (box.height * (1 - LEGEND / HEIGHT));
    const [low, high] = this.range;
    const value = high - Math.max(0, Math.min(1, part)) * (high - low);
    return String(Number(value.toFixed(2)));
  }

  press(event) {
    this.refresh();
    if (event.button !== 0 || !this.shown?.slots) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { slot: this.slotAt(event) };
    this.move(event);
  }

  // The pointer may cross several bars between two events: they get the values in between.
  move(event) {
    if (!this.shown?.slots) return;
    const slot = this.slotAt(event);
    if (this.drag) {
      const value = this.valueAt(event);
      const before = this.drag.value ?? value;
      const steps = Math.abs(slot - this.drag.slot);
      const values = [];
      for (let step = steps ? 1 : 0; step <= steps; step++) {
        const part = steps ? step / steps : 1;
        const between = Number(before) + part * (Number(value) - Number(before));
        values.push([this.drag.slot + Math.sign(slot - this.drag.slot) * step, String(Number(between.toFixed(2)))]);
      }
      this.drag = { ...this.drag, slot, value };
      this.change(values);
    }
    this.point(slot);
  }

  key(event) {
    const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
    this.refresh();
    if (!this.shown?.slots || ctrlKey || metaKey || altKey) return;
    const across = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const up = { ArrowDown: -1, ArrowUp: 1 }[key];
    if (!across && !up) return;
    event.preventDefault();
    event.stopPropagation();
    const slot = this.at ?? 0;
    if (across) {
      this.point(Math.max(0, Math.min(this.shown.slots.length - 1, this.at === null ? 0 : slot + across)));
      return;
    }
    const value = valueOf(this.shown.numbers[slot]) + up * (shiftKey ? 0.01 : 0.05);
    this.change([[slot, String(Number(value.toFixed(4)))]]);
    this.point(slot);
  }

  point(slot) {
    if (this.drag && slot === null) return;
    this.at = slot;
    this.draw();
  }

  get range() {
    const values = this.shown.numbers.map(valueOf);
    const range = [Math.min(0, ...values), Math.max(1, ...values)];
    if (this.drag) return (this.drag.range ??= range);
    return range;
  }

  words() {
    const { slots, numbers, problem } = this.shown;
    if (problem) return problem;
    return this.at === null ? HINT : `${slots[this.at]}: ${numbers[this.at]}`;
  }

  draw() {
    if (!this.shown) return;
    const { slots, numbers } = this.shown;
    this.text.textContent = this.words();
    this.canvas.title = this.at === null ? "" : this.words();
    this.canvas.style.opacity = slots ? "1" : "0.3";
    const sharp = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth || 300;
    this.canvas.width = width * sharp;
    this.canvas.height = HEIGHT * sharp;
    const pen = this.canvas.getContext("2d");
    pen.scale(sharp, sharp);
    const floor = HEIGHT - LEGEND;
    const [low, high] = slots ? this.range : [0, 1];
    const y = (value) => floor * ((high - value) / (high - low));
    pen.strokeStyle = COLOURS.line;
    for (const value of [0, 0.5, 1]) {
      pen.beginPath();
      pen.moveTo(0, Math.round(y(value)) + (value === 1 ? 0.5 : -0.5));
      pen.lineTo(width, Math.round(y(value)) + (value === 1 ? 0.5 : -0.5));
      pen.stroke();
    }
    if (!slots) return;
    const step = width / slots.length;
    numbers.forEach((number, slot) => {
      const top = Math.min(y(valueOf(number)), y(0));
      const height = Math.max(1, Math.abs(y(valueOf(number)) - y(0)));
      pen.fillStyle = slot === this.at ? COLOURS.hover : slot === 0 ? COLOURS.base : COLOURS.bar;
      pen.fillRect(slot * step + 1, Math.min(top, HEIGHT - LEGEND - 1), Math.max(1, step - 2), height);
    });
    pen.fillStyle = COLOURS.text;
    pen.font = "9px sans-serif";
    pen.textAlign = "left";
    for (const start of ["BASE", "IN00", "M00", "OUT00"]) {
      const label = { BASE: "BASE", IN00: "IN", M00: "M", OUT00: "OUT" }[start];
      const slot = slots.indexOf(start);
      pen.fillText(start === "BASE" && step < 24 ? "B" : label, slot * step + 1, HEIGHT - 2);
    }
    if (this.at !== null) {
      this.canvas.setAttribute("aria-valuenow", String(valueOf(numbers[this.at])));
      this.canvas.setAttribute("aria-valuetext", this.words());
    }
  }
}

function valueOf(number) {
  const [above, below = "1"] = number.split("/");
  return Number(above) / Number(below);
}

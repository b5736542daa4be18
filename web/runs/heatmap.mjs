// Validation loss by epoch and noise level, against the first epoch: where it still falls, and
// where the run overfits.
import { changed, make, setText } from "./dom.mjs";
import { number, percent, validated } from "./words.mjs";

const FALLS = [38, 132, 196];
const RISES = [214, 96, 32];
const SIDE = 18;

export class Heatmap {
  static title = "Noise levels";
  static route = "heatmap";

  constructor(panel) {
    this.panel = panel;
    this.at = [0, 0];
    this.canvas = make("canvas", { tabIndex: 0, role: "img", "aria-label": "Validation loss by noise level and epoch" });
    this.readout = make("div", { class: "readout", role: "status" });
    this.words = make("p", {});
    this.levels = make("div", { class: "levels", "aria-hidden": "true" });
    this.epochs = make("div", { class: "epochs", "aria-hidden": "true" });
    this.scale = make("div", { class: "legend" });
    this.body = make("div", {}, this.words, make("div", { class: "map" }, this.levels, make("div", {}, this.canvas, this.epochs)), this.readout, this.scale);
    this.none = make("p", { class: "quiet", hidden: true });
    this.element = make("div", { class: "heatmap" }, this.body, this.none);
    this.canvas.addEventListener("mousemove", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  async load(run) {
    if (this.seen === validated(run)) return;
    const answer = await this.panel.read(this, run, "heatmap");
    if (!answer) return;
    this.seen = validated(run);
    if (!changed(this.element, [run.name, answer])) return;
    this.answer = answer;
    const empty = !answer.epochs?.length || !answer.levels?.length;
    this.body.hidden = empty;
    setText(this.none, answer.words || "Appears after the second validation.");
    this.none.hidden = !empty;
    if (empty) return;
    setText(this.words, answer.words ?? "");
    this.canvas.setAttribute("aria-label", `Validation loss by noise level and epoch. ${answer.words ?? ""}`);
    this.levels.replaceChildren(...answer.levels.map((level) => make("div", { text: level.label, title: `noise steps ${level.from} to ${level.to - 1}` })));
    const [first, last] = [answer.epochs[0], answer.epochs.at(-1)];
    this.epochs.replaceChildren(make("span", { text: `epoch ${first}` }), make("span", { text: first === last ? "" : String(last) }));
    this.draw();
  }

  draw() {
    const { epochs, levels, relative } = this.answer;
    const most = Math.max(1e-9, ...relative.flat().filter(Number.isFinite).map(Math.abs));
    this.canvas.width = epochs.length;
    this.canvas.height = levels.length;
    this.canvas.style.height = `${levels.length * SIDE}px`;
    const pen = this.canvas.getContext("2d");
    relative.forEach((row, x) =>
      row.forEach((value, y) => {
        if (!Number.isFinite(value)) return;
        const [red, green, blue] = value < 0 ? FALLS : RISES;
        pen.fillStyle = `rgba(${red}, ${green}, ${blue}, ${Math.abs(value) / most})`;
        pen.fillRect(x, y, 1, 1);
      }),
    );
    const entry = (colour, text) => {
      const swatch = make("i", { class: "swatch square" });
      swatch.style.setProperty("--ink", `rgb(${colour.join(", ")})`);
      return make("span", { class: "entry" }, swatch, make("span", { text }));
    };
    const changes = relative.flat().filter(Number.isFinite);
    const entries = changes.some((value) => value < 0) ? [entry(FALLS, `lower than at first, down to ${percent(-most)}`)] : [];
    if (changes.some((value) => value > 0)) entries.push(entry(RISES, `higher, up to ${percent(most)}`));
    this.scale.replaceChildren(...entries);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    this.say(
      Math.floor(((event.clientX - box.left) / box.width) * this.answer.epochs.length),
      Math.floor(((event.clientY - box.top) / box.height) * this.answer.levels.length),
    );
  }

  key(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    this.say(this.at[0] + move[0], this.at[1] + move[1]);
  }

  say(x, y) {
    const { epochs, levels, loss, relative } = this.answer;
    if (!(x >= 0 && x < epochs.length && y >= 0 && y < levels.length)) return;
    this.at = [x, y];
    const { label, from, to } = levels[y];
    setText(this.readout, `epoch ${epochs[x]}, ${label} (noise steps ${from} to ${to - 1}): loss ${number(loss?.[x]?.[y])}, ${percent(relative[x][y])}`);
  }
}

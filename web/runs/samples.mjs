// Pictures drawn on the way: a row for each prompt, a column for each epoch. A click shows one large;
// the arrow keys go on from there.
import { button, changed, make, refill, setText } from "./dom.mjs";
import { count } from "./words.mjs";

export class Samples {
  static title = "Samples";
  static route = "samples";

  constructor(panel) {
    this.panel = panel;
    this.element = make("div", { class: "samples" });
  }

  async load(run) {
    const answer = await this.panel.read(this, run, "samples");
    if (!answer || !changed(this.element, [run.name, answer])) return;
    this.answer = answer;
    this.places = new Map(answer.pictures.map((picture) => [`${picture.prompt},${picture.column}`, picture]));
    if (!answer.pictures.length) {
      this.element.replaceChildren(make("p", { class: "quiet", text: "No samples yet. Give the run prompts by Sample nodes, or press Sample now while it trains." }));
      return;
    }
    const grid = make("div", { class: "strip" });
    grid.style.setProperty("--columns", answer.columns.length);
    for (const column of answer.columns) grid.append(make("div", { class: "head", text: `epoch ${column.epoch}`, title: `step ${column.step}` }));
    answer.prompts.forEach((prompt, row) => {
      grid.append(make("div", { class: "prompt", title: prompt }, make("span", { text: prompt })));
      answer.columns.forEach((column, at) => grid.append(this.cell(row, at)));
    });
    // New pictures are at the right: who looks at earlier ones stays there.
    const before = this.scroll?.isConnected && this.run === run.name ? this.scroll : null;
    const left = before && before.scrollLeft + before.clientWidth < before.scrollWidth - 4 ? before.scrollLeft : null;
    const scroll = make("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "samples by prompt and epoch" }, grid);
    refill(this.element, scroll);
    scroll.scrollLeft = left ?? scroll.scrollWidth;
    [this.scroll, this.run] = [scroll, run.name];
  }

  cell(prompt, column) {
    const picture = this.places.get(`${prompt},${column}`);
    if (!picture) return make("div", { class: "none", text: "–", "aria-label": "no picture" });
    const image = make("img", { loading: "lazy", decoding: "async", alt: this.label(prompt, column), src: this.panel.routes.view(picture) });
    return make("button", { type: "button", class: "picture", "data-key": picture.file, title: this.label(prompt, column), on: { click: () => this.open(prompt, column) } }, image);
  }

  label(prompt, column) {
    const { epoch, step } = this.answer.columns[column];
    return `epoch ${epoch}, step ${step}: ${this.answer.prompts[prompt]}`;
  }

  open(prompt, column) {
    const image = make("img", {});
    const text = make("p", { role: "status" });
    const where = make("span", { class: "quiet" });
    const show = (row, at) => {
      const picture = this.places.get(`${row},${at}`);
      if (!picture) return false;
      [prompt, column] = [row, at];
      image.src = this.panel.routes.view(picture);
      image.alt = this.label(row, at);
      setText(text, this.answer.prompts[row]);
      const { epoch, step } = this.answer.columns[at];
      setText(where, `epoch ${epoch}, step ${step} · prompt ${row + 1} of ${count(this.answer.prompts.length, "prompt")}`);
      return true;
    };
    // The next picture in a direction; places without one are passed over.
    const go = (rows, columns) => {
      let [row, at] = [prompt + rows, column + columns];
      while (row >= 0 && row < this.answer.prompts.length && at >= 0 && at < this.answer.columns.length) {
        if (show(row, at)) return;
        row += rows;
        at += columns;
      }
    };
    const dialog = make(
      "dialog",
      { class: "cocktail-dialog large", "aria-label": "sample" },
      image,
      text,
      make(
        "div",
        { class: "row" },
        button("←", () => go(0, -1), { "aria-label": "earlier epoch" }),
        button("→", () => go(0, 1), { "aria-label": "later epoch" }),
        button("↑", () => go(-1, 0), { "aria-label": "prompt before" }),
        button("↓", () => go(1, 0), { "aria-label": "next prompt" }),
        where,
        make("span", { class: "grow" }),
        button("Close", () => dialog.close()),
      ),
    );
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (!moves[event.key]) return;
      event.preventDefault();
      go(...moves[event.key]);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      // The picture it was opened from may have been drawn anew meanwhile.
      if (this.panel.closed || document.activeElement !== document.body) return;
      const shown = this.places.get(`${prompt},${column}`)?.file;
      [...this.element.querySelectorAll(".picture")].find((one) => one.dataset.key === shown)?.focus();
    });
    show(prompt, column);
    this.panel.root.append(dialog);
    dialog.showModal();
  }
}

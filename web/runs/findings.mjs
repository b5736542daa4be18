// What the figures say, in words.
import { changed, make } from "./dom.mjs";
import { validated } from "./words.mjs";

export class Findings {
  constructor(panel) {
    this.panel = panel;
    this.list = make("ul", {});
    this.element = make("section", { class: "findings", "aria-label": "what the figures say", hidden: true }, this.list);
  }

  async load(run) {
    if (this.seen === validated(run)) return;
    const answer = await this.panel.read(this, run, "words");
    if (answer === undefined) return;
    this.seen = validated(run);
    const lines = answer?.lines ?? [];
    this.element.hidden = !lines.length;
    if (!changed(this.list, [run.name, lines])) return;
    this.list.replaceChildren(...lines.map((line) => make("li", { text: line.text })));
  }
}

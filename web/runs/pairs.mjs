// Pairs whose loss stands out at their noise levels.
import { changed, make } from "./dom.mjs";
import { number, validated } from "./words.mjs";

const SIDE = 128;
const MOST = 20;

export class Pairs {
  static title = "Pairs";
  static route = "pairs";

  constructor(panel) {
    this.panel = panel;
    this.element = make("div", {});
  }

  async load(run) {
    if (this.seen === validated(run)) return;
    const answer = await this.panel.read(this, run, "pairs", { limit: MOST });
    if (!answer) return;
    this.seen = validated(run);
    if (!changed(this.element, [run.name, answer])) return;
    const pairs = answer.pairs ?? [];
    this.element.replaceChildren(
      make("p", { class: "quiet", text: answer.note || (pairs.length ? "" : "Nothing stands out so far.") }),
      make("ul", { class: "pairs" }, ...pairs.map((pair) => this.row(run, pair))),
    );
  }

  row(run, pair) {
    const image = make("img", { loading: "lazy", decoding: "async", alt: pair.caption ?? "", src: this.panel.routes.picture(run.name, pair.id, SIDE) });
    image.addEventListener("error", () => (image.style.visibility = "hidden"));
    const facts = [pair.part, `score ${number(pair.score, 3)}`];
    if (Number.isFinite(pair.trend)) facts.push(`trend ${number(pair.trend, 2)}`);
    return make(
      "li",
      {},
      image,
      make("div", {}, make("div", { class: "caption", text: pair.caption }), make("div", { text: pair.words }), make("div", { class: "quiet", text: facts.join(" · "), title: pair.id })),
    );
  }
}

// The sweeps that a run is part of: how their runs compare with the baseline.
import { button, changed, make, refill } from "./dom.mjs";
import { Refused } from "./routes.mjs";
import { number, percent, validated } from "./words.mjs";

export class Sweep {
  static title = "Sweep";
  static route = "sweep";

  constructor(panel) {
    this.panel = panel;
    this.names = [];
    this.element = make("div", { class: "sweep" });
  }

  // A run that is part of no sweep has no such part; until that is known a person may have chosen it.
  get absent() {
    return this.run === this.panel.shown?.name && !this.names.length;
  }

  async find(run) {
    const answer = await this.panel.read("sweeps", run);
    if (answer) [this.names, this.run] = [answer.sweeps ?? [], run.name];
  }

  async load(run) {
    await this.find(run);
    const { names } = this;
    const seen = JSON.stringify([run.name, names, validated(run)]);
    if (this.run !== run.name || this.seen === seen || !names.length) return;
    const found = await this.panel.newest(this, run, Promise.all(names.map((name) => this.read(name))));
    if (!found) return;
    this.seen = seen;
    const sweeps = found.filter(Boolean);
    if (!changed(this.element, [run.name, sweeps])) return;
    refill(this.element, ...sweeps.flatMap((sweep) => this.table(run, sweep)));
  }

  // A sweep that cannot be read, such as one of whose runs is gone, says why.
  async read(name) {
    try {
      return await this.panel.routes.fetch(`/cocktail/sweeps/${encodeURIComponent(name)}`, "sweep", {});
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return { name, wrong: error.message };
    }
  }

  table(run, { name, table, wrong }) {
    if (wrong) return [make("p", {}, make("b", { text: name })), make("p", { class: "quiet", text: wrong })];
    const head = ["run", "best validation", "against the baseline", "verdict"];
    const row = (one) => {
      const own = one.run === run.name;
      const first = own ? make("b", { text: one.label }) : button(one.label, () => this.panel.does(() => this.panel.open(one.run, true)), { class: "bare", title: one.run, "data-key": `${name} ${one.run}` });
      const difference = Number.isFinite(one.difference)
        ? `${percent(one.share)} ± ${Number.isFinite(one.standard_error) ? number(one.standard_error, 2) : "?"}`
        : "";
      const verdict = one.status === "finished" ? one.verdict : `${one.verdict} (${one.status})`.trim();
      return make("tr", {}, make("th", { scope: "row" }, first), ...[Number.isFinite(one.loss) ? number(one.loss) : "–", difference, verdict].map((text) => make("td", { text })));
    };
    return [
      make("p", {}, make("b", { text: name })),
      make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { text, scope: "col" })))), make("tbody", {}, ...table.rows.map(row))),
      make("p", { class: "quiet", text: table.rule }),
    ];
  }
}

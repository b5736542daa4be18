// The epoch that was chosen on the chart: where its checkpoint is seen in grids. Each link opens the
// viewer with the epoch's column lit.
import { make, refill } from "./dom.mjs";

const MOST_GRIDS = 8;
const MOST_ROWS = 2;

export class Epoch {
  constructor(panel) {
    this.panel = panel;
    this.element = make("div", { class: "epoch row", role: "status" });
  }

  clear() {
    this.asked = null;
    refill(this.element);
  }

  async show(run, checkpoint) {
    const asked = (this.asked = checkpoint);
    const where = `Epoch ${checkpoint.epoch}, step ${checkpoint.step}`;
    const answer = await this.panel.routes.get(run.name, "columns");
    if (!answer || this.asked !== asked || this.panel.closed) return;
    const shown = answer.grids.filter(({ columns }) => Object.hasOwn(columns, checkpoint.name));
    const links = shown.slice(-MOST_GRIDS).map((grid) => this.link(grid, checkpoint.name));
    const words = links.length ? `${where}: its column in` : `${where} is in no grid yet.`;
    refill(this.element, make("span", { text: words }), ...links);
  }

  link({ grid, axis, axes, columns }, name) {
    const others = Array.from({ length: axes }, (_, at) => at).filter((at) => at !== axis);
    const state = { grid, columns: [axis], rows: others.slice(0, MOST_ROWS), base: [[axis, columns[name]]] };
    const href = `${this.panel.routes.api.fileURL("/cocktail/view")}#${encodeURIComponent(JSON.stringify(state))}`;
    return make("a", { href, target: "cocktail-view", text: grid, "data-key": grid });
  }
}

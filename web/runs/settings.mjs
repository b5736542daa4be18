// The settings of a run, and what differs from another run.
import { changed, make } from "./dom.mjs";
import { number, titleOf } from "./words.mjs";

export class Settings {
  static title = "Settings";
  static route = "settings";

  constructor(panel) {
    this.panel = panel;
    this.other = "";
    this.choice = make("select", { "aria-label": "compare with", on: { change: () => this.compare(this.choice.value) } });
    this.filter = make("input", { type: "search", placeholder: "Find a setting", "aria-label": "find a setting", on: { input: () => this.sift() } });
    this.table = make("table", {});
    this.none = make("p", { class: "quiet", hidden: true, text: "No difference." });
    this.element = make("div", { class: "settings" }, make("div", { class: "row" }, this.filter, this.choice), this.table, this.none);
  }

  compare(other) {
    this.other = other;
    this.panel.does(() => this.load(this.run));
  }

  async load(run) {
    if (this.run?.name !== run.name) this.other = "";
    this.run = run;
    const others = this.panel.runs.filter((one) => one.name !== run.name && one.status !== "unreadable");
    if (!others.some((one) => one.name === this.other)) this.other = "";
    if (changed(this.choice, [run.name, this.other, others.map((one) => [one.name, titleOf(one)])])) {
      this.choice.replaceChildren(
        make("option", { value: "", text: "All settings" }),
        ...others.map((one) => make("option", { value: one.name, text: `Differences to ${titleOf(one)}` })),
      );
      this.choice.value = this.other;
    }
    const answer = await this.panel.read(this, run, "settings", { compare: this.other });
    if (!answer || !changed(this.table, [run.name, this.other, answer])) return;
    const head = (...names) => make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { text, scope: "col" }))));
    if (this.other) {
      const rows = (answer.differences ?? []).map(({ name, here, there }) => this.row(name, here, there));
      this.table.replaceChildren(head("setting", "here", "there"), make("tbody", {}, ...rows));
    } else {
      const rows = Object.entries(answer.settings ?? {}).map(([name, value]) => this.row(name, value));
      this.table.replaceChildren(head("setting", "value"), make("tbody", {}, ...rows));
    }
    this.sift();
  }

  row(name, ...values) {
    return make("tr", {}, make("th", { text: name, scope: "row" }), ...values.map((value) => make("td", { text: words(value) })));
  }

  sift() {
    const word = this.filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of this.table.querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(word);
      shown += row.hidden ? 0 : 1;
    }
    this.none.hidden = shown > 0;
    this.none.textContent = word ? "No setting with this word." : "No difference.";
  }
}

function words(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value, 8);
  return typeof value === "string" ? value || "(empty)" : JSON.stringify(value);
}

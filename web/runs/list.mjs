// The list of runs, and the bin.
import { button, changed, make, refill, setText } from "./dom.mjs";
import { ACTIVE, count, date, deviceOf, duration, number, size, titleOf } from "./words.mjs";

const SEARCH_FROM = 8;

export class List {
  constructor(panel) {
    this.panel = panel;
    this.items = new Map();
    this.search = make("input", { type: "search", placeholder: "Find a run", "aria-label": "find a run", hidden: true, on: { input: () => this.show() } });
    this.list = make("ul", { class: "runs" });
    this.none = make("p", { class: "quiet", hidden: true });
    this.binList = make("ul", { class: "bin" });
    this.binText = make("summary", { text: "Bin" });
    this.bin = make("details", { class: "binned", hidden: true, on: { toggle: () => this.bin.open && panel.does(() => this.showBin()) } }, this.binText, this.binList);
    this.element = make("nav", { class: "list", "aria-label": "runs" }, this.search, this.list, this.none, this.bin);
  }

  show() {
    const runs = [...this.panel.runs].sort((a, b) => rank(a) - rank(b) || when(b) - when(a) || a.name.localeCompare(b.name));
    this.search.hidden = runs.length < SEARCH_FROM && !this.search.value;
    const word = this.search.value.trim().toLowerCase();
    const shown = runs.filter((run) => `${titleOf(run)} ${run.name} ${run.status}`.toLowerCase().includes(word));
    for (const name of this.items.keys())
      if (!shown.some((run) => run.name === name)) {
        this.items.get(name).element.remove();
        this.items.delete(name);
      }
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    shown.forEach((run, at) => {
      if (!this.items.has(run.name)) this.items.set(run.name, new Item(this.panel, run));
      const item = this.items.get(run.name);
      item.show(run, run.name === this.panel.shown?.name);
      if (this.list.children[at] !== item.element) this.list.insertBefore(item.element, this.list.children[at] ?? null);
    });
    // What is moved within the page loses the focus.
    if (focused?.isConnected && focused !== document.activeElement) focused.focus();
    this.none.hidden = shown.length > 0;
    setText(this.none, runs.length ? "No run with this word." : "No runs yet. Queue a graph with a Fine-tune node: its run appears here.");
  }

  focus(name) {
    (this.items.get(name)?.press ?? this.list.querySelector("button"))?.focus();
  }

  async showBin() {
    const asked = (this.asked = {});
    const answer = await this.panel.routes.list({ deleted: true });
    if (this.asked !== asked) return;
    const found = (answer?.runs ?? []).filter((run) => run.key);
    this.bin.hidden = !found.length;
    setText(this.binText, `Bin (${found.length})`);
    if (!changed(this.binList, found)) return;
    refill(
      this.binList,
      ...found.map((run) =>
        make(
          "li",
          {},
          make(
            "div",
            { class: "grow" },
            make("div", { class: "name", text: titleOf(run) }),
            make("div", { class: "quiet", text: [date(run.deleted), run.checkpoints ? count(run.checkpoints, "checkpoint") : ""].filter(Boolean).join(" · ") }),
          ),
          button("Restore", () => this.panel.does(() => this.restore(run)), { "aria-label": `restore ${titleOf(run)}` }),
        ),
      ),
    );
  }

  async restore(run) {
    const answer = await this.panel.routes.post(run.name, "restore", { key: run.key });
    this.panel.merge([answer]);
    await this.panel.refresh();
    await this.panel.open(answer.name ?? run.name);
    return `${titleOf(run)} is back.`;
  }
}

class Item {
  constructor(panel, run) {
    this.title = make("span", { class: "name" });
    this.tag = make("span", { class: "tag" });
    this.bar = make("progress", { max: 1, value: 0 });
    this.facts = make("span", { class: "quiet" });
    this.press = make(
      "button",
      { type: "button", class: "run", on: { click: () => panel.does(() => panel.open(run.name, true)) } },
      make("span", { class: "line" }, this.title, this.tag),
      this.bar,
      this.facts,
    );
    this.element = make("li", {}, this.press);
  }

  show(run, current) {
    if (!changed(this.element, [run, current])) return;
    setText(this.title, titleOf(run));
    this.title.title = run.name;
    showTag(this.tag, run);
    this.press.setAttribute("aria-current", String(current));
    const working = ACTIVE.includes(run.status);
    this.bar.hidden = !working || !run.steps;
    this.bar.value = progress(run);
    this.bar.setAttribute("aria-label", `progress of ${titleOf(run)}`);
    setText(this.facts, facts(run, working));
  }
}

export function showTag(tag, run) {
  setText(tag, run.status);
  tag.className = `tag ${run.status}`;
  tag.title = run.message ?? "";
}

export function progress(run) {
  return run.steps ? Math.min(1, run.step / run.steps) : 0;
}

function facts(run, working) {
  if (run.status === "unreadable") return run.message;
  const parts = [];
  if (working && run.steps) parts.push(`${Math.floor(100 * progress(run))} %`);
  if (run.status === "running" && run.eta_s) parts.push(`${duration(run.eta_s)} left`);
  if (working && run.device) parts.push(deviceOf(run));
  if (working && run.memory) parts.push(size(run.memory));
  if (!working && run.epochs) parts.push(`epoch ${Math.min(run.epoch, run.epochs)} of ${run.epochs}`);
  if (run.best && Number.isFinite(run.best.loss)) parts.push(`★ ${number(run.best.loss)}`);
  return parts.join(" · ");
}

function rank(run) {
  return ACTIVE.includes(run.status) ? 0 : run.status === "queued" ? 1 : 2;
}

function when(run) {
  return run.started ?? run.queued_at ?? 0;
}

// The checkpoints of a run: into the graph, into a grid, kept for good, or the start of another run.
import { button, changed, make, refill, setText } from "./dom.mjs";
import { addAxis, addChoice, addLoader, MOST_ON_AXIS } from "./graph.mjs";
import { fork } from "./buttons.mjs";
import { count, number, size } from "./words.mjs";

export class Checkpoints {
  static title = "Checkpoints";
  static route = "";

  constructor(panel) {
    this.panel = panel;
    this.chosen = new Set();
    this.list = make("ul", { class: "checkpoints" });
    this.send = button("Send to a grid", () => this.panel.does(() => this.toGrid()), { class: "primary", title: "adds a Grid Axis: Checkpoints with those that are ticked" });
    this.text = make("span", { class: "quiet", role: "status" });
    this.bar = make("div", { class: "row" }, this.send, this.text);
    this.none = make("p", { class: "quiet", text: "No checkpoint saved yet.", hidden: true });
    this.element = make("div", {}, this.list, this.bar, this.none);
  }

  async load(run) {
    if (this.run?.name !== run.name) this.chosen.clear();
    const answer = await this.panel.read(this, run);
    if (!answer) return;
    this.run = run;
    const found = answer.checkpoints ?? [];
    this.none.hidden = found.length > 0;
    this.bar.hidden = !found.length;
    if (!changed(this.list, [run.name, found, this.panel.routes.has("pin"), this.panel.routes.has("fork")])) return;
    this.found = found;
    refill(this.list, ...[...found].reverse().map((checkpoint) => this.row(checkpoint)));
    this.choose();
  }

  row(checkpoint) {
    const name = checkpoint.name ?? `cocktail/${this.run.name}/${checkpoint.file}`;
    const words = `epoch ${checkpoint.epoch}, step ${checkpoint.step}`;
    const box = make("input", {
      type: "checkbox", checked: this.chosen.has(name), "aria-label": `${words} for a grid`, "data-key": `tick ${name}`,
      on: { change: () => this.choose(name, box.checked) },
    });
    const facts = [`step ${checkpoint.step}`];
    if (Number.isFinite(checkpoint.validation_loss)) facts.push(`validation ${number(checkpoint.validation_loss)}`);
    if (checkpoint.size) facts.push(size(checkpoint.size));
    const pinned = Boolean(checkpoint.pinned);
    const pin = this.panel.routes.has("pin")
      ? button(pinned ? "Unpin" : "Pin", () => this.panel.does(() => this.pin(checkpoint, !pinned)), { title: "A pinned checkpoint is never deleted to save room.", "aria-pressed": String(pinned), "data-key": `pin ${name}` })
      : null;
    const forks = this.panel.routes.has("fork") ? button("Fork…", () => this.panel.does(() => fork(this.panel, this.run, this.found, checkpoint.step)), { title: "a new run that starts from this checkpoint", "data-key": `fork ${name}` }) : null;
    return make(
      "li",
      {},
      box,
      make(
        "div",
        { class: "grow" },
        make("div", { class: "name" }, make("b", { text: `Epoch ${checkpoint.epoch}` }), checkpoint.best ? make("span", { class: "tag best", text: "★ best" }) : null, pinned ? make("span", { class: "tag", text: "pinned" }) : null),
        make("div", { class: "quiet", text: facts.join(" · "), title: checkpoint.file }),
      ),
      make(
        "div",
        { class: "row tight" },
        button("+ Load", () => this.panel.does(() => addLoader(this.panel.app, name)), { title: "adds a Load Checkpoint node to the graph", "aria-label": `add a Load Checkpoint node for ${words}`, "data-key": `load ${name}` }),
        button("+ Choose", () => this.panel.does(() => addChoice(this.panel.app, name)), { title: "adds a Choose Checkpoint node to the graph", "aria-label": `add a Choose Checkpoint node for ${words}`, "data-key": `choose ${name}` }),
        pin,
        forks,
      ),
    );
  }

  choose(name, chosen) {
    if (name) this.chosen[chosen ? "add" : "delete"](name);
    const many = this.chosen.size;
    this.send.disabled = many > MOST_ON_AXIS;
    setText(
      this.text,
      many > MOST_ON_AXIS ? `An axis takes ${MOST_ON_AXIS}; ${many} are ticked.` : many ? `${count(many, "checkpoint")} ticked` : "Tick some, or send the best and the newest.",
    );
  }

  // What is ticked, in order of training; without any the best and then the newest ones.
  toGrid() {
    const named = this.found.map((checkpoint) => [checkpoint, checkpoint.name ?? `cocktail/${this.run.name}/${checkpoint.file}`]);
    let sent = named.filter(([, name]) => this.chosen.has(name));
    if (!sent.length) {
      const newest = named.slice(-MOST_ON_AXIS);
      const best = named.find(([checkpoint]) => checkpoint.best);
      sent = !best || newest.includes(best) ? newest : [best, ...newest.slice(1)];
    }
    return addAxis(
      this.panel.app,
      sent.map(([, name]) => name),
      sent.map(([{ epoch, best }]) => `epoch ${epoch}${best ? " (best)" : ""}`),
    );
  }

  async pin({ step }, pinned) {
    await this.panel.act(this.run, "pin", { step, pinned });
    await this.load(this.run);
  }
}

// The end of what a run has printed.
import { make } from "./dom.mjs";

const LINES = 200;

export class Log {
  static title = "Log";
  static route = "log";

  constructor(panel) {
    this.panel = panel;
    this.text = make("pre", { class: "log", tabIndex: 0, "aria-label": "log" });
    this.element = make("div", {}, this.text);
  }

  async load(run) {
    const answer = await this.panel.read(this, run, "log", { lines: LINES });
    if (!answer) return;
    const text = answer.text || "Nothing printed yet.";
    if (this.text.textContent === text) return;
    const atEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 30;
    this.text.textContent = text;
    if (atEnd || this.run !== run.name) this.text.scrollTop = this.text.scrollHeight;
    this.run = run.name;
  }
}

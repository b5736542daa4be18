// The head of a run: how it stands, and what can be done with it.
import { showButtons } from "./buttons.mjs";
import { button, changed, make, setText } from "./dom.mjs";
import { progress, showTag } from "./list.mjs";
import { ACTIVE, deviceOf, duration, number, percent, size, titleOf } from "./words.mjs";

const LATE_S = 60;

export class Head {
  constructor(panel) {
    this.panel = panel;
    this.back = button("‹ Runs", () => panel.toList(), { class: "bare back" });
    this.title = make("h2", {});
    this.tag = make("span", { class: "tag" });
    this.message = make("p", { class: "quiet" });
    this.advice = make("p", {});
    this.log = make("pre", { class: "log", role: "region", tabIndex: 0, "aria-label": "last lines of the log" });
    this.logs = make("details", {}, make("summary", { text: "Last lines of its log" }), this.log);
    this.bar = make("progress", { max: 1, value: 0 });
    this.facts = make("dl", { class: "facts" });
    this.trend = make("p", { class: "warning", hidden: true });
    this.buttons = make("div", { class: "row buttons" });
    this.element = make(
      "header",
      { class: "head" },
      make("div", { class: "row" }, this.back, this.title, this.tag),
      this.message,
      this.advice,
      this.logs,
      this.bar,
      this.facts,
      this.trend,
      this.buttons,
    );
  }

  show(run) {
    setText(this.title, titleOf(run));
    this.title.title = run.name;
    showTag(this.tag, run);
    setText(this.message, run.message ?? "");
    this.message.hidden = !run.message;
    this.message.classList.toggle("error", ["failed", "unreadable"].includes(run.status));
    setText(this.advice, run.advice ?? "");
    this.advice.hidden = !run.advice;
    setText(this.log, run.log ?? "");
    this.logs.hidden = !run.log;
    const working = ACTIVE.includes(run.status);
    this.bar.hidden = !run.steps || run.status === "finished";
    this.bar.value = progress(run);
    this.bar.setAttribute("aria-label", "progress");
    setText(this.trend, run.trend ?? "");
    this.trend.hidden = !run.trend;
    const facts = factsOf(run, working);
    if (changed(this.facts, facts))
      this.facts.replaceChildren(...facts.map(([name, value, title]) => make("div", { title }, make("dt", { text: name }), make("dd", { text: value }))));
    showButtons(this.buttons, this.panel, run);
  }
}

function factsOf(run, working) {
  const facts = [];
  if (run.steps) facts.push(["step", `${run.step} of ${run.steps}`]);
  if (run.epochs) facts.push(["epoch", `${Math.min(run.epochs, working && run.status !== "paused" ? run.epoch + 1 : run.epoch)} of ${run.epochs}`]);
  if (run.status === "running" && run.eta_s !== null && run.eta_s !== undefined) facts.push(["left", duration(run.eta_s)]);
  if (run.status === "running" && run.steps_per_second) facts.push(["speed", speed(run.steps_per_second)]);
  if (run.smoothed_loss) facts.push(["training loss", number(run.smoothed_loss)]);
  if (run.best && Number.isFinite(run.best.loss)) {
    const change = run.first_validation ? ` (${percent(run.best.loss / run.first_validation - 1)})` : "";
    facts.push(["best validation", `${number(run.best.loss)}${change}`, `epoch ${run.best.epoch}, step ${run.best.step}`]);
  }
  if (run.device) facts.push(["device", deviceOf(run), run.device]);
  if (run.memory) facts.push(["memory", size(run.memory)]);
  if (run.skipped) facts.push(["pairs skipped", String(run.skipped), "see skipped.jsonl in the run's folder"]);
  if (working && run.heartbeat_age_s > LATE_S) facts.push(["silent for", `${duration(run.heartbeat_age_s)}: ${run.message || `in step ${run.step + 1}`}`, "since it last wrote how it stands"]);
  return facts;
}

function speed(perSecond) {
  return perSecond >= 1 ? `${number(perSecond, 3)} steps/s` : `${number(1 / perSecond, 3)} s/step`;
}

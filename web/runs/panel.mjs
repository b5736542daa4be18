// The panel of runs in ComfyUI's sidebar: a list, and one run with its chart and what else there is.
// It asks the server only while it is seen, and ends all it has started when the tab closes.
import { Chart } from "./chart.mjs";
import { Checkpoints } from "./checkpoints.mjs";
import { button, make, newId, setText } from "./dom.mjs";
import { Findings } from "./findings.mjs";
import { Head } from "./head.mjs";
import { Heatmap } from "./heatmap.mjs";
import { List } from "./list.mjs";
import { Log } from "./log.mjs";
import { Pairs } from "./pairs.mjs";
import { Refused, Routes } from "./routes.mjs";
import { Samples } from "./samples.mjs";
import { Settings } from "./settings.mjs";
import { Sharing } from "./sharing.mjs";
import { Sweep } from "./sweep.mjs";
import { ACTIVE } from "./words.mjs";

const SECTIONS = [Samples, Heatmap, Checkpoints, Settings, Pairs, Sweep, Sharing, Log];
const TICK_MS = 1000;
const ACTIVE_MS = 2000;
const IDLE_MS = 10_000;
const WHOLE_MS = 15_000;
const SECTION_MS = 5000;
// A run's process may print for 20 s after the run has ended, while it sends notices (trainer/notices.py).
const LAST_WORDS_MS = 25_000;

export class Panel {
  constructor(element, app, api, listeners, notices) {
    this.app = app;
    this.routes = new Routes(api);
    this.listeners = listeners;
    this.notices = notices;
    this.closed = false;
    this.runs = [];
    this.shown = null;
    this.times = { list: 0, event: 0, section: 0, change: 0 };
    this.news = new Map();
    this.asked = new Map();
    this.build();
    this.parent = element;
    element.replaceChildren(this.root);
    this.hear = ({ runs, gone }) => {
      this.times.event = Date.now();
      for (const name of gone ?? []) this.leave(name);
      this.merge(runs ?? []);
    };
    listeners.add(this.hear);
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.seen = () => this.tick();
    document.addEventListener("visibilitychange", this.seen);
    this.does(() => this.refresh());
  }

  build() {
    this.list = new List(this);
    this.head = new Head(this);
    this.chart = new Chart(this);
    this.findings = new Findings(this);
    this.sections = SECTIONS.map((Section) => new Section(this));
    this.section = this.sections[0];
    this.sweep = this.sections.find((section) => section instanceof Sweep);
    this.tabs = this.sections.map((section, at) => this.tab(section, at));
    this.alert = make("div", { class: "message", role: "alert", hidden: true }, (this.alertText = make("span", {})), button("×", () => this.say(""), { class: "bare", "aria-label": "close" }));
    this.tabList = make("div", { class: "tabs", role: "tablist", "aria-label": "more about this run" }, ...this.tabs.map(({ tab }) => tab));
    this.run = make("div", { class: "one", hidden: true }, this.head.element, this.chart.element, this.findings.element, this.tabList, ...this.tabs.map(({ body }) => body));
    this.nothing = make("p", { class: "quiet nothing", text: "Choose a run." });
    const style = make("link", { rel: "stylesheet", href: new URL("panel.css", import.meta.url).href });
    const plot = make("link", { rel: "stylesheet", href: new URL("../vendor/uPlot.css", import.meta.url).href });
    this.root = make(
      "div",
      { class: "cocktail-runs", "data-view": "list", on: { keydown: (event) => this.key(event) } },
      plot,
      style,
      this.alert,
      make("div", { class: "columns" }, this.list.element, make("div", { class: "detail" }, this.nothing, this.run)),
    );
  }

  tab(section, at) {
    const { title } = section.constructor;
    const [id, bodyId] = [newId("tab"), newId("part")];
    const tab = make("button", {
      type: "button", role: "tab", id, text: title, "aria-controls": bodyId, "aria-selected": String(at === 0), tabIndex: at ? -1 : 0,
      on: { click: () => this.choose(section), keydown: (event) => this.tabKey(event) },
    });
    const body = make("section", { role: "tabpanel", id: bodyId, class: "part", "aria-labelledby": id, hidden: at > 0 }, section.element);
    return { section, tab, body };
  }

  tabKey(event) {
    const shown = this.tabs.filter(({ tab }) => !tab.hidden);
    const at = shown.findIndex(({ section }) => section === this.section);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const next = shown[(to + shown.length) % shown.length];
    this.choose(next.section);
    next.tab.focus();
  }

  // Keys that the panel has used itself are not shortcuts of the page too.
  key(event) {
    const typed = event.target.matches("input, select, textarea");
    const keepsEscape = typed && !event.target.matches("input[type=checkbox], input[type=range]");
    if (event.key === "Escape" && this.root.dataset.view === "run" && !keepsEscape) {
      this.toList();
      event.stopPropagation();
    } else if (typed || [" ", "Enter"].includes(event.key)) event.stopPropagation();
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    cancelAnimationFrame(this.frame);
    document.removeEventListener("visibilitychange", this.seen);
    this.listeners.delete(this.hear);
    this.routes.close();
    this.chart.close();
    for (const dialog of this.root.querySelectorAll("dialog")) dialog.close();
    this.root.remove();
  }

  isSeen() {
    return document.visibilityState === "visible" && this.root.isConnected;
  }

  tick() {
    if (!this.isSeen() || this.busy) return;
    const now = Date.now();
    const active = this.runs.some((run) => ACTIVE.includes(run.status) || run.status === "queued");
    const told = now - this.times.event < ACTIVE_MS;
    const due = told ? WHOLE_MS : active ? ACTIVE_MS : IDLE_MS;
    if (now - this.times.list >= due) this.quietly(() => this.refresh());
    else this.quietly(() => this.follow());
  }

  // Reads the list of all runs.
  async refresh() {
    this.times.list = Date.now();
    const news = (this.news = new Map());
    const answer = await this.routes.list();
    if (!answer) throw new Refused("The server does not know runs. Is Cocktail installed there?");
    // The list has been asked for again since.
    if (this.news !== news) return;
    this.runs = answer.runs.filter((run) => news.get(run.name) !== null);
    for (const run of news.values()) if (run) this.take(run);
    this.notices.hear(this.runs);
    this.list.show();
    if (!this.binned || this.list.bin.open) await this.readBin();
    // Only now: meanwhile a person may have opened a run.
    if (!this.shown) await this.open(this.notices.take() ?? kept());
    else if (this.runs.some((one) => one.name === this.shown.name)) await this.follow();
    else this.leave(this.shown.name);
  }

  // A run that is deleted while the bin is read is asked about again.
  async readBin() {
    this.binned = true;
    try {
      await this.list.showBin();
    } catch (error) {
      this.binned = false;
      throw error;
    }
  }

  // Takes summaries of runs that have changed.
  merge(runs) {
    for (const run of runs) {
      if (typeof run?.name !== "string") continue;
      // A list that was asked for before does not know it yet.
      this.news.set(run.name, { ...this.news.get(run.name), ...run });
      this.take(run);
    }
    if (this.frame || this.closed) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.list.show();
      this.quietly(() => this.follow());
    });
  }

  take(run) {
    const at = this.runs.findIndex((one) => one.name === run.name);
    if (at < 0) this.runs.push(run);
    else this.runs[at] = { ...this.runs[at], ...run };
  }

  // Reads something about a run for a part of the panel; undefined when the part has asked again since
  // or another run is shown.
  read(part, run, what = "", query = {}) {
    return this.newest(part, run, this.routes.get(run.name, what, query));
  }

  // The same for whatever a part has asked for.
  async newest(part, run, asked) {
    this.asked.set(part, asked);
    const answer = await asked;
    return this.asked.get(part) === asked && this.shown?.name === run.name ? answer : undefined;
  }

  current(run) {
    return this.runs.find((one) => one.name === run.name) ?? run;
  }

  // Brings what is shown of the run up to date.
  async follow() {
    const run = this.shown && this.runs.find((one) => one.name === this.shown.name);
    if (!run || !this.isSeen()) return;
    const before = this.shown;
    this.shown = run;
    this.head.show(run);
    const state = JSON.stringify(run);
    if (this.following) return;
    if (state === this.state && !this.chart.curves.get(run.name)?.stale) return this.hearOut(run);
    this.following = true;
    try {
      await this.chart.show(run);
      // Another run may have been opened meanwhile.
      if (this.shown?.name !== run.name) return;
      const now = Date.now();
      if (now - this.times.section < SECTION_MS && before.status === run.status) return;
      this.times.section = this.times.change = now;
      this.state = state;
      await Promise.all([this.findings.load(run), this.section.load(run)]);
      this.hideMissing();
    } finally {
      this.following = false;
    }
  }

  // Reads the log of a run that stands still, until a reading is late enough to have its last words.
  async hearOut(run) {
    const now = Date.now();
    if (!(this.section instanceof Log) || this.times.section - this.times.change > LAST_WORDS_MS || now - this.times.section < SECTION_MS) return;
    this.times.section = now;
    await this.section.load(run);
  }

  async open(name, focus = false) {
    const run = this.runs.find((one) => one.name === name);
    if (!run) return;
    this.shown = run;
    this.state = null;
    keep(name);
    this.root.dataset.view = "run";
    this.run.hidden = false;
    this.nothing.hidden = true;
    this.head.show(run);
    this.list.show();
    if (focus && this.head.back.offsetParent) this.head.back.focus();
    const readable = run.status !== "unreadable";
    for (const element of [this.chart.element, this.tabList, ...this.tabs.map(({ body }) => body)]) element.classList.toggle("away", !readable);
    if (!readable) return;
    this.times.section = this.times.change = Date.now();
    await Promise.all([this.chartThenWords(run), this.sweep.find(run), this.section.load(run)]);
    this.state = JSON.stringify(run);
    this.hideMissing();
  }

  // The words read the same long file as the chart: together they would keep it waiting.
  async chartThenWords(run) {
    await this.chart.show(run);
    if (this.shown?.name === run.name) await this.findings.load(run);
  }

  choose(section) {
    this.section = section;
    for (const one of this.tabs) {
      const chosen = one.section === section;
      one.tab.setAttribute("aria-selected", String(chosen));
      one.tab.tabIndex = chosen ? 0 : -1;
      one.body.hidden = !chosen;
    }
    if (this.shown)
      this.does(async () => {
        await section.load(this.shown);
        this.hideMissing();
      });
  }

  // Parts whose route this server does not have, and those that this run has not.
  hideMissing() {
    for (const { section, tab } of this.tabs) tab.hidden = !this.routes.has(section.constructor.route) || Boolean(section.absent);
    this.chart.element.hidden = !this.routes.has("curve");
    if (!this.tabs.find(({ section }) => section === this.section).tab.hidden) return;
    const next = this.tabs.find(({ tab }) => !tab.hidden);
    if (next) this.choose(next.section);
  }

  // What was said about the run does not stay above the list.
  toList() {
    if (!this.lost) this.say("");
    this.root.dataset.view = "list";
    this.list.focus(this.shown?.name);
  }

  // The run is gone.
  leave(name) {
    this.news.set(name, null);
    const was = this.shown?.name === name;
    if (!was && !this.runs.some((run) => run.name === name)) return;
    this.runs = this.runs.filter((run) => run.name !== name);
    const focused = was && this.run.contains(document.activeElement);
    if (was) {
      this.shown = null;
      this.run.hidden = true;
      this.nothing.hidden = false;
      this.root.dataset.view = "list";
    }
    this.list.show();
    if (focused) this.list.focus();
    this.binned = false;
    this.times.list = 0;
  }

  // POST; says how it went, and takes over the answer.
  async act(run, what, value = {}, text = "") {
    const answer = await this.routes.post(run.name, what, value);
    this.merge([answer]);
    if (text) this.say(text);
    return text;
  }

  // Does something that a person has asked for, and says how it went.
  async does(task) {
    this.say("");
    try {
      const text = await task();
      if (typeof text === "string" && text) this.say(text);
    } catch (error) {
      if (!this.closed) this.say(error.message, true);
      if (!this.closed && !(error instanceof Refused)) console.warn("Cocktail:", error);
    }
    if (this.shown) this.head.show(this.current(this.shown));
  }

  // The same without being asked: a server that does not answer is said once.
  async quietly(task) {
    if (this.busy) return;
    this.busy = true;
    try {
      await task();
      if (this.lost) this.say("");
      this.lost = false;
    } catch (error) {
      if (this.closed) return;
      if (!this.lost) this.say(error.message, true);
      this.lost = true;
    } finally {
      this.busy = false;
    }
  }

  say(text, wrong = false) {
    setText(this.alertText, text);
    this.alert.hidden = !text;
    this.alert.classList.toggle("error", wrong);
  }
}

const KEPT = "cocktail.runs.shown";

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function keep(name) {
  try {
    localStorage.setItem(KEPT, name);
  } catch {
    // Without storage the next visit begins with the list.
  }
}

// What is told of runs outside of the panel: a number on its icon while runs work, and a word when
// one has ended.
import { BUSY, atWork, titleOf } from "./words.mjs";

const LIFE_MS = 12_000;
const ENDS = {
  finished: ["success", "has finished"],
  failed: ["error", "has failed"],
  interrupted: ["warning", "was interrupted"],
};
const SEVERITY = { success: "success", error: "error", warning: "warn" };

export class Notices {
  constructor(app, tabId) {
    this.app = app;
    this.tabId = tabId;
    this.states = new Map();
    this.panel = null;
    this.wanted = null;
  }

  // Summaries of runs, all or those that have changed, and the names of those that are gone.
  hear(runs, gone = []) {
    for (const name of gone) this.states.delete(name);
    for (const run of runs ?? []) {
      const before = this.states.get(run.name);
      this.states.set(run.name, run);
      // A short run may go from the queue to its end between two looks.
      const goes = before && (before.status === "queued" || atWork(before));
      if (goes && ENDS[run.status]) this.tell(run);
    }
    this.badge([...this.states.values()].filter(({ status }) => BUSY.includes(status)).length);
  }

  badge(many) {
    const manager = this.app.extensionManager;
    const tabs = manager?.sidebarTab?.sidebarTabs ?? manager?.getSidebarTabs?.() ?? [];
    const tab = tabs.find((one) => one.id === this.tabId);
    const text = many ? String(many) : "";
    if (tab && tab.iconBadge !== text) tab.iconBadge = text;
  }

  tell(run) {
    const toast = this.app.extensionManager?.toast;
    if (!toast) return;
    const [kind, words] = ENDS[run.status];
    const summary = `${titleOf(run)} ${words}`;
    const detail = run.message || "";
    if (typeof toast.dismiss === "function" && typeof toast[kind] === "function") {
      toast[kind](summary, { description: detail, duration: LIFE_MS, action: { label: "Show the run", onClick: () => this.show(run.name) } });
    } else toast.add?.({ severity: SEVERITY[kind], summary, detail: `${detail}\nIt is in the sidebar, under Runs.`.trim(), life: LIFE_MS });
  }

  // Opens the panel at a run.
  show(name) {
    if (this.panel) {
      this.panel.does(() => this.panel.open(name, true));
      return;
    }
    this.wanted = name;
    this.app.extensionManager?.command?.execute?.(`Workspace.ToggleSidebarTab.${this.tabId}`);
  }

  take() {
    const { wanted } = this;
    this.wanted = null;
    return wanted;
  }
}

// The one file of the pack that ComfyUI's page loads by itself. Everything else is loaded when a node
// or the panel needs it.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { readFineNumbers } from "./numbers.mjs";

const MAPPED = new Set(["CocktailRenderGrid", "CocktailQueueGrid"]);
const VOTED = new Set(["CocktailVote", "CocktailRanking", "CocktailPickWinner", "CocktailScoreVotes"]);
const BARRED = "CocktailBlockWeights";
const GRID_EVENT = "cocktail.grid";
const RUNS_EVENT = "cocktail.runs";
const RUNS_TAB = "cocktail-runs";

// Registered at once: the page complains of events that nobody listens to.
const listeners = new Set();
api.addEventListener(GRID_EVENT, (event) => listeners.forEach((listen) => listen(event.detail)));

const followers = new Set();
let told = null;
const notices = () => (told ??= import("./runs/notices.mjs").then(({ Notices }) => new Notices(app, RUNS_TAB)));
api.addEventListener(RUNS_EVENT, ({ detail }) => {
  notices()
    .then((notices) => notices.hear(detail.runs, detail.gone))
    .catch((error) => console.warn("Cocktail: no notices of runs:", error));
  followers.forEach((follow) => follow(detail));
});

// The page may ask to draw the tab again into the element it is in, and may close it while it loads.
let place = null;
let panel = null;
const runsTab = {
  id: RUNS_TAB,
  title: "Runs",
  icon: "pi pi-chart-line",
  tooltip: "Runs: fine-tunes of Cocktail",
  type: "custom",
  async render(element) {
    if (place === element) return;
    runsTab.destroy();
    place = element;
    try {
      const [{ Panel }, known] = await Promise.all([import("./runs/panel.mjs"), notices()]);
      if (place !== element) return;
      panel = known.panel = new Panel(element, app, api, followers, known);
    } catch (error) {
      console.warn("Cocktail: no panel of runs:", error);
      element.textContent = "The panel of runs could not be loaded. Reload the page.";
    }
  },
  destroy() {
    panel?.close();
    if (panel) panel.notices.panel = null;
    place = panel = null;
  },
};

// The viewer of grids asks for the graph of a cell. It comes after the graph that the page opens by
// itself, as another workflow.
const CELL = "cocktail_cell";
let asked = new URLSearchParams(location.search).get(CELL);
async function openCell() {
  const cell = asked;
  asked = null;
  const address = new URL(location.href);
  address.searchParams.delete(CELL);
  history.replaceState(history.state, "", address);
  try {
    await (await import("./view/opening.mjs")).openCell(app, api, cell);
  } catch (error) {
    console.warn("Cocktail: the cell could not be opened:", error);
    app.extensionManager?.toast?.add({ severity: "error", summary: "Cocktail", detail: error.message });
  }
}

app.registerExtension({
  name: "cocktail",
  afterConfigureGraph() {
    if (asked) setTimeout(openCell);
  },
  setup() {
    const manager = app.extensionManager;
    if (manager?.sidebarTab?.registerSidebarTab) manager.sidebarTab.registerSidebarTab(runsTab);
    else manager?.registerSidebarTab?.(runsTab);
  },
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("Cocktail")) readFineNumbers(node);
    if (MAPPED.has(node.comfyClass))
      import("./grid/minimap.mjs")
        .then(({ attach }) => attach(node, api, listeners))
        .catch((error) => console.warn("Cocktail: no map on this node:", error));
    if (VOTED.has(node.comfyClass))
      import("./grid/votelink.mjs")
        .then(({ attach }) => attach(node, api, listeners))
        .catch((error) => console.warn("Cocktail: no link to the vote on this node:", error));
    if (node.comfyClass === BARRED)
      import("./merge/blockbars.mjs")
        .then(({ attach }) => attach(node, api))
        .catch((error) => console.warn("Cocktail: no bars on this node:", error));
  },
});

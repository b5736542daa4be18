// The one file of the pack that ComfyUI's page loads by itself. Everything else is loaded when a node needs it.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const MAPPED = new Set(["CocktailRenderGrid", "CocktailQueueGrid"]);
const BARRED = "CocktailBlockWeights";
const GRID_EVENT = "cocktail.grid";

// Registered at once: the page complains of events that nobody listens to.
const listeners = new Set();
api.addEventListener(GRID_EVENT, (event) => listeners.forEach((listen) => listen(event.detail)));

app.registerExtension({
  name: "cocktail",
  nodeCreated(node) {
    if (MAPPED.has(node.comfyClass))
      import("./grid/minimap.mjs")
        .then(({ attach }) => attach(node, api, listeners))
        .catch((error) => console.warn("Cocktail: no map on this node:", error));
    if (node.comfyClass === BARRED)
      import("./merge/blockbars.mjs")
        .then(({ attach }) => attach(node, api))
        .catch((error) => console.warn("Cocktail: no bars on this node:", error));
  },
});

// Nodes that the panel puts into the graph.

export const MOST_ON_AXIS = 8;

export async function addLoader(app, name) {
  await add(app, "CheckpointLoaderSimple", { ckpt_name: name });
  return "Added Load Checkpoint to the graph.";
}

export async function addChoice(app, name) {
  await add(app, "CocktailChooseCheckpoint", { checkpoint: name });
  return "Added Choose Checkpoint to the graph.";
}

export async function addAxis(app, names, labels) {
  const values = Object.fromEntries(names.slice(0, MOST_ON_AXIS).map((name, at) => [`checkpoint_${at + 1}`, name]));
  await add(app, "CocktailAxisCheckpoints", { ...values, labels: labels.join("\n") });
  return "Added Grid Axis: Checkpoints to the graph.";
}

async function add(app, type, values) {
  // Without this the lists of checkpoints do not hold what a run has saved since the page was loaded.
  await app.extensionManager?.command?.execute?.("Comfy.RefreshNodeDefinitions");
  const node = globalThis.LiteGraph.createNode(type);
  if (!node) throw new Error(`ComfyUI has no node ${type}.`);
  const { graph, ds, canvas } = app.canvas;
  const dot = globalThis.devicePixelRatio || 1;
  const middle = [canvas.width / dot / 2 / ds.scale - ds.offset[0], canvas.height / dot / 2 / ds.scale - ds.offset[1]];
  node.pos = [middle[0] - node.size[0] / 2, middle[1] - node.size[1] / 2];
  app.canvas.emitBeforeChange?.();
  (graph ?? app.graph).add(node);
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find((one) => one.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
  app.canvas.emitAfterChange?.();
  app.canvas.selectNode?.(node);
  app.canvas.setDirty?.(true, true);
  return node;
}

// Opens the graph of a cell in ComfyUI's page, as if its picture were dropped there.

const CELL = /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})\/([0-9a-f]{64})$/;

// `asked` is NAME/KEY: a grid and the key of one of its cells.
export async function openCell(app, api, asked) {
  const found = CELL.exec(asked);
  if (!found) return;
  const [, name, key] = found;
  const answer = await api.fetchApi(`/cocktail/grids/${name}/cells/${key}`);
  const cell = await answer.json();
  if (!answer.ok) throw new Error(cell.error);
  const title = `${name} ${key.slice(0, 8)}`;
  if (cell.workflow) await app.loadGraphData(cell.workflow, true, true, title);
  else await app.loadApiJson(cell.prompt, title);
}

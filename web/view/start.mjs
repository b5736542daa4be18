// The page on ComfyUI's server: a grid, its vote, or the list of all grids.
import { make } from "../runs/dom.mjs";
import { address, asked } from "./address.mjs";
import { againOf } from "./again.mjs";
import { Exporting } from "./exporting.mjs";
import { Page } from "./page.mjs";
import { COMFYUI, Server } from "./server.mjs";
import { Vote } from "./vote.mjs";

const TOOLS = {
  ofPage: (page) => [make("a", { class: "button", href: address({ grid: page.grid.name, vote: true }), text: "Vote" }), new Exporting(page.server).element],
  link: (page, key) => `${COMFYUI}?${new URLSearchParams({ cocktail_cell: `${page.grid.name}/${key}` })}`,
  ofCell: againOf,
};

async function chooseGrid() {
  const { grids } = await new Server("").grids();
  const links = grids.map(({ name, finished, cells, unreadable }) => make("li", {}, make("a", { href: address({ grid: name }), text: name }), make("span", { class: "quiet", text: ` ${unreadable ?? `${finished} of ${cells} cells`}` })));
  document.body.replaceChildren(make("main", { class: "grids" }, make("h1", { text: "Grids" }), links.length ? make("ul", {}, ...links) : make("p", { text: "There are no grids yet. Render one with Grid Plan and Render Grid." })));
}

async function begin() {
  let state;
  try {
    state = asked();
  } catch {
    state = {};
  }
  try {
    if (typeof state.grid !== "string" || !state.grid) await chooseGrid();
    else if (state.vote) await new Vote(state).start();
    else await new Page(new Server(state.grid), state, TOOLS).start();
  } catch (error) {
    console.warn("Cocktail:", error);
    document.body.replaceChildren(make("main", { class: "grids" }, make("h1", { text: "Grids" }), make("p", { role: "alert", text: error.message }), make("p", {}, make("a", { href: "#", text: "All grids" }))));
  }
}

addEventListener("hashchange", () => location.reload());
begin();

// The page in a folder that a grid was exported to.
import { make } from "../runs/dom.mjs";
import { asked } from "./address.mjs";
import { Folder } from "./folder.mjs";
import { Page } from "./page.mjs";

async function begin() {
  let state;
  try {
    state = asked();
  } catch {
    state = {};
  }
  try {
    if (!globalThis.cocktail) throw new Error("The file data.js is missing beside this page.");
    await new Page(new Folder(globalThis.cocktail), state).start();
  } catch (error) {
    document.body.replaceChildren(make("main", { class: "grids" }, make("h1", { text: "Grid" }), make("p", { role: "alert", text: error.message })));
  }
}

addEventListener("hashchange", () => location.reload());
begin();

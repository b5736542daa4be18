// A grid that was exported to a folder: the page is opened from it, and there is no server.
import { parse } from "./exact.mjs";

const SMALL = 256;

export class Folder {
  // `exported` is what data.js has set: the grid, and the cells that were loaded.
  constructor(exported) {
    this.exported = exported;
    this.grid = exported.grid.name;
    this.webp = new Set(exported.grid.webp);
    this.changes = false;
    this.loading = new Map();
  }

  async states() {
    return this.exported.grid;
  }

  async pixels() {
    return { pixels: this.exported.grid.pixels, waiting: 0 };
  }

  // The settings of a cell and its API prompt.
  async cell(key) {
    const { keys, in_file } = this.exported.grid;
    const number = Math.floor(keys.indexOf(key) / in_file);
    await this.load(`cells/${number}.js`);
    const found = this.exported.cells[number]?.[key];
    if (!found) throw new Error("The settings of this cell are not in this folder: the grid was planned anew while it was exported.");
    return { settings: parse(found.settings), prompt: parse(found.prompt) };
  }

  // A script is the one kind of file with data that a page from file:// may read.
  load(file) {
    if (!this.loading.has(file))
      this.loading.set(
        file,
        new Promise((loaded, failed) => {
          const script = document.createElement("script");
          script.addEventListener("load", loaded);
          script.addEventListener("error", () => {
            this.loading.delete(file);
            failed(new Error(`The file ${file} is missing beside this page.`));
          });
          script.src = file;
          document.head.append(script);
        }),
      );
    return this.loading.get(file);
  }

  picture(key, side = Infinity) {
    const place = `${key.slice(0, 2)}/${key}`;
    if (side <= SMALL) return `small/${place}.webp`;
    return `pictures/${place}.${this.webp.has(key) ? "webp" : "png"}`;
  }
}

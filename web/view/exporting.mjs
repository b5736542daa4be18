// The button that writes the grid as a folder which any browser opens, and how far that is.
import { button, make, setText } from "../runs/dom.mjs";

const LOOK_MS = 500;

export class Exporting {
  constructor(server) {
    this.server = server;
    this.button = button("Export", () => this.press(), { title: "Write the grid as a folder that any browser opens, without ComfyUI" });
    this.words = make("span", { class: "quiet", role: "status" });
    this.element = make("span", { class: "row" }, this.button, this.words);
  }

  async press() {
    try {
      const running = this.state === "running";
      this.show(await this.server.post(running ? "/export/stop" : "/export", {}));
      if (!running) this.follow();
    } catch (error) {
      setText(this.words, error.message);
    }
  }

  async follow() {
    do {
      await new Promise((passed) => setTimeout(passed, LOOK_MS));
      try {
        this.show(await this.server.get("/export"));
      } catch (error) {
        this.state = "";
        setText(this.button, "Export");
        setText(this.words, error.message);
      }
    } while (this.state === "running");
  }

  show({ state, done, total, folder, message }) {
    this.state = state;
    setText(this.button, state === "running" ? "Stop the export" : "Export");
    const words = { running: total ? `${done} of ${total} pictures` : "", finished: `The folder is output/${folder}; open its index.html.`, stopped: "Stopped; nothing was written.", failed: message };
    setText(this.words, words[state] ?? "");
  }
}

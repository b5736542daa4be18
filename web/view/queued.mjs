// A prompt in ComfyUI's queue: sent, followed, cancelled.
import { parse } from "./exact.mjs";
import { COMFYUI } from "./server.mjs";

const LOOK_MS = 700;

export class Queued {
  // `tell` is called with how it stands, in words; `ended` when it is over. `picture` is the address of
  // its picture then, if it has one.
  constructor(server, prompt) {
    this.server = server;
    this.prompt = prompt;
    this.client = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.tell = this.ended = () => {};
    this.picture = null;
  }

  // Raises an error in words when ComfyUI refuses it.
  async send() {
    let answer;
    try {
      answer = await this.server.comfyui("prompt", { prompt: this.prompt, client_id: this.client });
    } catch (error) {
      throw new Error(reasons(error.value?.node_errors) || error.message);
    }
    this.id = answer.prompt_id;
    const refused = reasons(answer.node_errors);
    if (!refused) return;
    await this.cancel();
    throw new Error(refused);
  }

  async follow() {
    this.tell("Queued.");
    this.listen();
    for (;;) {
      try {
        const entry = (await this.server.comfyui(`history/${this.id}`))[this.id];
        if (entry) return this.end(entry);
        const queue = await this.server.comfyui("queue");
        const mine = ([, id]) => id === this.id;
        if (queue.queue_running.some(mine)) this.tell(this.step ?? "ComfyUI is rendering it.");
        else if (queue.queue_pending.some(mine)) {
          const own = queue.queue_pending.find(mine)[0];
          const before = queue.queue_running.length + queue.queue_pending.filter(([number]) => number < own).length;
          this.tell(`In ComfyUI's queue, ${before} before it.`);
        } else {
          // It may have ended between the two questions.
          const late = (await this.server.comfyui(`history/${this.id}`))[this.id];
          return late ? this.end(late) : this.over(this.cancelled ? "Cancelled." : "It is no longer in ComfyUI's queue.");
        }
      } catch (error) {
        this.tell(error.message);
      }
      await new Promise((passed) => setTimeout(passed, LOOK_MS));
    }
  }

  // Steps are told by the websocket; without it the rest works all the same.
  listen() {
    try {
      const url = new URL(`${COMFYUI}ws?clientId=${this.client}`, location.href);
      url.protocol = url.protocol.replace("http", "ws");
      this.socket = new WebSocket(url);
      this.socket.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") return;
        const { type, data: told } = parse(data);
        if (type !== "progress" || (told.prompt_id ?? this.id) !== this.id) return;
        this.step = `ComfyUI is rendering it: step ${told.value} of ${told.max}.`;
        this.tell(this.step);
      });
    } catch {
      this.socket = null;
    }
  }

  end({ status, outputs }) {
    const messages = new Map(status?.messages ?? []);
    if (messages.has("execution_interrupted")) return this.over("Cancelled.");
    const failed = messages.get("execution_error");
    if (failed) return this.over(`It failed: ${failed.exception_message ?? "ComfyUI does not say why"}`);
    const image = Object.values(outputs).flatMap((output) => output.images ?? []).at(-1);
    if (!image) return this.over("It has made no picture.");
    this.picture = `${COMFYUI}view?${new URLSearchParams({ filename: image.filename, subfolder: image.subfolder, type: image.type })}`;
    return this.over("Done.");
  }

  over(text) {
    this.socket?.close();
    this.tell(text);
    this.ended();
  }

  // Takes it out of the queue, or interrupts it, whichever fits.
  async cancel() {
    this.cancelled = true;
    try {
      await this.server.comfyui("queue", { delete: [this.id] });
      await this.server.comfyui("interrupt", { prompt_id: this.id });
    } catch (error) {
      this.tell(error.message);
    }
  }
}

// Why nodes of a prompt are refused, in words; "" if none is.
function reasons(errors) {
  return Object.values(errors ?? {}).flatMap((node) => node.errors.map((error) => error.details || error.message)).join(" ");
}

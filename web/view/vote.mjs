// The blind vote: which of two pictures is better, or four of them from the best to the worst. Nobody
// sees what they vote on before the end.
import { button, make, setText } from "../runs/dom.mjs";
import { address } from "./address.mjs";
import { Kept } from "./kept.mjs";
import { Phone } from "./phone.mjs";
import { Server } from "./server.mjs";

const LETTERS = ["A", "B", "C", "D"];
const HELP = {
  2: "Left or a, right or b: that picture is better. Down or e: equal. x: both bad. Backspace: undo.",
  4: "Press a to d, or the pictures, from the best to the worst; Enter: the rest are equal. x: all bad. Backspace: undo.",
};

export class Vote {
  constructor(state) {
    this.server = new Server(state.grid);
    this.kept = new Kept(state.grid);
    this.state = state;
    this.count = state.count === 4 ? 4 : 2;
    this.order = [];
    this.working = 0;
    this.asked = this.answered = 0;
  }

  // What is voted on, and when that ends, as the routes take it.
  get rules() {
    const { axis = "", method, votes, where } = this.state;
    const most = votes ? { [method === "rounds" ? "round_votes" : "votes"]: Number(votes) } : {};
    return { axis, ...(method ? { method } : {}), ...most, ...(where ? { where } : {}) };
  }

  get busy() {
    return this.working > 0 || this.answered < this.asked;
  }

  async start() {
    document.title = `Vote: ${this.state.grid}`;
    this.judge = make("input", { type: "text", maxlength: 60, value: this.kept.judge, placeholder: "me", autocomplete: "nickname", on: { change: () => this.asJudge() } });
    this.axis = make("select", { "aria-label": "what is voted on", on: { change: () => this.ofAxis(this.axis.value) } });
    this.kind = make(
      "select",
      { "aria-label": "how many pictures at a time", on: { change: () => this.ofKind(Number(this.kind.value)) } },
      ...[[2, "Two at a time"], [4, "Four at once"]].map(([value, text]) => make("option", { value, text, selected: value === this.count })),
    );
    this.pictures = make("div", { class: "ballot", role: "group", "aria-label": "pictures" });
    this.actions = make("div", { class: "row actions", role: "group", "aria-label": "votes" });
    this.status = make("p", { class: "status", role: "status" });
    this.help = make("p", { class: "quiet help" });
    this.place = make("p", { class: "place" });
    this.progress = make("progress", { max: "1", "aria-label": "how sure the vote is" });
    document.body.replaceChildren(
      make(
        "header",
        { class: "bar row" },
        make("h1", { text: this.state.grid }),
        make("label", { class: "row" }, make("span", { text: "Your name" }), this.judge),
        this.axis,
        this.kind,
        new Phone(this).button,
        make("a", { class: "button", href: address({ grid: this.state.grid }), text: "Back to the grid" }),
      ),
      make("main", { class: "vote" }, this.status, this.progress, this.place, this.pictures, this.actions, this.help),
    );
    const { axes } = await this.server.states();
    this.axis.replaceChildren(...axes.map(({ label, target }) => make("option", { value: target, text: label })));
    this.axis.hidden = axes.length < 2;
    document.addEventListener("keydown", (event) => this.key(event));
    await this.next();
  }

  get name() {
    return this.judge.value.trim() || "me";
  }

  asJudge() {
    this.kept.judge = this.judge.value.trim();
    this.next();
  }

  ofKind(count) {
    this.count = count;
    history.replaceState(null, "", address({ ...this.state, count }));
    this.next();
  }

  ofAxis(axis) {
    this.state.axis = axis;
    history.replaceState(null, "", address({ ...this.state, count: this.count }));
    this.next();
  }

  async next() {
    // Of several questions that are asked for, the last one counts, whichever comes first.
    const asked = (this.asked += 1);
    const current = () => this.asked === asked;
    try {
      const found = await this.server.get("/votes/question", { judge: this.name, count: this.count, ...this.rules });
      if (current()) await this.take(found);
    } catch (error) {
      if (current()) setText(this.status, error.message);
    } finally {
      if (current()) this.answered = asked;
    }
  }

  async take(found) {
    this.question = found.question;
    this.axis.value = found.axis;
    this.order = [];
    setText(this.status, [`${counted(found.votes, "vote")}, ${found.own} of them yours.`, found.problem].filter(Boolean).join(" "));
    this.progress.value = found.probability;
    this.progress.title = `The leader is the best with a probability of ${Math.round(100 * found.probability)} %.`;
    if (found.question) this.show();
    else if (found.over) await this.end(found.text);
    else this.wait(found.text);
  }

  show() {
    const { shown, place } = this.question;
    setText(this.place, Object.entries(place).map(([axis, value]) => `${axis}: ${value || "empty"}`).join(", "));
    setText(this.help, HELP[shown.length] ?? HELP[2]);
    this.choices = shown.map((one, at) => {
      const choice = button("", () => this.pick(at), { class: "choice", "aria-label": `Picture ${LETTERS[at]}`, "aria-keyshortcuts": LETTERS[at].toLowerCase() });
      choice.append(make("img", { src: this.server.picture(one.key), alt: "", draggable: "false", width: one.width, height: one.height }), make("span", { class: "letter", text: LETTERS[at] }));
      return choice;
    });
    this.pictures.dataset.count = String(shown.length);
    this.pictures.replaceChildren(...this.choices);
    const four = shown.length > 2;
    this.actions.replaceChildren(
      button(four ? "The rest are equal" : "Equal", () => this.cast(), { "aria-keyshortcuts": four ? "Enter" : "e" }),
      button(four ? "All bad" : "Both bad", () => this.cast(true), { "aria-keyshortcuts": "x" }),
      button("Undo", () => this.undo(), { "aria-keyshortcuts": "Backspace" }),
    );
  }

  pick(at) {
    if (!this.question || this.busy) return;
    const { shown } = this.question;
    const { key } = shown[at];
    if (this.order.includes(key)) return;
    this.order.push(key);
    this.choices[at].dataset.rank = String(this.order.length);
    this.choices[at].setAttribute("aria-label", `Picture ${LETTERS[at]}, place ${this.order.length}`);
    if (this.order.length >= shown.length - 1) this.cast();
  }

  async cast(bad = false) {
    if (!this.question || this.busy) return;
    const { id, shown } = this.question;
    const taken = await this.does(async () => {
      try {
        await this.server.post("/votes", { judge: this.name, question: id, shown: shown.map((one) => one.key), order: bad ? [] : this.order, both_bad: bad, axis: this.axis.value });
      } catch (error) {
        // Another tab was quicker: its vote stands, and the next question comes.
        if (error.status !== 409) throw error;
      }
    });
    if (taken) {
      await this.next();
      return;
    }
    if (this.question?.id !== id) return;
    // The vote was not taken: nothing is chosen any more.
    this.order = [];
    this.show();
  }

  async undo() {
    if (this.busy) return;
    if (this.order.length) {
      this.order = [];
      this.show();
      return;
    }
    if (await this.does(() => this.server.post("/votes/undo", { judge: this.name, axis: this.axis.value }))) await this.next();
  }

  // There may be more pictures later; the ranking names the candidates, so it is shown only if asked for.
  wait(text) {
    this.choices = [];
    this.pictures.dataset.count = "0";
    this.pictures.replaceChildren();
    this.actions.replaceChildren(
      button("Look again", () => this.next()),
      button("Show the ranking", () => this.does(() => this.end())),
      button("Undo", () => this.undo(), { "aria-keyshortcuts": "Backspace" }),
    );
    for (const element of [this.help, this.place]) setText(element, "");
    setText(this.status, text);
  }

  async end(text) {
    const { asked } = this;
    // All votes are ranked, those too that came after as many as were wanted.
    const { votes: _, ...rules } = this.rules;
    this.wait(this.status.textContent);
    const found = await this.server.get("/votes/ranking", rules);
    if (this.asked !== asked) return;
    this.pictures.replaceChildren(ranking(found), agreement(found));
    this.actions.replaceChildren(button("Undo", () => this.undo(), { "aria-keyshortcuts": "Backspace" }));
    setText(this.status, text ?? found.verdict.text);
  }

  // Answers whether it went well.
  async does(what) {
    this.working += 1;
    try {
      await what();
      return true;
    } catch (error) {
      setText(this.status, error.message);
      return false;
    } finally {
      this.working -= 1;
    }
  }

  key(event) {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const two = (this.question?.shown.length ?? 0) === 2;
    const letter = LETTERS.indexOf(event.key.toUpperCase());
    if (letter >= 0 && this.choices?.[letter]) this.pick(letter);
    else if (two && event.key === "ArrowLeft") this.pick(0);
    else if (two && event.key === "ArrowRight") this.pick(1);
    else if (two && ["ArrowDown", "e"].includes(event.key)) this.cast();
    else if (!two && event.key === "Enter" && event.target.tagName !== "BUTTON") this.cast();
    else if (event.key === "x") this.cast(true);
    else if (event.key === "Backspace") this.undo();
    else return;
    event.preventDefault();
  }
}

function counted(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

function agreement({ agreement: { alpha, pictures }, judges }) {
  if (judges.length < 2) return "";
  const pairs = counted(pictures, "pair");
  const text = alpha === null ? "Too few pictures have been judged by two people to say how far they agree." : `Agreement of ${judges.length} judges on ${pairs} of pictures: alpha ${alpha.toFixed(2)} (1: they agree, 0: no more than by chance).`;
  return make("p", { class: "quiet", text });
}

// A table of the candidates with their intervals.
function ranking(found) {
  const ends = found.ranking.flatMap((one) => [one.low, one.high]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const share = (value) => (high > low ? (100 * (value - low)) / (high - low) : 50);
  const rows = found.ranking.map((one) => {
    const bar = make("span", { class: "interval" });
    const dot = make("span", { class: "dot" });
    bar.style.cssText = `left:${share(one.low)}%;width:${share(one.high) - share(one.low)}%`;
    dot.style.cssText = `left:${share(one.strength)}%`;
    return make("tr", {}, make("th", { scope: "row", text: one.label }), make("td", { class: "bars" }, bar, dot), make("td", { text: `${Math.round(100 * one.best)} %` }), make("td", { text: `${Math.round(100 * one.wins)} %` }), make("td", { text: one.votes }));
  });
  const head = make("tr", {}, ...["candidate", "strength, 95 % interval", "is the best", "wins", "votes"].map((text) => make("th", { scope: "col", text })));
  return make("table", { class: "ranking" }, make("caption", { text: "What the votes say" }), make("thead", {}, head), make("tbody", {}, ...rows));
}

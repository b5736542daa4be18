// Opens the vote to phones: a dialog with the QR code of the link, if the server's owner allows it.
import { button, make, setText } from "../runs/dom.mjs";

export class Phone {
  constructor(vote) {
    this.vote = vote;
    this.button = button("Vote on a phone", () => this.open());
    this.words = make("p", { role: "status" });
    this.code = make("img", { alt: "QR code of the link for phones", hidden: true });
    this.link = make("a", { target: "_blank", rel: "noopener", hidden: true });
    this.end = button("End the link", () => this.close(), { hidden: true });
    this.dialog = make(
      "dialog",
      { class: "phone", "aria-label": "Vote on a phone", on: { keydown: (event) => event.stopPropagation() } },
      this.words,
      this.code,
      this.link,
      make("div", { class: "row" }, this.end, button("Close", () => this.dialog.close())),
    );
  }

  async open() {
    if (!this.dialog.isConnected) document.body.append(this.dialog);
    setText(this.words, "One moment.");
    this.show(null);
    this.dialog.showModal();
    await this.does(async () => {
      const known = await this.vote.server.get("/votes/phone");
      if (known.url) this.show(known);
      else this.show(await this.vote.server.post("/votes/phone", { ...this.vote.rules, count: this.vote.count }));
    });
  }

  async close() {
    await this.does(async () => {
      await this.vote.server.post("/votes/phone/end", {});
      this.show(null);
      setText(this.words, "The link has ended.");
    });
  }

  async does(what) {
    try {
      await what();
    } catch (error) {
      setText(this.words, error.message);
    }
  }

  show(found) {
    for (const element of [this.code, this.link, this.end]) element.hidden = !found;
    if (!found) return;
    this.code.src = found.qr;
    this.link.href = found.url;
    setText(this.link, found.url);
    setText(this.words, `Scan this with a phone in the same network. Whoever has the link can see the pictures of this grid and vote, until the vote is over, for ${Math.ceil(found.hours)} hours at most.`);
  }
}

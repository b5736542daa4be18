// The table under the hand: a mouse drags it, two fingers or Ctrl and the wheel make it larger or
// smaller.

const FAR_PX = 5;

export class Hand {
  constructor(table) {
    this.table = table;
    const { element } = table;
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("touchstart", (event) => this.pinched(event), { passive: true });
    element.addEventListener("touchmove", (event) => this.pinch(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.down(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) element.addEventListener(kind, () => this.up());
    element.addEventListener("click", (event) => this.click(event), { capture: true });
  }

  zoom(factor, x, y) {
    const box = this.table.element.getBoundingClientRect();
    this.table.zoom(factor, x - box.left, y - box.top);
  }

  wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
  }

  // Where the middle of two fingers is, and how far they are apart.
  fingers({ touches: [one, other] }) {
    return { x: (one.clientX + other.clientX) / 2, y: (one.clientY + other.clientY) / 2, far: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1 };
  }

  pinched(event) {
    this.last = event.touches.length === 2 ? this.fingers(event) : null;
  }

  pinch(event) {
    if (event.touches.length !== 2 || !this.last) return;
    event.preventDefault();
    this.next = this.fingers(event);
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.last) return;
      const { x, y, far } = this.next;
      this.table.element.scrollBy(this.last.x - x, this.last.y - y);
      this.zoom(far / this.last.far, x, y);
      this.last = this.next;
    });
  }

  down(event) {
    this.dragged = false;
    if (event.pointerType === "mouse" && event.button <= 1 && event.target.closest(".inner")) this.held = { x: event.clientX, y: event.clientY };
  }

  move(event) {
    if (!this.held || !event.buttons) return this.up();
    const [right, down] = [event.clientX - this.held.x, event.clientY - this.held.y];
    if (!this.dragged && Math.hypot(right, down) < FAR_PX) return;
    const { element } = this.table;
    if (!this.dragged) element.setPointerCapture(event.pointerId);
    this.dragged = true;
    element.scrollBy(-right, -down);
    this.held = { x: event.clientX, y: event.clientY };
  }

  up() {
    this.held = null;
  }

  // What ends a drag is no click.
  click(event) {
    if (!this.dragged) return;
    this.dragged = false;
    event.stopPropagation();
    event.preventDefault();
  }
}

// What this browser remembers of a grid: favourites and rejects, and who votes.

export class Kept {
  constructor(grid) {
    this.name = `cocktail.grid.${grid}`;
    this.marks = read(this.name, {});
  }

  mark(key) {
    return this.marks[key] ?? "";
  }

  // Sets a mark, or takes it away where it is set.
  toggle(key, mark) {
    // Another tab may have marked cells too.
    this.marks = read(this.name, {});
    if (this.marks[key] === mark) delete this.marks[key];
    else this.marks[key] = mark;
    write(this.name, this.marks);
  }

  get judge() {
    return read("cocktail.judge", "");
  }

  set judge(name) {
    write("cocktail.judge", name);
  }
}

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // A browser may keep nothing; the page works all the same.
  }
}

// The vote on a phone. The token is in the address behind #, which the browser sends to nobody; here it
// goes along in a header. It lasts as long as the vote.
const KEPT = "cocktail.judge";
const LETTERS = ["A", "B", "C", "D"];
const token = location.hash.slice(1);
const at = (id) => document.getElementById(id);
const [judge, count, asked, status, pictures, equal, bad, undo] = ["judge", "count", "asked", "status", "pictures", "equal", "bad", "undo"].map(at);

let question = null;
let chosen = false;
let order = [];
let working = 0;
let asks = 0;
let answered = 0;
let shown = [];

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Error("The server does not answer: the vote is over, or this phone is not in the same network.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw Object.assign(new Error(String(said?.error ?? `The server answers ${answer.status}.`)), { status: answer.status });
}

// Of several questions that are asked for, the last one counts, whichever comes first.
async function next() {
  const mine = (asks += 1);
  const current = () => asks === mine;
  mark();
  try {
    // At first as many pictures as the link says.
    const query = new URLSearchParams({ judge: judge.value, ...(chosen ? { count: count.value } : {}) });
    const found = await (await ask(`/question?${query}`)).json();
    const loaded = found.question ? await load(found.question) : [];
    if (current()) take(found, loaded);
    else forget(loaded);
  } catch (error) {
    if (current()) say(error.message);
  } finally {
    if (current()) answered = mine;
    mark();
  }
}

function take(found, loaded) {
  question = found.question;
  order = [];
  if (question && !chosen) count.value = String(question.shown.length);
  if (question) show(loaded);
  else clear();
  if (!question && found.over) over(found.own);
  else say(`${question ? "" : "You have seen all pictures that are there. Thank you. "}${votes(found.own)}`);
}

function busy() {
  return working > 0 || answered < asks;
}

function mark() {
  pictures.setAttribute("aria-busy", String(busy()));
}

function load(asked) {
  return Promise.all(asked.shown.map(async ({ key }) => URL.createObjectURL(await (await ask(`/pictures/${key}`)).blob())));
}

function forget(sources) {
  for (const source of sources) URL.revokeObjectURL(source);
}

function votes(own) {
  return `${own} ${own === 1 ? "vote" : "votes"} of yours.`;
}

// The token is worth nothing any more, so nothing can be taken back.
function over(own) {
  question = null;
  clear();
  undo.disabled = true;
  say(`The vote is over. Thank you. ${votes(own)}`);
}

function show(loaded) {
  clear();
  shown = loaded;
  pictures.dataset.count = String(loaded.length);
  asked.textContent = loaded.length > 2 ? "Tap from the best to the worst" : "Which picture is better?";
  equal.textContent = loaded.length > 2 ? "The rest are equal" : "Equal";
  bad.textContent = loaded.length > 2 ? "All bad" : "Both bad";
  pictures.replaceChildren(
    ...loaded.map((source, number) => {
      const choice = document.createElement("button");
      choice.type = "button";
      choice.className = "choice";
      choice.setAttribute("aria-label", `Picture ${LETTERS[number]}`);
      const image = document.createElement("img");
      image.src = source;
      image.alt = "";
      choice.append(image);
      choice.addEventListener("click", () => pick(number, choice));
      return choice;
    }),
  );
  for (const button of [equal, bad]) button.disabled = false;
}

function clear() {
  forget(shown);
  shown = [];
  pictures.replaceChildren();
  for (const button of [equal, bad]) button.disabled = true;
}

function pick(number, choice) {
  const { key } = question.shown[number];
  if (busy() || order.includes(key)) return;
  order.push(key);
  choice.dataset.rank = String(order.length);
  choice.setAttribute("aria-label", `Picture ${LETTERS[number]}, place ${order.length}`);
  if (order.length >= question.shown.length - 1) cast(false);
}

async function cast(bothBad) {
  if (busy() || !question) return;
  const { id } = question;
  let told = null;
  const done = await does(async () => {
    try {
      told = await ask("/votes", { judge: judge.value, question: id, shown: question.shown.map((one) => one.key), order: bothBad ? [] : order, both_bad: bothBad });
    } catch (error) {
      // Somebody with the same name was quicker: that vote stands, and the next question comes.
      if (error.status !== 409) throw error;
    }
  });
  const taken = done && told ? await told.json().catch(() => null) : null;
  if (taken?.over) over(taken.own);
  else if (done) await next();
  else unpick();
}

// The vote was not taken: nothing is chosen any more.
function unpick() {
  order = [];
  [...pictures.children].forEach((choice, number) => {
    delete choice.dataset.rank;
    choice.setAttribute("aria-label", `Picture ${LETTERS[number]}`);
  });
}

async function takeBack() {
  if (busy()) return;
  if (order.length) unpick();
  else if (await does(() => ask("/votes/undo", { judge: judge.value }))) await next();
}

// Whether it went well.
async function does(what) {
  working += 1;
  mark();
  try {
    await what();
    return true;
  } catch (error) {
    say(error.message);
    return false;
  } finally {
    working -= 1;
    mark();
  }
}

function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

function kept() {
  try {
    return localStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

judge.value = kept();
judge.addEventListener("change", () => {
  try {
    localStorage.setItem(KEPT, judge.value);
  } catch {
    // Without storage the name lasts as long as the page.
  }
  next();
});
count.addEventListener("change", () => {
  chosen = true;
  next();
});
equal.addEventListener("click", () => cast(false));
bad.addEventListener("click", () => cast(true));
undo.addEventListener("click", takeBack);
addEventListener("hashchange", () => location.reload());
next();

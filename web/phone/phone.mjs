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
let busy = false;
let shown = [];

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Error("The server does not answer. Are you in the same network?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw Object.assign(new Error(String(said?.error ?? `The server answers ${answer.status}.`)), { status: answer.status });
}

async function next() {
  await does(async () => {
    // At first as many pictures as the link says.
    const query = new URLSearchParams({ judge: judge.value, ...(chosen ? { count: count.value } : {}) });
    const found = await (await ask(`/question?${query}`)).json();
    question = found.question;
    order = [];
    if (question && !chosen) count.value = String(question.shown.length);
    if (question) await show();
    else clear();
    const own = `${found.own} ${found.own === 1 ? "vote" : "votes"} of yours.`;
    say(question ? own : found.over ? `The vote is over. Thank you. ${own}` : `You have seen all pictures that are there. Thank you. ${own}`);
  });
}

async function show() {
  const loaded = await Promise.all(question.shown.map(async ({ key }) => URL.createObjectURL(await (await ask(`/pictures/${key}`)).blob())));
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
  for (const source of shown) URL.revokeObjectURL(source);
  shown = [];
  pictures.replaceChildren();
  for (const button of [equal, bad]) button.disabled = true;
}

function pick(number, choice) {
  const { key } = question.shown[number];
  if (busy || order.includes(key)) return;
  order.push(key);
  choice.dataset.rank = String(order.length);
  choice.setAttribute("aria-label", `Picture ${LETTERS[number]}, place ${order.length}`);
  if (order.length >= question.shown.length - 1) cast(false);
}

async function cast(bothBad) {
  if (busy || !question) return;
  const { id } = question;
  const done = await does(async () => {
    try {
      await ask("/votes", { judge: judge.value, question: id, shown: question.shown.map((one) => one.key), order: bothBad ? [] : order, both_bad: bothBad });
    } catch (error) {
      // Somebody with the same name was quicker: that vote stands, and the next question comes.
      if (error.status !== 409) throw error;
    }
  });
  if (done) await next();
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
  if (busy) return;
  if (order.length) unpick();
  else if (await does(() => ask("/votes/undo", { judge: judge.value }))) await next();
}

async function does(what) {
  busy = true;
  try {
    await what();
    return true;
  } catch (error) {
    say(error.message);
    return false;
  } finally {
    busy = false;
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

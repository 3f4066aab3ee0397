// The page of lists: choose, rename, delete, note, share, export and import those of this browser.

import { address, FEATURE_ID, forgetVersion, load, merge, NOTHING_STORED } from "./collection.js";
import { parse, store, toCsv, toJson } from "./collection.js";

const at = (id) => document.getElementById(id);
const make = (tag, given = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), given);
  e.append(...children);
  return e;
};
const say = (text) => (at("said").textContent = text);
const known = {}; // features by id, as the server describes them; null for one that it does not have
let shows = 0;

const refusal = async (answer) => (await answer.json().catch(() => ({ detail: answer.statusText }))).detail;

/** Asks the server for what `known` lacks of the features, 60 at a time. */
async function describe(ids) {
  for (const id of ids) if (!FEATURE_ID.test(id)) known[id] = null; // it would be refused with the rest
  const missing = ids.filter((id) => !(id in known));
  for (let start = 0; start < missing.length; start += 60) {
    const query = new URLSearchParams(missing.slice(start, start + 60).map((id) => ["feature", id]));
    const answer = await fetch(`/lists.json?${query}`);
    if (!answer.ok) throw new Error(await refusal(answer));
    for (const { id, feature } of (await answer.json()).entries) known[id] = feature;
  }
}

/** Fills in what is known of a row's feature. */
function fill(tr) {
  const [head, fires, verdict] = tr.cells;
  const feature = known[tr.dataset.id];
  if (feature === undefined || fires.hasChildNodes()) return;
  const words = feature?.relation
    ? `${feature.relation} ${feature.words[0].shown}`
    : (feature ? `anchor ${feature.name.shown}` : "not in this index");
  if (!feature) head.textContent = tr.dataset.id; // its page does not exist
  fires.append(make("bdi", { className: feature ? "" : "muted", textContent: words }));
  verdict.append(
    feature ? make("span", { className: `badge is-${feature.verdict}`, textContent: feature.verdict }) : "–",
  );
}

/** A row of the list `name`. An edit is made in the list as it is stored by then: another tab may have changed it. */
function row(name, id) {
  const note = make("input", { maxLength: 500, placeholder: "a note" });
  note.setAttribute("aria-label", `Note on ${id}`);
  note.addEventListener("change", () =>
    change((all) => {
      const own = all.lists[name]?.find((one) => one.id === id);
      if (own) own.note = note.value;
      return name;
    }),
  );
  const remove = make("button", { type: "button", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove ${id}`);
  remove.addEventListener("click", () =>
    change((all) => {
      const list = all.lists[name];
      if (list) all.lists[name] = list.filter((one) => one.id !== id);
      return name;
    }),
  );
  const cells = [make("td"), make("td"), make("td", {}, note), make("td", {}, remove)];
  const link = FEATURE_ID.test(id) ? make("a", { href: `/${id}`, textContent: id }) : id;
  const tr = make("tr", {}, make("th", { scope: "row" }, link), ...cells);
  tr.dataset.id = id;
  fill(tr);
  return tr;
}

/** Makes the rows those of the list. One that stays is left in its place, with what is typed there. */
function draw(name, list) {
  const rows = at("rows");
  if (rows.dataset.list !== name) rows.replaceChildren();
  rows.dataset.list = name;
  const there = new Map([...rows.rows].map((tr) => [tr.dataset.id, tr]));
  const wanted = new Set(list.map(({ id }) => id));
  for (const [id, tr] of there) if (!wanted.has(id)) tr.remove();
  list.forEach(({ id, note }, place) => {
    const tr = there.get(id) ?? row(name, id);
    if (rows.rows[place] !== tr) rows.insertBefore(tr, rows.rows[place] ?? null);
    const field = tr.querySelector("input");
    if (field !== document.activeElement) field.value = note;
  });
}

async function show() {
  const all = load();
  const list = all.lists[all.open];
  at("which").replaceChildren(
    ...Object.entries(all.lists).map(
      ([name, features]) => new Option(`${name} (${features.length})`, name, false, name === all.open),
    ),
  );
  at("own").hidden = false;
  at("none").hidden = list.length > 0;
  at("rows").closest(".scroll").hidden = list.length === 0;
  at("share").href = address(all.open, list);
  draw(all.open, list);
  const own = ++shows;
  try {
    await describe(list.map(({ id }) => id));
  } catch (error) {
    say(`The server does not say what these features are: ${error.message}.`);
  }
  if (own !== shows) return; // another list is shown by now, or this one as it was changed
  for (const tr of at("rows").rows) fill(tr);
}

function change(edit) {
  const all = load();
  const name = edit(all);
  if (name !== null && !store(all)) say(NOTHING_STORED);
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

const nameGiven = () => at("name").value.trim().slice(0, 80);

at("which").addEventListener("change", () =>
  change((all) => {
    const name = at("which").value;
    if (!(name in all.lists)) {
      say(`“${name}” is no longer there: another tab renamed or deleted it.`);
      show();
      return null;
    }
    return (all.open = name);
  }),
);
at("new").addEventListener("click", () =>
  change((all) => {
    const name = nameGiven();
    if (!name || all.lists[name]) {
      say(name ? `There is a list “${name}” already.` : "Write a name first.");
      return null;
    }
    all.lists[name] = [];
    all.open = name;
    at("name").value = "";
    return name;
  }),
);
at("rename").addEventListener("click", () =>
  change((all) => {
    const name = nameGiven();
    if (!name || all.lists[name]) {
      say(name ? `There is a list “${name}” already.` : "Write the new name first.");
      return null;
    }
    all.lists[name] = all.lists[all.open];
    delete all.lists[all.open];
    delete all.versions[all.open];
    all.open = name;
    at("name").value = "";
    return name;
  }),
);
at("delete").addEventListener("click", () =>
  change((all) => {
    const { open, lists } = all;
    if (!confirm(`Delete the list “${open}” with ${lists[open].length} features?`)) return null;
    delete lists[open];
    delete all.versions[open];
    if (!Object.keys(lists).length) lists["My list"] = [];
    [all.open] = Object.keys(lists);
    say(`Deleted “${open}”.`);
    return all.open;
  }),
);
at("csv").addEventListener("click", () => {
  const { open, lists } = load();
  save(`${open}.csv`, toCsv(lists[open]), "text/csv");
});
at("json").addEventListener("click", () => {
  const { open, lists } = load();
  save(`${open}.json`, toJson(open, lists[open]), "application/json");
});
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("share").href);
  say("The address is copied. It shows this list to anybody who can open this server.");
});
at("copy").hidden = !navigator.clipboard;
at("file").addEventListener("change", async () => {
  const [file] = at("file").files;
  if (!file) return;
  try {
    const { name, features } = parse(await file.text(), file.name);
    if (!merge(name, features)) throw new Error(NOTHING_STORED.slice(0, -1));
    say(`Read ${features.length} features into “${name}”.`);
  } catch (error) {
    say(`Nothing was read. ${error.message}.`);
  }
  at("file").value = "";
});
at("keep")?.addEventListener("click", () => {
  const { name, features, version } = JSON.parse(at("shared-data").textContent);
  say(merge(name, features, version) ? `Kept “${name}” in this browser.` : NOTHING_STORED);
});

/** Asks the server for something, and says what came of it. */
const asked = (work) => () => work().catch((error) => say(`The server cannot be reached: ${error.message}.`));

at("forget")?.addEventListener(
  "click",
  asked(async () => {
    const answer = await fetch(at("forget").dataset.list, { method: "DELETE" });
    if (!answer.ok) return say(await refusal(answer));
    forgetVersion(JSON.parse(at("shared-data").textContent).name);
    location.assign("/lists");
  }),
);
at("send")?.addEventListener(
  "click",
  asked(async () => {
    const all = load();
    const name = all.open;
    const answer = await fetch("/api/v1/lists/kept", {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name, features: all.lists[name], version: all.versions[name] ?? 0 }),
    });
    if (answer.status === 409) forgetVersion(name);
    if (!answer.ok) return say(await refusal(answer));
    const kept = await answer.json();
    merge(name, [], kept.version);
    const link = make("a", { href: `/lists/${kept.id}`, textContent: `/lists/${kept.id}` });
    at("said").replaceChildren(`Kept “${name}” on the server, as `, link, ".");
  }),
);
document.addEventListener("listschange", show);
addEventListener("storage", show);
show();

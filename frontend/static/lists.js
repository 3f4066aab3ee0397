// The page of lists: choose, rename, delete, note, share, export and import those of this browser.

import { address, load, merge, parse, store, toCsv, toJson } from "./collection.js";
import { FEATURE_ID } from "./steer_state.js";

const at = (id) => document.getElementById(id);
const make = (tag, given = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), given);
  e.append(...children);
  return e;
};
const say = (text) => (at("said").textContent = text);
let known = {}; // features of the open list by id, as the server describes them

/** What the server knows of features, 60 at a time; an id that it does not have is left out. */
async function describe(ids) {
  const missing = ids.filter((id) => !(id in known) && FEATURE_ID.test(id)); // another would be refused with the rest
  for (let start = 0; start < missing.length; start += 60) {
    const query = new URLSearchParams(missing.slice(start, start + 60).map((id) => ["feature", id]));
    const answer = await fetch(`/lists.json?${query}`);
    if (!answer.ok) continue;
    for (const { feature } of (await answer.json()).entries) if (feature) known[feature.id] = feature;
  }
}

/** A row of the list `name`. An edit is made in the list as it is stored by then: another tab may have changed it. */
function row(name, entry) {
  const feature = known[entry.id];
  const words = feature?.relation
    ? `${feature.relation} ${feature.words[0].shown}`
    : (feature ? `anchor ${feature.name.shown}` : "not in this index");
  const note = make("input", { value: entry.note, maxLength: 500, placeholder: "a note" });
  note.setAttribute("aria-label", `Note on ${entry.id}`);
  note.addEventListener("change", () =>
    change((all) => {
      const own = all.lists[name]?.find(({ id }) => id === entry.id);
      if (own) own.note = note.value;
      return name;
    }),
  );
  const remove = make("button", { type: "button", textContent: "Remove" });
  remove.setAttribute("aria-label", `Remove ${entry.id}`);
  remove.addEventListener("click", () =>
    change((all) => {
      const list = all.lists[name];
      if (list) all.lists[name] = list.filter(({ id }) => id !== entry.id);
      return name;
    }),
  );
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, feature ? make("a", { href: `/${entry.id}`, textContent: entry.id }) : entry.id),
    make("td", {}, make("bdi", { className: feature ? "" : "muted", textContent: words })),
    make(
      "td",
      {},
      feature ? make("span", { className: `badge is-${feature.verdict}`, textContent: feature.verdict }) : "–",
    ),
    make("td", {}, note),
    make("td", {}, remove),
  );
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
  await describe(list.map(({ id }) => id));
  at("rows").replaceChildren(...list.map((entry) => row(all.open, entry)));
}

function change(edit) {
  const all = load();
  const name = edit(all);
  if (name === null) return;
  try {
    store(all);
  } catch {
    say("This browser stores nothing for this site.");
  }
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

const refusal = async (answer) =>
  (await answer.json().catch(() => ({ detail: answer.statusText }))).detail;

const nameGiven = () => at("name").value.trim().slice(0, 80);

at("which").addEventListener("change", () => change((all) => (all.open = at("which").value)));
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
    delete all.versions?.[all.open];
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
    delete all.versions?.[open];
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
    merge(name, features);
    say(`Read ${features.length} features into “${name}”.`);
  } catch (error) {
    say(`Nothing was read. ${error.message}.`);
  }
  at("file").value = "";
});
at("keep")?.addEventListener("click", () => {
  const { name, features, version } = JSON.parse(at("shared-data").textContent);
  merge(name, features, version);
  say(`Kept “${name}” in this browser.`);
});
at("forget")?.addEventListener("click", async () => {
  const answer = await fetch(at("forget").dataset.list, { method: "DELETE" });
  if (answer.ok) location.assign("/lists");
  else say(await refusal(answer));
});
at("send")?.addEventListener("click", async () => {
  const all = load();
  const name = all.open;
  const answer = await fetch("/api/v1/lists/kept", {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name, features: all.lists[name], version: all.versions?.[name] ?? 0 }),
  });
  if (!answer.ok) {
    say(await refusal(answer));
    return;
  }
  const kept = await answer.json();
  merge(name, [], kept.version);
  const link = make("a", { href: `/lists/${kept.id}`, textContent: `/lists/${kept.id}` });
  at("said").replaceChildren(`Kept “${name}” on the server, as `, link, ".");
});
document.addEventListener("listschange", show);
addEventListener("storage", () => {
  if (!document.activeElement.matches("#rows input")) show(); // else what is typed there would be lost
});
show();

// Lists of features, kept in this browser. One list is open: features are saved to it.
//
// {open: name, lists: {name: [{id, note}]}, versions: {name: number}}; a version is of the same list on the server,
// where it is kept there as well. A stored text that cannot be read is kept under KEY + ".damaged".

const KEY = "lexiscope.lists";
const FIRST = "My list";
/** Of a feature, or of a token's direction: as ListedId of lexiscope/records/requests.py. */
export const FEATURE_ID = /^[^/\\\s]+\/\d+-[^/\\\s]+\/((token|embedding|jacobian)-)?\d+$/;

/** Without a prototype: a list may be called "constructor". */
const byName = (given) => Object.assign(Object.create(null), given);

/** The lists in a stored text, one of them open; null where it holds none. Throws where it is no JSON. */
function read(text) {
  const found = JSON.parse(text);
  const lists = byName(found?.lists);
  if (!found?.lists || !Object.values(lists).every(Array.isArray)) return null;
  if (!Object.keys(lists).length) lists[FIRST] = [];
  const open = found.open in lists ? found.open : Object.keys(lists)[0];
  return { open, lists, versions: byName(found.versions) };
}

export function load() {
  let text = null;
  try {
    text = localStorage.getItem(KEY);
    const found = read(text);
    if (found) return found;
    if (text) localStorage.setItem(`${KEY}.damaged`, text);
  } catch {
    if (text) localStorage.setItem(`${KEY}.damaged`, text);
  }
  return { open: FIRST, lists: byName({ [FIRST]: [] }), versions: byName() };
}

export const NOTHING_STORED = "This browser stores nothing for this site, so nothing was changed.";

/** False where the browser stores nothing. */
export function store(all) {
  try {
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch {
    return false;
  }
  document.dispatchEvent(new CustomEvent("listschange"));
  return true;
}

export const opened = () => {
  const all = load();
  return { name: all.open, features: all.lists[all.open] };
};

export const has = (id) => opened().features.some((one) => one.id === id);

/** Adds a feature to the open list, or takes it out. Returns a sentence on what was done, and, for a feature that was
 * taken out, a function that puts it back with its note. */
export function toggle(id) {
  const all = load();
  const name = all.open;
  const list = all.lists[name];
  const place = list.findIndex((one) => one.id === id);
  const [removed] = place < 0 ? [] : list.splice(place, 1);
  if (!removed) list.push({ id, note: "" });
  if (!store(all)) return { text: NOTHING_STORED };
  if (!removed) return { text: `Saved ${id} to “${name}” (${list.length}).` };
  return { text: `Took ${id} out of “${name}”.`, undo: () => putBack(name, removed, place) };
}

function putBack(name, entry, place) {
  const all = load();
  const list = (all.lists[name] ??= []);
  if (!list.some((one) => one.id === entry.id)) list.splice(place, 0, entry);
  return { text: store(all) ? `Put ${entry.id} back into “${name}”.` : NOTHING_STORED };
}

/** Adds features, a new note replacing an old one, to a list that is made where it is missing; `version` is that of
 * one's own list on the server, where they come from there. False where the browser stores nothing. */
export function merge(name, features, version = 0) {
  const all = load();
  const list = (all.lists[name] ??= []);
  for (const { id, note } of features) {
    const known = list.find((one) => one.id === id);
    if (known) known.note = note || known.note;
    else list.push({ id, note: note ?? "" });
  }
  all.open = name;
  if (version) all.versions[name] = version;
  return store(all);
}

/** The server no longer has the version of a list that this browser knows: the next is sent as a new list, which
 * replaces none. */
export function forgetVersion(name) {
  const all = load();
  delete all.versions[name];
  store(all);
}

const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

export const toCsv = (features) =>
  ["id,note", ...features.map(({ id, note }) => `${id},${quoted(note)}`)].join("\n") + "\n";

export const toJson = (name, features) => JSON.stringify({ name, features }, null, 1) + "\n";

export function address(name, features) {
  const query = new URLSearchParams({ name });
  for (const { id } of features) query.append("feature", id);
  for (const { id, note } of features) if (note) query.append("note", `${id} ${note}`);
  return `/lists?${query}`;
}

/** The fields of CSV, rows of texts. */
function rows(text) {
  const found = [[""]];
  let inside = false;
  for (let i = 0; i < text.length; i += 1) {
    const row = found.at(-1);
    if (inside && text[i] === '"' && text[i + 1] === '"') {
      row[row.length - 1] += '"';
      i += 1;
    } else if (text[i] === '"') inside = !inside;
    else if (!inside && text[i] === ",") row.push("");
    else if (!inside && text[i] === "\n") found.push([""]);
    else if (text[i] !== "\r" || inside) row[row.length - 1] += text[i];
  }
  return found.filter((row) => row.some(Boolean));
}

/** {name, features} of a file that was exported, JSON or CSV. Throws an Error that says what is wrong and where. */
export function parse(text, file) {
  const name = file.replace(/\.(json|csv)$/i, "") || FIRST;
  let given = null;
  if (text.trimStart().startsWith("{")) {
    try {
      given = JSON.parse(text);
    } catch (error) {
      throw new Error(`${file} is no JSON: ${error.message}`);
    }
    if (!Array.isArray(given.features)) throw new Error(`${file} has no list named "features"`);
  } else {
    const [head, ...rest] = rows(text);
    if (head?.[0]?.trim() !== "id") throw new Error(`${file} has no first line "id,note"`);
    given = { features: rest.map(([id, note]) => ({ id, note })) };
  }
  const features = given.features.map((one, place) => {
    const id = String(one?.id ?? "").trim();
    if (!FEATURE_ID.test(id))
      throw new Error(`${file}: entry ${place + 1}, “${id.slice(0, 60)}”, is no model/source/index`);
    return { id, note: String(one.note ?? "").slice(0, 500) };
  });
  return { name: String(given.name || name).slice(0, 80), features };
}

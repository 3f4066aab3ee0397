// Lists of features, kept in this browser. One list is open: features are saved to it.
//
// {open: name, lists: {name: [{id, note}]}, versions: {name: number}}; a version is of the same list on the server,
// where it is kept there as well. A stored text that cannot be read is kept under KEY + ".damaged".

const KEY = "lexiscope.lists";
const FIRST = "My list";
export const FEATURE_ID = /^[^/\\\s]+\/\d+-[^/\\\s]+\/(token-)?\d+$/;

const empty = () => ({ open: FIRST, lists: { [FIRST]: [] } });

export function load() {
  let text = null;
  try {
    text = localStorage.getItem(KEY);
    const found = JSON.parse(text);
    if (found?.lists?.[found.open] && Object.values(found.lists).every(Array.isArray)) return found;
    if (text) localStorage.setItem(`${KEY}.damaged`, text);
  } catch {
    if (text) localStorage.setItem(`${KEY}.damaged`, text);
  }
  return empty();
}

/** Throws where the browser does not store anything. */
export function store(all) {
  localStorage.setItem(KEY, JSON.stringify(all));
  document.dispatchEvent(new CustomEvent("listschange"));
}

export const opened = () => {
  const all = load();
  return { name: all.open, features: all.lists[all.open] };
};

export const has = (id) => opened().features.some((one) => one.id === id);

/** Adds a feature to the open list, or takes it out. Returns a sentence on what was done. */
export function toggle(id) {
  const all = load();
  const list = all.lists[all.open];
  const place = list.findIndex((one) => one.id === id);
  if (place < 0) list.push({ id, note: "" });
  else list.splice(place, 1);
  try {
    store(all);
  } catch {
    return "This browser stores nothing for this site, so the feature was not saved.";
  }
  return place < 0 ? `Saved ${id} to “${all.open}” (${list.length}).` : `Took ${id} out of “${all.open}”.`;
}

/** Adds features, a new note replacing an old one, to a list that is made where it is missing; `version` is that of
 * the list on the server, where they come from there. */
export function merge(name, features, version = 0) {
  const all = load();
  const list = (all.lists[name] ??= []);
  for (const { id, note } of features) {
    const known = list.find((one) => one.id === id);
    if (known) known.note = note || known.note;
    else list.push({ id, note: note ?? "" });
  }
  all.open = name;
  if (version) all.versions = { ...all.versions, [name]: version };
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

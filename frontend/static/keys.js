// Keys on every page, and the button that saves a feature to the open list (collection.js).

import { FEATURE_ID, has, toggle } from "./collection.js";

const KEYS = [
  ["/", "find a token"],
  ["j", "next row of a list"],
  ["k", "previous row"],
  ["Enter", "open the row's feature"],
  ["n", "next feature, or next page of a list"],
  ["p", "previous feature, or previous page"],
  ["s", "save the chosen or the page's feature to your list, or take it out"],
  ["?", "show this"],
];
const ROWS = "main :is(table.list tbody tr, .neighbours li):has(a)";
const TYPING = "input:not([type=checkbox]), textarea, select, [contenteditable]";
const make = (tag, given = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), given);
  e.append(...children);
  return e;
};

const idOf = (path) => {
  const id = decodeURIComponent(path).slice(1);
  return FEATURE_ID.test(id) ? id : null;
};
/** The feature of the focused row: of its link that has the focus, else of its first. */
function chosen() {
  const row = document.activeElement?.closest(ROWS);
  const links = row ? [document.activeElement.closest("a"), ...row.querySelectorAll("a")] : [];
  return links.map((a) => a && idOf(new URL(a.href).pathname)).find(Boolean);
}

function find() {
  const box = document.querySelector("input[type=search]");
  box?.focus();
  box?.select();
}

function move(step) {
  const rows = [...document.querySelectorAll(ROWS)].filter((row) => row.checkVisibility());
  if (!rows.length) return;
  const now = rows.indexOf(document.activeElement?.closest(ROWS));
  const row = rows[now < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(now + step, 0), rows.length - 1)];
  row.querySelector("a").focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

const follow = (rel) => document.querySelector(`main a[rel=${rel}]`)?.click();

let said = null;
function say({ text, undo }) {
  said ??= document.body.appendChild(make("p", { className: "toast" }));
  said.setAttribute("role", "status");
  said.replaceChildren(text, " ", make("a", { href: "/lists", textContent: "Lists" }));
  if (undo) {
    const button = make("button", { type: "button", textContent: "Undo" });
    button.addEventListener("click", () => say(undo()));
    said.append(" ", button);
  }
  said.hidden = false;
  clearTimeout(said.timer);
  said.timer = setTimeout(() => (said.hidden = true), 6000);
}

function save() {
  const id = chosen() ?? idOf(location.pathname);
  say(id ? toggle(id) : { text: "Choose a feature first: j and k move through a list." });
}

let help = null;
function showHelp() {
  if (!help) {
    const rows = KEYS.map(([key, words]) =>
      make("div", {}, make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: words })),
    );
    const close = make("button", { type: "button", textContent: "Close" });
    help = make(
      "dialog",
      { className: "keys" },
      make("h2", { textContent: "Keys", id: "keys-h" }),
      make("dl", {}, ...rows),
      close,
    );
    help.setAttribute("aria-labelledby", "keys-h");
    close.addEventListener("click", () => help.close());
    document.body.append(help);
  }
  help.showModal();
}

const ACTIONS = {
  "/": find,
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("next"),
  p: () => follow("prev"),
  s: save,
  "?": showHelp,
};

document.addEventListener("keydown", (event) => {
  const action = ACTIONS[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target.closest(TYPING)) return;
  if (document.querySelector("dialog[open]")) return;
  event.preventDefault();
  action();
});

for (const button of document.querySelectorAll("button[data-save]")) {
  const label = () => {
    button.textContent = has(button.dataset.save) ? "Saved" : "Save";
    button.setAttribute("aria-pressed", String(has(button.dataset.save)));
  };
  button.addEventListener("click", () => say(toggle(button.dataset.save)));
  document.addEventListener("listschange", label);
  addEventListener("storage", label);
  addEventListener("pageshow", label); // Back shows a page as it was left
}
document.querySelector("button[data-keys]")?.addEventListener("click", showHelp);

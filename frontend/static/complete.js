// Suggests tokens while one is typed: a combobox with a list (WAI-ARIA 1.2). An input with data-complete="open"
// opens the chosen token's page, one with data-complete="fill" takes its spelling, one with
// data-complete="feature" the id of one of its best features; data-model names the field that says which model's
// tokens are meant, else they are those of all models.

import { FEATURE_ID } from "./collection.js";

const WAIT = 90;
let count = 0;

const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

class Completion {
  constructor(input) {
    this.input = input;
    this.list = make("ul", { id: `complete-${++count}`, className: "complete", hidden: true });
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-label", "Tokens");
    this.said = make("span", { className: "unseen" });
    this.said.setAttribute("role", "status");
    input.after(this.list, this.said);
    input.parentElement.classList.add("completes");
    input.setAttribute("role", "combobox");
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-expanded", "false");
    input.setAttribute("aria-controls", this.list.id);
    input.addEventListener("input", () => this.later());
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    // before blur, so that a click reaches the option
    this.list.addEventListener("mousedown", (event) => {
      event.preventDefault();
      const option = event.target.closest("li");
      if (option) this.choose(option);
    });
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), WAIT);
  }

  async ask() {
    const text = this.input.value;
    this.asked?.abort();
    if (!text.trim() || (this.kind !== "open" && FEATURE_ID.test(text))) return this.close();
    this.asked = new AbortController();
    const model = this.input.form?.elements[this.input.dataset.model]?.value;
    const address = model ? `/api/v1/models/${encodeURIComponent(model)}/tokens` : "/api/v1/tokens";
    const query = new URLSearchParams({ prefix: text.slice(0, 200), limit: 10 });
    try {
      const answer = await fetch(`${address}?${query}`, { signal: this.asked.signal });
      if (answer.ok && document.activeElement === this.input) this.show((await answer.json()).tokens, text);
    } catch (error) {
      if (error.name !== "AbortError") this.close();
    }
  }

  get kind() {
    return this.input.dataset.complete;
  }

  tokenOption(hit, several) {
    const option = this.option(`/tokens/${hit.model}/${hit.token.id}`, hit.token.shown);
    const features = `${hit.n_features.toLocaleString("en")} ${hit.n_features === 1 ? "feature" : "features"}`;
    const carried = hit.n_features || hit.spelling || hit.best.length;
    const named = hit.n_features ? features : carried ? "features of its word" : "nothing is named after it";
    option.append(
      make("bdi", { className: "chip", textContent: hit.token.shown }),
      make("span", {
        className: "best",
        textContent: hit.best.map((ref) => `${ref.relation} ${percent(ref.share)}`).join(", "),
        title: "the largest share of firings of a feature in each relation to this word",
      }),
      make("span", {
        className: carried ? "muted" : "none",
        textContent: `${named} · ${hit.count.toLocaleString("en")}×${several ? ` · ${hit.model}` : ""}`,
      }),
    );
    return option;
  }

  featureOption(ref) {
    const option = this.option(`/${ref.id}`, ref.id);
    option.append(
      make("span", { className: "muted", textContent: `fires ${ref.relation}` }),
      ...ref.words.map((word) => make("bdi", { className: "chip", textContent: word.shown })),
      make("span", { className: "muted", textContent: `${percent(ref.share)} · ${ref.source} · ${ref.index}` }),
    );
    return option;
  }

  option(address, value) {
    const option = make("li", {});
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", "false");
    option.dataset.address = address;
    option.dataset.value = value;
    return option;
  }

  show(hits, text) {
    this.list.dataset.of = text;
    const several = new Set(hits.map((hit) => hit.model)).size > 1;
    const refs = new Map(hits.flatMap((hit) => hit.best).map((ref) => [ref.id, ref]));
    const options =
      this.kind === "feature"
        ? [...refs.values()].slice(0, 12).map((ref) => this.featureOption(ref))
        : hits.map((hit) => this.tokenOption(hit, several));
    options.forEach((option, place) => {
      option.id = `${this.list.id}-${place}`;
    });
    this.list.replaceChildren(...options);
    this.chosen = -1;
    this.input.removeAttribute("aria-activedescendant");
    this.list.hidden = options.length === 0;
    this.input.setAttribute("aria-expanded", String(options.length > 0));
    const what = this.kind === "feature" ? "features" : "tokens";
    this.said.textContent = options.length ? `${options.length} ${what}` : `No ${what} for it`;
  }

  close() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.list.hidden = true;
    this.chosen = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  move(step) {
    const options = [...this.list.children];
    this.chosen = (this.chosen + step + options.length + (this.chosen < 0 && step < 0 ? 1 : 0)) % options.length;
    options.forEach((option, place) => option.setAttribute("aria-selected", String(place === this.chosen)));
    options[this.chosen].scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", options[this.chosen].id);
  }

  key(event) {
    if (this.list.hidden) {
      if (event.key === "ArrowDown" && this.input.value.trim()) this.ask();
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) this.move(step);
    else if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && this.chosen >= 0) this.choose(this.list.children[this.chosen]);
    else return;
    event.preventDefault();
  }

  choose(option) {
    this.close();
    if (this.kind === "open") location.assign(option.dataset.address);
    else {
      this.input.value = option.dataset.value;
      this.input.dispatchEvent(new Event("change", { bubbles: true }));
    }
  }
}

// fields that are added later (further interventions) are taken up when they get the focus
const started = new WeakSet();
const start = (input) => {
  if (started.has(input)) return;
  started.add(input);
  new Completion(input);
};
document.querySelectorAll("input[data-complete]").forEach(start);
document.addEventListener("focusin", (event) => {
  if (event.target.matches("input[data-complete]")) start(event.target);
});

// Suggests tokens while one is typed: a combobox with a list (WAI-ARIA 1.2). An input with data-complete="open"
// opens the chosen token's page, one with data-complete="fill" takes its spelling; data-model names the field
// that says which model's tokens are meant.

const WAIT = 90;
let count = 0;

const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

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
    if (!text.trim() || text.includes("/")) return this.close();
    this.asked = new AbortController();
    const model = this.input.form?.elements[this.input.dataset.model]?.value;
    const query = new URLSearchParams({ q: text, limit: 10, ...(model ? { model } : {}) });
    try {
      const answer = await fetch(`/search.json?${query}`, { signal: this.asked.signal });
      if (answer.ok && document.activeElement === this.input) this.show((await answer.json()).tokens, text);
    } catch (error) {
      if (error.name !== "AbortError") this.close();
    }
  }

  show(hits, text) {
    this.list.dataset.of = text;
    const several = new Set(hits.map((hit) => hit.model)).size > 1;
    this.list.replaceChildren(
      ...hits.map((hit, place) => {
        const option = make("li", { id: `${this.list.id}-${place}` });
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.dataset.address = `/tokens/${hit.model}/${hit.token.id}`;
        option.dataset.shown = hit.token.shown;
        const features = `${hit.n_features} ${hit.n_features === 1 ? "feature" : "features"}`;
        option.append(
          make("bdi", { className: "chip", textContent: hit.token.shown }),
          make("span", {
            className: hit.n_features ? "muted" : "none",
            textContent: `${hit.n_features ? features : "no feature"} · ${hit.count.toLocaleString("en")}×${several ? ` · ${hit.model}` : ""}`,
          }),
        );
        return option;
      }),
    );
    this.chosen = -1;
    this.input.removeAttribute("aria-activedescendant");
    this.list.hidden = hits.length === 0;
    this.input.setAttribute("aria-expanded", String(hits.length > 0));
    this.said.textContent = hits.length ? `${hits.length} tokens` : "No token is spelled so";
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
    if (this.input.dataset.complete === "open") location.assign(option.dataset.address);
    else {
      this.input.value = option.dataset.shown;
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

// Shows the events of a steer: the generated text, the effect on the next token, the whole run and its controls.

import { heat } from "./heat.js";

const at = (id) => document.getElementById(id);
const make = (tag, given = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), given);
  e.append(...children);
  return e;
};

export const share = (p) => (p > 0 && p < 1e-7 ? "< 0.00001 %" : `${(100 * p).toPrecision(3)} %`);
const times = (mode, strength) =>
  mode === "ablate"
    ? "ablated"
    : `${mode === "add" ? "" : `${mode} `}${strength > 0 ? "+" : ""}${strength.toFixed(2)}×`;
const cell = (content, numeric = false) => make("td", { className: numeric ? "num" : "" }, content);

/** A link to a feature that shows a token: the one that it is to change. */
export function chip(feature, token) {
  return make("a", {
    className: "chip",
    href: `/${feature.id}`,
    textContent: token.shown,
    title: `${feature.id} · token ${token.id} · ${feature.verdict}`,
  });
}

/** What a feature is called: its relation and first word; where none could be chosen, its nearest anchor. */
function called(feature) {
  const [token] = feature.relation ? feature.words : [feature.name];
  return [make("small", { textContent: feature.relation ?? "anchor" }), " ", chip(feature, token)];
}

const place = (feature) => `${feature.source} · ${feature.index}`;
const DIRECTIONS = {
  feature: "a feature",
  row: "its row of the token look-up",
  embedding: "its raw embedding",
  jacobian: "its direction by the Jacobian lens",
};

/** The token that each feature is judged on, how sure that is, and what else there is for a token. */
export function showResolved(resolved) {
  const items = resolved
    .filter((one) => one.token)
    .map(({ feature, by, token, sure, stronger, others }) => {
      const more = others
        .slice(0, 6)
        .flatMap((other) => [" ", make("a", { href: `/${other.id}`, textContent: place(other) })]);
      const rest = others.length > 6 ? ` and ${others.length - 6} more` : "";
      const above = stronger.slice(0, 3).flatMap((one) => [
        " ",
        make("a", {
          href: `/steer?model=${encodeURIComponent(one.feature.model)}&feature=${one.feature.id}`,
          textContent: `${DIRECTIONS[one.kind]}, layer ${one.layer} (${share(one.rise)})`,
        }),
      ]);
      const link = make("a", { href: `/${feature.id}`, textContent: place(feature) });
      if (by === "id") return make("li", {}, link, " is judged on ", chip(feature, token), `. ${sure}`);
      return make(
        "li",
        {},
        "For ",
        chip(feature, token),
        " ",
        link,
        ` was selected. ${sure}`,
        above.length ? " Stronger by the same measure, and can be added instead:" : "",
        ...above,
        above.length ? "." : "",
        others.length ? " Others:" : "",
        ...more,
        rest,
      );
    });
  at("meant").replaceChildren(...items);
  at("meant").hidden = items.length === 0;
}

/** Appends one token to a row; its alternatives are on hover. */
export function addToken(id, generated) {
  if (!generated) return;
  const others = (generated.top ?? [])
    .map((t) => `${t.shown} ${Math.exp(t.score).toPrecision(2)}`)
    .join(", ");
  const { shown, id: token } = generated.token;
  const title = `${shown} · token ${token} · p ${Math.exp(generated.logprob).toPrecision(3)}`;
  const alternatives = others ? `\nmost likely: ${others}` : "";
  at(id).append(make("span", { textContent: generated.text, title: title + alternatives }));
}

export function showEffect({ kl_first, effects }) {
  at("effect")
    .querySelector("tbody")
    .replaceChildren(
      ...effects.map((e) =>
        make(
          "tr",
          {},
          cell(chip(e.feature, e.token)),
          cell(`${e.feature.source} · ${e.feature.index}`),
          cell(times(e.mode, e.strength)),
          cell(share(e.probability_default), true),
          cell(share(e.probability_steered), true),
          cell(e.rank_default.toLocaleString("en"), true),
          cell(e.rank_steered.toLocaleString("en"), true),
        ),
      ),
    );
  at("kl").textContent = `KL(steered ‖ default) at this position: ${kl_first.toFixed(3)} nats.`;
  at("effect").hidden = false;
}

const KINDS = {
  embedding: "raw embedding of the token",
  random: "random feature of similar density",
  plain: "nearest feature of the plain dictionary",
};

/** The verdict on the effect, above the texts: in colour, in words, and with what chance would give. */
function showVerdict({ named, controls }) {
  const judged = named.filter((one) => one.beats_controls !== null);
  const found = judged.filter((one) => one.beats_controls).map((one) => one.token.shown);
  const not = judged.filter((one) => !one.beats_controls).map((one) => one.token.shown);
  const n = controls.length;
  const kind = !judged.length || !n ? "untested" : not.length ? "none" : "specific";
  const heads = { untested: "Not judged", none: "No effect", specific: "Effect" };
  const words = [];
  if (kind === "untested") words.push("Without controls, this is no evidence of an effect.");
  if (n && found.length)
    words.push(`${found.join(", ")}: changes in the direction requested, more than under each of the ${n} controls.`);
  if (n && not.length) words.push(`${not.join(", ")}: does not change more than under every control.`);
  if (kind !== "untested")
    words.push(
      `${n} ${n === 1 ? "control" : "controls"}: a direction no better than they are beats all of them ` +
        `in 1 of ${n + 1} cases (${Math.round(100 / (n + 1))} %).`,
    );
  at("beats").replaceChildren(
    make("span", { className: `badge is-${kind}`, textContent: heads[kind] }),
    ` ${words.join(" ")}`,
  );
  at("beats").className = `judgement is-${kind}`;
  at("beats").hidden = false;
}

function colourByKl(kl) {
  const top = Math.max(...kl, 1e-9);
  const spans = [...at("steered-text").querySelectorAll("span:not(.prompt)")];
  spans.forEach((span, i) => {
    if (kl[i] === undefined) return;
    span.classList.add(...heat(kl[i] / top));
    span.title += `\nKL ${kl[i].toFixed(3)} nats`;
  });
  at("kl-top").textContent = top.toFixed(2);
  at("kl-legend").hidden = false;
}

function showChanges(id, list) {
  at(id).replaceChildren(
    ...list.map((m) =>
      make(
        "li",
        {},
        make("span", { className: "num", textContent: `${m.default.toFixed(2)} → ${m.steered.toFixed(2)}` }),
        " ",
        ...called(m),
        " ",
        make("span", {
          className: `badge is-${m.verdict}`,
          textContent: m.verdict,
        }),
      ),
    ),
  );
}

export function showMeasured(event) {
  colourByKl(event.kl);
  showVerdict(event);
  const head = make(
    "tr",
    {},
    make("th", { scope: "col", textContent: "Row" }),
    ...event.named.map((n) => make("th", { scope: "col", className: "num" }, chip(n.feature, n.token))),
    make("th", { scope: "col", className: "num", textContent: "KL, nats" }),
  );
  const row = (label, values, kl, strong = false) =>
    make(
      "tr",
      { className: strong ? "own" : "" },
      make("th", { scope: "row" }, ...label),
      ...values.map((p) => cell(share(p), true)),
      cell(kl === null ? "–" : kl.toFixed(3), true),
    );
  at("controls").querySelector("thead").replaceChildren(head);
  at("controls")
    .querySelector("tbody")
    .replaceChildren(
      row(
        ["default"],
        event.named.map((n) => n.probability_default),
        null,
      ),
      row(
        ["steered"],
        event.named.map((n) => n.probability_steered),
        event.kl_default_text,
        true,
      ),
      ...event.controls.map((c) =>
        row(
          [`control: ${KINDS[c.kind]}`, ...c.features.flatMap((f) => [" ", ...called(f)])],
          c.named.map((n) => n.probability),
          c.kl,
        ),
      ),
    );
  const missing = event.controls_missing.length
    ? ` Controls not made: ${event.controls_missing.join("; ")}.`
    : "";
  at("run-words").textContent =
    `Mean KL over the steered text ${event.kl_mean.toFixed(3)} nats. Perplexity under the unsteered model: ` +
    `default text ${event.perplexity_default.toFixed(1)}, ` +
    `steered text ${event.perplexity_steered.toFixed(1)}.${missing}`;
  showChanges("rose", event.rose);
  showChanges("fell", event.fell);
  at("moved").hidden = !event.rose.length && !event.fell.length;
  at("moved-words").textContent = event.moved_source
    ? "Mean activations of other features over the default text, in the default and in the steered model, " +
      `measured with ${event.moved_source}.`
    : "";
  at("measured").hidden = false;
}

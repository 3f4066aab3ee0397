// A dose-response curve: the probability of the names, KL and perplexity by strength, as drawings and as a table.

import { chip, share } from "./steer_report.js";

const at = (id) => document.getElementById(id);
const W = 320,
  H = 190,
  LEFT = 82,
  BOTTOM = 34,
  TOP = 12,
  RIGHT = 10;

function svg(tag, given, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

const text = (x, y, words, given = {}) => svg("text", { x, y, ...given }, words);
const short = (v) =>
  v !== 0 && (Math.abs(v) < 0.001 || Math.abs(v) >= 10000)
    ? v.toExponential(0)
    : String(Number(v.toPrecision(2)));

const percent = (p) => (p === 0 ? "0 %" : share(p));

/** Draws `lines` ({name, values}) over the sorted strengths. Bands: typical from 0.5×, off-manifold beyond 1×. */
function drawCurve(title, strengths, lines, { sweet, bands, log = false, controls = [], note = "", say = short }) {
  const scale = log ? (v) => Math.log10(Math.max(v, 1e-12)) : (v) => v;
  const all = [...lines, ...controls].flatMap((line) => line.values).map(scale);
  const low = log ? Math.min(...all) : Math.min(0, ...all),
    high = Math.max(...all, low + 1e-9);
  const [first, last] = [strengths[0], strengths.at(-1)];
  const x = (s) => LEFT + ((s - first) / (last - first || 1)) * (W - LEFT - RIGHT);
  const y = (v) => H - BOTTOM - ((scale(v) - low) / (high - low)) * (H - TOP - BOTTOM);
  const drawing = svg("svg", {
    viewBox: `0 0 ${W} ${H}`,
    class: "curve",
    role: "img",
    "aria-label": `${title} by strength; the numbers are in the table below`,
  });
  const band = (a, b, name) => {
    if (b > a)
      drawing.append(
        svg("rect", { x: x(a), width: x(b) - x(a), y: TOP, height: H - TOP - BOTTOM, class: name }),
      );
  };
  if (bands) {
    band(Math.max(first, 0.5), Math.min(last, 1), "typical");
    band(Math.max(first, -1), Math.min(last, -0.5), "typical");
    band(Math.max(first, 1), last, "off");
    band(first, Math.min(last, -1), "off");
  }
  if (sweet !== null)
    drawing.append(svg("line", { x1: x(sweet), x2: x(sweet), y1: TOP, y2: H - BOTTOM, class: "sweet" }));
  for (const control of controls) {
    const points = strengths.map((s, j) => `${x(s)},${y(control.values[j])}`).join(" ");
    drawing.append(svg("polyline", { points, class: "control" }, svg("title", {}, control.name)));
  }
  lines.forEach((line, i) => {
    drawing.append(
      svg("polyline", {
        points: line.values.map((v, j) => `${x(strengths[j])},${y(v)}`).join(" "),
        class: `line l${i % 4}`,
      }),
    );
    line.values.forEach((v, j) =>
      drawing.append(
        svg(
          "circle",
          { cx: x(strengths[j]), cy: y(v), r: 3.5, class: `l${i % 4}` },
          svg("title", {}, `${line.name}: ${say(v)} at ${strengths[j]}×`),
        ),
      ),
    );
  });
  const unscaled = (v) => (log ? 10 ** v : v);
  drawing.append(
    svg("path", { d: `M${LEFT},${TOP}V${H - BOTTOM}H${W - RIGHT}`, class: "axes" }),
    text(LEFT - 6, H - BOTTOM + 4, say(unscaled(low)), { "text-anchor": "end" }),
    text(LEFT - 6, TOP + 8, say(unscaled(high)), { "text-anchor": "end" }),
    text(LEFT, H - 12, `${first}×`),
    text(W - RIGHT, H - 12, `${last}×`, { "text-anchor": "end" }),
    text((W + LEFT) / 2, H - 12, "strength", { "text-anchor": "middle" }),
  );
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  figure.append(caption, drawing);
  if (note) figure.append(Object.assign(document.createElement("p"), { className: "note", textContent: note }));
  return figure;
}

const CONTROLS = { embedding: "raw embedding", random: "random feature", plain: "nearest plain feature" };

/** The probability of each name under each control, over the strengths; at the default, the default's. */
function controlLines(points, names) {
  const [widest] = points.toSorted((a, b) => b.controls.length - a.controls.length);
  return widest.controls.flatMap((control, number) =>
    names.map((token, i) => ({
      name: `control, ${CONTROLS[control.kind]}: ${token.shown}`,
      values: points.map((p) =>
        p.controls.length ? p.controls[number].probabilities[i] : p.named[i].probability,
      ),
    })),
  );
}

/** [class, heading, words]: what the curve says of the effect; without controls it says nothing of it. */
function sweepVerdict(curve) {
  const judged = curve.points.filter((p) => p.beats_controls !== null);
  const found = judged.filter((p) => p.beats_controls);
  const n = Math.max(...curve.points.map((p) => p.controls.length));
  if (!judged.length) return ["untested", "Not judged", "Without controls, a curve is no evidence of an effect."];
  const chance = `A direction no better than the ${n} controls beats all of them in 1 of ${n + 1} cases at a strength.`;
  if (!found.length)
    return ["none", "No effect", `At no strength does every name change more than under every control. ${chance}`];
  const places = found.map((p) => `${p.strength}×`).join(", ");
  return ["specific", "Effect", `At ${places} every name changes more than under every control. ${chance}`];
}

export function showSweep(curve) {
  const points = [...curve.points, curve.default].sort((a, b) => a.strength - b.strength);
  const strengths = points.map((p) => p.strength);
  const how = { sweet: curve.sweet_spot, bands: curve.unit === "norm" };
  const names = curve.default.named.map((n) => n.token);
  at("curves").replaceChildren(
    drawCurve(
      `Probability of ${names.map((token) => token.shown).join(", ")} over the run`,
      strengths,
      names.map((token, i) => ({ name: token.shown, values: points.map((p) => p.named[i].probability) })),
      {
        ...how,
        controls: controlLines(points, names),
        say: percent,
        note: points.some((p) => p.controls.length) ? "Thin and dashed: the controls." : "",
      },
    ),
    drawCurve(
      "KL from default, nats a token",
      strengths,
      [{ name: "KL", values: points.map((p) => p.kl) }],
      how,
    ),
    drawCurve(
      "Perplexity under the unsteered model",
      strengths,
      [{ name: "perplexity", values: points.map((p) => p.perplexity) }],
      { ...how, log: true },
    ),
  );
  at("doses")
    .querySelector("tbody")
    .replaceChildren(
      ...points.map((p) => {
        const row = document.createElement("tr");
        if (p.strength === curve.sweet_spot && p !== curve.default) row.className = "own";
        const values = [
          `${p.strength}×`,
          p.named.map((n) => share(n.probability_first)).join(" / "),
          p.named.map((n) => share(n.probability)).join(" / "),
          p.controls.length
            ? p.named.map((_, i) => share(Math.max(...p.controls.map((c) => c.probabilities[i])))).join(" / ")
            : "–",
          p.kl.toFixed(3),
          p.perplexity.toFixed(1),
          p.distinct.toFixed(2),
          p.text,
        ];
        row.append(
          ...values.map((v, i) =>
            Object.assign(document.createElement("td"), { textContent: v, className: i < 7 ? "num" : "" }),
          ),
        );
        return row;
      }),
    );
  const [kind, head, words] = sweepVerdict(curve);
  const badge = Object.assign(document.createElement("span"), { className: `badge is-${kind}`, textContent: head });
  at("beats").replaceChildren(badge, ` ${words}`);
  at("beats").className = `judgement is-${kind}`;
  at("beats").hidden = false;
  const place = [
    "Sweet spot: ",
    Object.assign(document.createElement("b"), { textContent: `${curve.sweet_spot}×` }),
    " for ",
    ...curve.default.named.map((n) => chip(n.feature, n.token)),
    ".",
  ];
  at("sweet").replaceChildren(
    ...(curve.sweet_spot === null
      ? ["No sweet spot: no strength changes the names that way, beyond the controls, with the text intact."]
      : place),
    how.bands ? " Shaded: usual from ±0.5×, darker: off-manifold beyond ±1×." : "",
  );
  at("rule").textContent = curve.rule;
  at("swept").hidden = false;
}

// Draws each <figure data-chart> with Plotly from the JSON in it, in the colours of the theme.
// The fallback (a table or an SVG) is hidden only after the drawing has succeeded.

const root = document.documentElement;
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];

function colour(name) {
  // light-dark() in a custom property is resolved only when another property uses it.
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.color = `var(--${name})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** Lines have different markers, so that they differ not only by colour. */
function withMarker(trace, i) {
  if (trace.type && trace.type !== "scatter") return trace;
  return { ...trace, marker: { symbol: SYMBOLS[i % SYMBOLS.length], size: 9, ...trace.marker } };
}

function themed(layout) {
  const [ink, line, panel] = ["ink", "line", "panel"].map(colour);
  const out = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
  delete out.template;
  delete out.width;
  out.font = { family: getComputedStyle(document.body).fontFamily, size: 14, color: ink };
  out.colorway = ["partial", "weak", "specific", "none", "dead"].map((v) => colour(`v-${v}`));
  out.hoverlabel = { bgcolor: panel, bordercolor: line, font: { color: ink, size: 14 } };
  out.margin = { l: 56, r: 16, t: layout.title ? 44 : 16, b: 48, ...(layout.margin ?? {}) };
  out.legend = { ...layout.legend, orientation: "h", x: 0, y: 1.04, yanchor: "bottom" };
  for (const key of Object.keys(layout).concat("xaxis", "yaxis")) {
    if (/^[xy]axis\d*$/.test(key)) {
      out[key] = {
        automargin: true,
        ...layout[key],
        gridcolor: line,
        linecolor: line,
        zerolinecolor: line,
        tickfont: { size: 14, color: ink },
      };
    }
  }
  return out;
}

async function draw(figure) {
  const plot = figure.querySelector(".plot");
  const { data, layout = {} } = JSON.parse(figure.querySelector("script").textContent);
  plot.hidden = false;
  await window.Plotly.react(plot, data.map(withMarker), themed(layout), {
    displayModeBar: false,
    responsive: true,
  });
  const fallback = figure.querySelector(".fallback");
  if (fallback) fallback.hidden = true;
}

async function drawAll() {
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    try {
      await draw(figure);
    } catch (error) {
      figure.querySelector(".plot").hidden = true;
      console.warn(`chart ${figure.dataset.chart} was not drawn:`, error);
    }
  }
}

// Plotly's deferred script may run before or after this module.
if (window.Plotly) drawAll();
else
  addEventListener("load", () => {
    if (window.Plotly) drawAll();
  });
root.addEventListener("themechange", () => {
  if (window.Plotly) drawAll();
});

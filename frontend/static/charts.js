// Charts are drawn by the server. A button opens one in Plotly, to zoom, read values and export it; Plotly is loaded by
// the first that is opened. A click on a point opens the page of what is behind it, in both drawings.

const PLOTLY = "/static/vendor/plotly-basic.min.js";
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "hexagon", "line-ew"];
const DASHES = ["solid", "8px 5px", "2px 3px", "7px 3px 2px 3px", "12px 4px"]; // as in the stylesheet
const root = document.documentElement;
const make = (tag, given = {}) => Object.assign(document.createElement(tag), given);
let loading = null;

function plotly() {
  loading ??= new Promise((resolve, reject) => {
    // Plotly would write style elements, which the site's policy refuses; lexiscope.css has the rules it needs.
    document.head.append(make("meta", { id: "plotly.js-style-global", className: "no-inline-styles" }));
    const script = make("script", { src: PLOTLY });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => {
      loading = null;
      script.remove();
      reject(new Error(`${PLOTLY} could not be loaded`));
    });
    document.head.append(script);
  });
  return loading;
}

function colour(name) {
  // light-dark() in a custom property is resolved only when another property uses it.
  const probe = document.body.appendChild(make("span"));
  probe.style.color = `var(--${name})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function trace(series, kind) {
  const shade = colour(`series${series.style % SYMBOLS.length}`);
  const own = { name: series.label, x: series.x, y: series.y, customdata: series.href, text: series.words };
  own.hovertemplate = "%{text}<extra></extra>";
  if (kind === "bars")
    return { ...own, type: "bar", width: series.width, textposition: "none", marker: { color: shade } };
  const markers = series.x.length <= 40;
  return {
    ...own,
    type: "scatter",
    mode: markers ? "lines+markers" : "lines",
    line: { color: shade, width: 2, dash: DASHES[series.style % DASHES.length] },
    marker: { color: shade, size: 9, symbol: SYMBOLS[series.style % SYMBOLS.length] },
  };
}

function axis(given, lines) {
  const [ink, line] = [colour("ink"), colour("line")];
  return {
    title: { text: given.label },
    range: [given.low, given.high],
    tickvals: given.ticks.map(([value]) => value),
    ticktext: given.ticks.map(([, text]) => text),
    showgrid: lines,
    gridcolor: line,
    linecolor: line,
    zeroline: false,
    automargin: true,
    tickfont: { size: 14, color: ink },
  };
}

async function draw(figure) {
  const { kind, x, y, series } = JSON.parse(figure.querySelector("script").textContent);
  const library = await plotly();
  const plot = figure.querySelector(".plot");
  const touch = matchMedia("(pointer: coarse)").matches; // there a drag scrolls the page
  plot.hidden = false;
  figure.querySelector(".drawing").setAttribute("hidden", "");
  await library.react(
    plot,
    series.map((one) => trace(one, kind)),
    {
      autosize: true,
      dragmode: touch ? false : "zoom",
      showlegend: series.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 14, color: colour("ink") },
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("ink"), size: 14 } },
      margin: { l: 56, r: 16, t: 16, b: 48 },
      xaxis: axis(x, false),
      yaxis: axis(y, true),
    },
    { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" },
  );
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", ({ points: [point] }) => {
    if (point.customdata) location.assign(point.customdata);
  });
}

/** The table as CSV, a field in quotation marks where it needs them. */
function csv(figure) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [...figure.querySelectorAll(".numbers tr")]
    .map((row) => [...row.cells].map((cell) => quoted(cell.textContent.trim())).join(","))
    .join("\n");
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: address, download: name }).click();
  URL.revokeObjectURL(address);
}

async function image(figure, format) {
  const library = await plotly();
  const plot = figure.querySelector(".plot");
  const ground = { paper_bgcolor: colour("panel"), plot_bgcolor: colour("panel") };
  const drawn = { data: plot.data, layout: { ...plot.layout, ...ground }, config: {} };
  await library.downloadImage(drawn, { format, width: 900, height: 500, filename: figure.dataset.chart });
}

function close(figure) {
  const plot = figure.querySelector(".plot");
  window.Plotly.purge(plot);
  plot.hidden = true;
  figure.querySelector(".drawing").removeAttribute("hidden");
}

function addTools(figure) {
  const tools = figure.querySelector(".tools");
  const button = (textContent) => make("button", { type: "button", textContent });
  const open = button("Zoom and export");
  const [reset, png, svg, table, shut] = ["Reset zoom", "PNG", "SVG", "CSV", "Close"].map(button);
  const opened = [reset, png, svg, table, shut];
  const said = make("span", { className: "muted" });
  said.setAttribute("role", "status");
  const show = (yes) => {
    open.hidden = yes;
    for (const one of opened) one.hidden = !yes;
  };
  open.addEventListener("click", async () => {
    said.textContent = "Loading …";
    try {
      await draw(figure);
      show(true);
      said.textContent = "";
      reset.focus();
    } catch (error) {
      said.textContent = `The chart was not opened: ${error.message}.`;
    }
  });
  reset.addEventListener("click", () => draw(figure));
  png.addEventListener("click", () => image(figure, "png"));
  svg.addEventListener("click", () => image(figure, "svg"));
  table.addEventListener("click", () => save(`${figure.dataset.chart}.csv`, csv(figure)));
  shut.addEventListener("click", () => {
    close(figure);
    show(false);
    open.focus();
  });
  show(false);
  tools.prepend(open, ...opened, said);
}

const figures = [...document.querySelectorAll("figure[data-chart]")];
figures.forEach(addTools);
root.addEventListener("themechange", () => {
  for (const figure of figures) if (!figure.querySelector(".plot").hidden) draw(figure);
});

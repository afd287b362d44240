"use strict";
// The plots: the library is decompressed and draws them in the colours of the page.
const TOKENS = ["--ground", "--panel", "--ink", "--quiet", "--line", "--bar", "--track",
  "--strong", "--shade", "--shade-2", "--heat-1", "--heat-2"];

function readColors() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(TOKENS.map((name) => [name, style.getPropertyValue(name).trim()]));
}

// A copy of plain data with CSS variables replaced by their current colours.
function colored(value, colors) {
  if (typeof value === "string") return Object.hasOwn(colors, value) ? colors[value] : value;
  if (Array.isArray(value)) return value.map((item) => colored(item, colors));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, colored(item, colors)]));
}

function laidOut(layout, colors) {
  const axis = { gridcolor: colors["--line"], zerolinecolor: colors["--line"], zeroline: false,
    linecolor: colors["--line"], tickfont: { color: colors["--quiet"] }, fixedrange: true,
    automargin: true };
  const family = getComputedStyle(document.body).fontFamily;
  const result = {
    autosize: true, height: 320, dragmode: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family, size: 12, color: colors["--ink"] },
    hoverlabel: { bgcolor: colors["--panel"], bordercolor: colors["--line"], align: "left",
      font: { family, size: 12, color: colors["--ink"] }, namelength: 30 },
    legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: 11 } },
    ...layout,
    margin: { l: 52, r: 14, t: 12, b: 46, ...layout.margin },
  };
  for (const key of ["xaxis", "yaxis", "yaxis2"]) {
    const given = layout[key];
    if (!given) continue;
    const title = given.title && { font: { color: colors["--quiet"], size: 12 }, standoff: 8,
      ...given.title };
    const tickfont = { ...axis.tickfont, ...given.tickfont };
    result[key] = { ...axis, ...given, tickfont, ...(title && { title }) };
  }
  return result;
}

// Traces for the chosen class: only its own, or its own in front.
function chosenTraces(figure, name) {
  if (figure.choose === "only") {
    return figure.data.map((trace) => ({ ...trace, visible: trace.meta === name }));
  }
  if (figure.choose !== "highlight" || !name) return figure.data;
  const few = figure.layout.showlegend;
  return figure.data.map((trace) => trace.meta === name
    ? { ...trace, opacity: 1, line: { color: few ? trace.line.color : "--strong", width: 3 } }
    : { ...trace, opacity: 0.25 });
}

function draw(only) {
  const colors = readColors();
  const name = byId("class")?.value ?? "";
  for (const place of all("[data-figure]")) {
    const figure = report.figures[place.dataset.figure];
    if (only && !figure.choose) continue;
    const traces = colored(chosenTraces(figure, name), colors);
    const layout = laidOut(colored(figure.layout, colors), colors);
    Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
  }
}

async function unpackPlotly() {
  const store = byId("plotly");
  const bytes = Uint8Array.from(atob(store.textContent), (letter) => letter.charCodeAt(0));
  store.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function startPlots() {
  try {
    await unpackPlotly();
    draw();
  } catch (error) {
    const failed = byId("failed");
    failed.textContent = `The plots could not be drawn (${error.message}); a browser of 2023 `
      + "or later can. The tables have the numbers.";
    failed.hidden = false;
    return;
  }
  document.documentElement.dataset.plots = "drawn";
  byId("class")?.addEventListener("change", () => draw(true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  // In print the plots are dark on light in either colour scheme.
  for (const [name, paper] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(name, () => {
      document.documentElement.classList.toggle("paper", paper);
      draw();
    });
  }
}

// The page is shown before the plots are drawn.
requestAnimationFrame(() => setTimeout(startPlots));

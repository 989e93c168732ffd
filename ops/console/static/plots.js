// Draws the plots of the page. All that they show stands on the page in words and tables too; without this, nothing is lost.
"use strict";
(() => {
  const WRITE = {
    count: (value) => value.toLocaleString("en"),
    duration: (seconds) => {
      for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
        if (seconds >= length) return `${+(seconds / length).toFixed(1)} ${unit}`;
      }
      return `${+seconds.toFixed(1)} s`;
    },
    size: (bytes) => {
      let unit = 0;
      while (bytes >= 1000 && unit < 4) { bytes /= 1000; unit += 1; }
      return `${+bytes.toFixed(1)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
    },
  };
  // Lengths of time fall on whole seconds, minutes, hours and days.
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400, 172800, 432000, 864000];
  const HEIGHT = 150;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw(place) {
    const data = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    const write = WRITE[data.unit];
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--plot-grid"), width: 1 }, ticks: { show: false }, font };
    const bars = data.form === "bars";
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    const plot = new uPlot({
      width: place.clientWidth,
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { y: false, drag: { setScale: false } },
      legend: { show: false },
      padding: [8, 14, 0, 0],
      scales: { x: { range: () => [Number(place.dataset.from), Number(place.dataset.to)] }, y: { range: (_, least, most) => [0, Math.max(most * 1.08, 1)] } },
      axes: [
        { ...axis, size: 26, space: 70, values: (_, at) => at.map((each) => new Date(each * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" })), incrs: [86400, 172800, 432000, 604800, 864000, 1209600, 2592000] },
        { ...axis, size: 56, space: 32, values: (_, at) => at.map((each) => write(each)), ...(data.unit === "duration" ? { incrs: STEPS } : data.unit === "count" ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000] } : {}) },
      ],
      series: [
        {},
        {
          label: data.label,
          stroke: colour("--plot"),
          fill: bars ? colour("--plot") : colour("--plot-ground"),
          width: bars ? 0 : 1.5,
          paths: bars ? uPlot.paths.bars({ size: [0.7, 14, 2] }) : undefined,
          points: { show: !bars && data.at.length < 40, size: 4 },
        },
      ],
      hooks: {
        setCursor: [(of) => {
          const at = of.cursor.idx;
          tip.hidden = at === null || at === undefined;
          if (!tip.hidden) {
            const when = new Date(data.at[at] * 1000).toISOString().slice(0, 16).replace("T", " ");
            tip.textContent = `${when}: ${write(data.values[at])}`;
          }
        }],
      },
    }, [data.at, data.values], place);
    plot.over.append(tip);
    const canvas = plot.ctx.canvas;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${data.label}, as a plot. The table below has the same.`);
    return plot;
  }

  const places = [...document.querySelectorAll("[data-plot]")];
  let drawn = [];
  function drawAll() {
    for (const plot of drawn) plot.destroy();
    drawn = places.map(draw);
  }
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    drawn.forEach((plot, index) => plot.setSize({ width: places[index].clientWidth, height: HEIGHT }));
  });
})();

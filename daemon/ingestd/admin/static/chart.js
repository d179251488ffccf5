// Draws the chart from its own table, so that picture and numbers cannot differ.
"use strict";
(() => {
  // uPlot takes 30 and 365 days for a month and a year, and then steps by the calendar.
  const MINUTE = 60, HOUR = 3600, DAY = 86400, MONTH = 30 * DAY, YEAR = 365 * DAY;
  let plot = null, shape = "", numbers = "", shown = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function read() {
    const table = document.getElementById("chart-table");
    if (!table) return null;
    const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
    const columns = [[], ...names.map(() => [])];
    const labels = [];
    for (const row of table.tBodies[0].rows) {
      labels.push(row.cells[0].textContent);
      columns[0].push(Number(row.cells[0].dataset.at));
      names.forEach((_, i) => {
        const text = row.cells[i + 1].dataset.value;
        columns[i + 1].push(text === "" ? null : Number(text));
      });
    }
    return { names, columns, labels, zone: table.dataset.zone, step: Number(table.dataset.step) };
  }

  function short(value) {
    const size = Math.abs(value);
    for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= limit) return +(value / (unit === "k" ? 1e3 : limit)).toPrecision(3) + unit;
    }
    return value.toLocaleString("en", { maximumFractionDigits: 2 });
  }

  function ticks(zone) {
    const form = (options) => {
      const format = new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options });
      return (at) => format.format(new Date(at * 1000));
    };
    const year = form({ year: "numeric" }), month = form({ month: "short", year: "numeric" });
    const day = form({ day: "numeric", month: "short" }), time = form({ hour: "2-digit", minute: "2-digit" });
    return (_, splits, __, ___, step) => splits.map((at) => {
      if (step >= YEAR) return year(at);
      if (step >= MONTH) return month(at);
      if (step >= DAY) return day(at);
      return time(at) === "00:00" ? day(at) : time(at);
    });
  }

  function fade(self, colour) {
    const shade = self.ctx.createLinearGradient(0, self.bbox.top, 0, self.bbox.top + self.bbox.height);
    shade.addColorStop(0, colour + "38");
    shade.addColorStop(1, colour + "00");
    return shade;
  }

  function options(data, host) {
    const faint = css("--line"), ink = css("--dim");
    const font = "12px " + getComputedStyle(document.body).fontFamily;
    const axis = { stroke: ink, font, ticks: { show: false }, grid: { stroke: faint, width: 1 } };
    const only = data.names.length === 1;
    return {
      width: host.clientWidth,
      height: host.clientHeight,
      padding: [10, 20, 0, 0],
      legend: { show: false },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), data.zone),
      cursor: {
        drag: { x: false, y: false },
        y: false,
        points: { size: 7, width: 2, fill: css("--card") },
      },
      scales: { y: { range: (_, low, high) => span(low, high) } },
      axes: [
        { ...axis, grid: { show: false }, space: 64, size: 30, values: ticks(data.zone),
          incrs: [MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR,
            DAY, 2 * DAY, 3 * DAY, 7 * DAY, 14 * DAY, MONTH, 2 * MONTH, 3 * MONTH, 6 * MONTH, YEAR, 2 * YEAR, 5 * YEAR] },
        { ...axis, size: 44, space: 40, values: (_, splits) => splits.map(short) },
      ],
      series: [{}, ...data.names.map((name, i) => {
        const colour = css("--s" + i);
        return { label: name, stroke: colour, width: 2, spanGaps: false, points: { show: data.labels.length < 3 },
          fill: only ? (self) => fade(self, colour) : undefined };
      })],
      hooks: { setCursor: [(self) => { shown = self.cursor.idx ?? null; tell(data); }] },
    };
  }

  function span(low, high) {
    if (low === null || high === null) return [0, 1];
    if (low === high) return low === 0 ? [0, 1] : [Math.min(0, low), Math.max(0, high * 1.1)];
    const room = (high - low) * 0.06;
    // Zero belongs in the picture unless the values are far away from it.
    const near = low > 0 && low / high < 0.6;
    return [low >= 0 ? (near ? 0 : low - room) : low - room, high + room];
  }

  function tell(data) {
    const at = shown ?? data.labels.length - 1;
    const label = document.getElementById("chart-at");
    if (label) label.textContent = data.labels[at] ?? "";
    for (const place of document.querySelectorAll("#chart-legend [data-series]")) {
      const value = data.columns[Number(place.dataset.series) + 1]?.[at];
      place.textContent = value === null || value === undefined ? "–" : short(value);
    }
  }

  function draw() {
    const host = document.getElementById("plot"), data = read();
    if (!host || !data || !window.uPlot || !host.clientWidth) return;
    const newShape = JSON.stringify([data.names, data.zone, data.step, css("--s0"), css("--line")]);
    const newNumbers = JSON.stringify(data.columns);
    if (!plot || plot.root.parentNode !== host || newShape !== shape) {
      plot?.destroy();
      host.replaceChildren();
      plot = new uPlot(options(data, host), data.columns, host);
    } else if (newNumbers !== numbers) {
      plot.setData(data.columns);
    }
    shape = newShape;
    numbers = newNumbers;
    tell(data);
  }

  function fit() {
    const host = document.getElementById("plot");
    if (plot && host?.clientWidth) plot.setSize({ width: host.clientWidth, height: host.clientHeight });
  }

  document.addEventListener("ingestd:drawn", draw);
  document.addEventListener("ingestd:theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("resize", fit);
  draw();
})();

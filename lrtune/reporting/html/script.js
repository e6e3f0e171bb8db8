"use strict";
(function () {
  const root = document.documentElement;
  const held = (id) => JSON.parse(document.getElementById(id).textContent);
  const narrow = window.matchMedia("(max-width: 820px)");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

  // --- light and dark
  function isDark() { return root.dataset.theme === "dark"; }
  function inks() {
    return isDark()
      ? { ink: "#c9ced7", grid: "rgba(160,170,190,0.16)", hover: "#262b33", hoverInk: "#e6e8ec", rule: "#49505c", card: "rgba(27,30,36,0.8)" }
      : { ink: "#3d4450", grid: "rgba(128,136,150,0.22)", hover: "#ffffff", hoverInk: "#1d2129", rule: "#d4d7dd", card: "rgba(255,255,255,0.8)" };
  }
  function setTheme(dark) {
    root.dataset.theme = dark ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) button.textContent = dark ? "Light" : "Dark";
    for (const figure of drawn) recolour(figure);
  }

  // --- figures, drawn when they come into sight
  const drawn = new Set();
  function themed(layout) {
    const c = inks(), changed = { "font.color": c.ink, "hoverlabel.bgcolor": c.hover, "hoverlabel.font.color": c.hoverInk,
      "hoverlabel.bordercolor": c.rule };
    (layout.annotations || []).forEach(function (note, index) {
      if (note.name === "tick") changed["annotations[" + index + "].bgcolor"] = c.card;
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        changed[key + ".gridcolor"] = c.grid; changed[key + ".linecolor"] = c.grid; changed[key + ".tickcolor"] = c.grid;
      }
    }
    return changed;
  }
  function recolour(element) { Plotly.relayout(element, themed(element.layout)); }
  function buttons(element, layout) {
    // plotly's own buttons cannot be read on a dark page
    const bar = document.createElement("div");
    bar.className = "choices";
    for (const menu of layout.updatemenus || []) {
      const group = document.createElement("div");
      group.setAttribute("role", "group");
      menu.buttons.forEach(function (choice, index) {
        const button = document.createElement("button");
        button.type = "button"; button.textContent = choice.label;
        button.setAttribute("aria-pressed", String(index === 0));
        button.addEventListener("click", function () {
          for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
          Plotly[choice.method].apply(Plotly, [element].concat(choice.args));
        });
        group.appendChild(button);
      });
      bar.appendChild(group);
    }
    if (bar.children.length) {
      element.before(bar);
      layout.margin = Object.assign({}, layout.margin, { t: 12 });
    }
    delete layout.updatemenus;
  }
  const glyphs = { "circle": "\u25cf", "circle-open": "\u25cb", "diamond-open": "\u25c7", "x-thin": "\u00d7", "triangle-up": "\u25b2",
    "square-open": "\u25a1", "star": "\u2605", "hexagon-open": "\u2b21", "cross-thin": "+" };
  function legend(element, figure) {
    // plotly's own legend takes half of a phone
    const named = figure.data.map((trace, index) => [trace, index]).filter(([trace]) => trace.name && trace.showlegend !== false);
    if (figure.layout.showlegend === false || named.length < 2) return;
    const bar = document.createElement("div");
    bar.className = "legend";
    for (const [trace, index] of named) {
      const button = document.createElement("button"), mark = document.createElement("span"), line = trace.line || {};
      const isLine = trace.mode === "lines";
      mark.textContent = isLine ? (line.dash === "dash" ? "- -" : line.dash === "dot" ? "\u00b7\u00b7\u00b7" : "\u2501")
        : trace.type === "bar" ? "\u25a0" : glyphs[(trace.marker || {}).symbol] || "\u25cf";
      const colour = isLine ? line.color : (trace.marker || {}).color || line.color;
      mark.style.color = colour === "#3d4450" ? "inherit" : colour;
      const name = document.createElement("span");
      name.textContent = trace.name.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
      button.type = "button"; button.append(mark, name);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", function () {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        Plotly.restyle(element, { visible: on }, [index]);
      });
      bar.appendChild(button);
    }
    element.before(bar);
    figure.layout.showlegend = false;
  }
  function draw(element) {
    if (drawn.has(element)) return;
    const figure = held(element.dataset.source);
    const layout = figure.layout;
    buttons(element, layout);
    legend(element, figure);
    if (narrow.matches) {
      layout.dragmode = false;
      layout.margin = Object.assign({}, layout.margin, { l: 44, r: 8 });
      for (const key of Object.keys(layout)) {
        if (/^[xy]axis\d*$/.test(key)) layout[key].tickfont = { size: 10 };
        if (/^xaxis\d*$/.test(key) && layout[key].ticktext) layout[key].tickangle = layout[key].side === "top" ? -30 : 0;
      }
      if (element.dataset.source === "figure-slices") element.classList.add("squeezed");
      for (const trace of figure.data) {
        const bar = (trace.marker && trace.marker.colorbar) || trace.colorbar;
        if (bar) { bar.thickness = 7; bar.title = { text: "" }; bar.tickfont = { size: 9 }; }
      }
    }
    const config = { responsive: true, displaylogo: false, displayModeBar: narrow.matches ? false : "hover", showLink: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      toImageButtonOptions: { format: "svg", filename: element.dataset.source } };
    drawn.add(element);
    Plotly.newPlot(element, figure.data, layout, config).then(function () { recolour(element); });
  }
  const figures = Array.from(document.querySelectorAll(".figure"));
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver(function (entries) {
      for (const entry of entries) if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "500px 0px" });
    figures.forEach((element) => watch.observe(element));
  } else { figures.forEach(draw); }
  window.addEventListener("beforeprint", function () { setTheme(false); figures.forEach(draw); });

  setTheme(prefersDark.matches);
  prefersDark.addEventListener("change", (event) => setTheme(event.matches));
  document.getElementById("theme").addEventListener("click", () => setTheme(!isDark()));

  // --- lines to paste
  const tabs = Array.from(document.querySelectorAll(".paste [role=tab]"));
  tabs.forEach((tab) => tab.addEventListener("click", function () {
    tabs.forEach(function (other) {
      other.setAttribute("aria-selected", String(other === tab));
      document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
    });
  }));
  const copy = document.getElementById("copy");
  if (copy) copy.addEventListener("click", function () {
    const shown = document.querySelector(".paste pre:not([hidden])");
    const done = () => { copy.textContent = "Copied"; setTimeout(() => { copy.textContent = "Copy"; }, 1500); };
    const byHand = function () {
      const range = document.createRange(); range.selectNodeContents(shown);
      const selection = window.getSelection(); selection.removeAllRanges(); selection.addRange(range);
      if (document.execCommand("copy")) done();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(shown.textContent).then(done, byHand); else byHand();
  });

  // --- the table of trials
  const table = held("trials-data");
  const body = document.querySelector("#trials tbody"), head = document.querySelector("#trials thead");
  const count = document.getElementById("count"), where = document.getElementById("where");
  const size = 50;
  const columns = table.columns.map(function (column) {
    return column.words ? column.values.map((index) => (index < 0 ? null : column.words[index])) : column.values;
  });
  const haystack = columns[0].map((_, row) => columns.map((c) => (c[row] === null ? "" : String(c[row]))).join("\u0001").toLowerCase());
  const outcome = table.columns.findIndex((column) => column.name === "outcome");
  let order = columns[0].map((_, row) => row), shown = order, sorted = -1, ascending = true, page = 0;

  function told(column, value) {
    if (value === null) return "";
    if (column.name === "outcome") return value.replace(/_/g, " ");
    if (!column.numeric || typeof value !== "number") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2).replace("e+", "e");
  }
  function render() {
    const pages = Math.max(1, Math.ceil(shown.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = document.createDocumentFragment();
    for (const row of shown.slice(page * size, (page + 1) * size)) {
      const tr = document.createElement("tr");
      if (columns[0][row] === table.best) tr.className = "best";
      table.columns.forEach(function (column, index) {
        if (!column.shown) return;
        const td = document.createElement("td");
        td.textContent = told(column, columns[index][row]);
        td.className = column.numeric ? "n" : column.long ? "text" : "";
        if (column.hint >= 0) td.title = columns[column.hint][row] || "";
        tr.appendChild(td);
      });
      rows.appendChild(tr);
    }
    body.replaceChildren(rows);
    count.textContent = shown.length === order.length ? order.length + " trials" : shown.length + " of " + order.length + " trials";
    where.textContent = "page " + (page + 1) + " of " + pages;
  }
  function compare(a, b) {
    const column = columns[sorted], x = column[a], y = column[b];
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
    const less = x < y ? -1 : x > y ? 1 : 0;
    return (ascending ? less : -less) || a - b;
  }
  function refresh() {
    const wanted = document.getElementById("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const only = document.getElementById("only").value;
    shown = order.filter((row) => wanted.every((word) => haystack[row].includes(word)) && (!only || columns[outcome][row] === only));
    if (sorted >= 0) shown = shown.slice().sort(compare);
    page = 0; render();
  }
  const line = document.createElement("tr");
  table.columns.forEach(function (column, index) {
    if (!column.shown) return;
    const th = document.createElement("th"), button = document.createElement("button");
    if (column.numeric) th.className = "n";
    button.type = "button"; button.textContent = column.label;
    button.addEventListener("click", function () {
      ascending = sorted === index ? !ascending : true; sorted = index;
      for (const other of line.children) other.removeAttribute("aria-sort");
      line.querySelectorAll("button").forEach((other) => { other.textContent = other.textContent.replace(/ [\u2191\u2193]$/, ""); });
      th.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      button.textContent = column.label + (ascending ? " \u2191" : " \u2193");
      refresh();
    });
    th.appendChild(button); line.appendChild(th);
  });
  head.appendChild(line);
  const only = document.getElementById("only");
  Array.from(new Set(columns[outcome])).sort().forEach(function (word) {
    const option = document.createElement("option"); option.value = word; option.textContent = word.replace(/_/g, " "); only.appendChild(option);
  });
  document.getElementById("filter").addEventListener("input", refresh);
  only.addEventListener("change", refresh);
  document.getElementById("before").addEventListener("click", () => { page -= 1; render(); });
  document.getElementById("after").addEventListener("click", () => { page += 1; render(); });
  document.getElementById("csv").addEventListener("click", function () {
    // A cell that begins like a formula gets an apostrophe, so that no spreadsheet runs it.
    const cell = function (value) {
      if (value === null) return "";
      let text = String(value);
      if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
      return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
    };
    const lines = [table.columns.map((column) => cell(column.name)).join(",")];
    for (const row of shown) lines.push(columns.map((column) => cell(column[row])).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = "trials.csv"; document.body.appendChild(link); link.click(); link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  render();
})();

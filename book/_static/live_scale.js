// The part "scale": move λ, and read the scores of a model and what it replies there. Data are of tuningvec/page/live.py.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARKERS = {
    o: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    s: "M-3.5-3.5h7v7h-7z",
    D: "M0-5L4.5 0L0 5L-4.5 0z",
    "^": "M0-5L4.7 3.5H-4.7z",
    v: "M0 5L4.7-3.5H-4.7z",
    P: "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "*": "M0-5.4L1.5-1.6L5.2-1.6L2.2 .7L3.4 4.6L0 2.2L-3.4 4.6L-2.2 .7L-5.2-1.6L-1.5-1.6z",
  };

  // `θ_ft` with its name lowered
  const symbols = (text) =>
    text.split(/_(\w+)/).map((part, at) => (at % 2 ? element("sub", {}, part) : document.createTextNode(part)));

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function mark(line, x, y, large) {
    const shape = MARKERS[line.marker] || MARKERS.o;
    const place = `translate(${x} ${y}) scale(${large ? 1.35 : 1})`;
    return drawn("path", { d: shape, transform: place, class: "dot" });
  }

  const number = (value) => String(value).replace("-", "−");

  function chart(panel, data, width, at) {
    const height = 260, left = 38, right = 14, top = 12, bottom = 40;
    const low = Math.min(...panel.scales), span = Math.max(...panel.scales) - low || 1;
    const inner = width - left - right - 24;
    const x = (scale) => left + 12 + ((scale - low) / span) * inner;
    const y = (score) => top + (1 - score / 100) * (height - top - bottom);
    const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.setAttribute("aria-label", "Scores in percent of items against λ; the table has the values at the λ chosen");
    for (const score of [0, 25, 50, 75, 100]) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: y(score), y2: y(score), class: "grid" }));
      svg.append(drawn("text", { x: left - 7, y: y(score) + 4, "text-anchor": "end" }, String(score)));
    }
    for (const scale of panel.scales) {
      const label = drawn("text", { x: x(scale), y: height - bottom + 18, "text-anchor": "middle" }, number(scale));
      svg.append(label);
    }
    const title = drawn("text", { x: left + 12 + inner / 2, y: height - 6, "text-anchor": "middle" });
    title.append(`λ of ${data.symbol}`.replace(/_(\w+)/g, ""));
    if (data.symbol.includes("_")) lowered(title, `λ of ${data.symbol}`);
    svg.append(title);
    if (data.mark !== null && panel.scales.includes(data.mark)) {
      svg.append(drawn("line", { x1: x(data.mark), x2: x(data.mark), y1: top, y2: height - bottom, class: "one" }));
    }
    const here = x(panel.scales[at]);
    svg.append(drawn("line", { x1: here, x2: here, y1: top, y2: height - bottom, class: "here" }));
    panel.lines.forEach((line, n) => {
      const aside = (n - (panel.lines.length - 1) / 2) * 2;
      const group = drawn("g", { class: `line colour-${line.colour}${line.dashed ? " dashed" : ""}` });
      const points = line.at.map(([score], i) => `${x(panel.scales[i]) + aside},${y(score)}`);
      group.append(drawn("polyline", { points: points.join(" ") }));
      line.at.forEach(([score, from, to], i) => {
        const place = x(panel.scales[i]) + aside;
        if (from !== null) group.append(drawn("line", { x1: place, x2: place, y1: y(from), y2: y(to), class: i === at ? "bar at" : "bar" }));
        group.append(mark(line, place, y(score), i === at));
      });
      svg.append(group);
    });
    return svg;
  }

  // The same in a drawing, where a lowered name is a shifted span
  function lowered(text, words) {
    text.textContent = "";
    words.split(/_(\w+)/).forEach((part, at) => {
      const span = drawn("tspan", at % 2 ? { dy: 3, "font-size": "75%" } : at ? { dy: -3 } : {}, part);
      text.append(span);
    });
  }

  function swatch(line) {
    const group = drawn("g", { class: `line colour-${line.colour}${line.dashed ? " dashed" : ""}` });
    group.append(drawn("line", { x1: 0, x2: 28, y1: 7, y2: 7, class: "stroke" }), mark(line, 14, 7, false));
    return drawn("svg", { width: 28, height: 14, viewBox: "0 0 28 14", "aria-hidden": "true" }, group);
  }

  function scores(panel, at) {
    const head = element("tr", {}, element("th", { scope: "col" }, "score"));
    head.append(element("th", { scope: "col" }, "% (95 % interval)"));
    const body = element("tbody");
    for (const line of panel.lines) {
      const name = element("th", { scope: "row" }, swatch(line), " ", line.name);
      body.append(element("tr", {}, name, element("td", {}, line.said[at])));
    }
    return [element("thead", {}, head), body];
  }

  function judged(panel, values) {
    const list = element("ul", { class: "judged" });
    panel.judged.forEach((what, i) => {
      const value = values[i];
      if (value === null) return;
      const word = value === 100 ? "yes" : value === 0 ? "no" : `${value} %`;
      list.append(element("li", { class: value === 100 ? "yes" : "no" }, `${what}: `, element("strong", {}, word)));
    });
    return list;
  }

  function replies(panel, item, at) {
    const said = item.replies[at];
    const same = said.length > 1 && said.every((one) => String(one) === String(said[0]));
    return (same ? said.slice(0, 1) : said).flatMap(([text, ...values], i) => {
      const name = same ? "Reply, one and the same of all" : panel.series[i] ? `Reply of ${panel.series[i]}` : "Reply";
      const quote = element("blockquote", { class: "reply" }, text);
      return [element("p", { class: "label" }, name), quote, judged(panel, values)];
    });
  }

  function field(label, control) {
    return element("label", {}, element("span", {}, label), control);
  }

  function choice(names) {
    const select = element("select");
    names.forEach((name, value) => select.append(element("option", { value }, name)));
    return select;
  }

  const short = (text) => {
    const line = text.replace(/^Question:\s*/, "").split("\n")[0];
    return line.length > 60 ? `${line.slice(0, 60)}…` : line;
  };

  function fill(root, data) {
    const panels = choice(data.panels.map((panel) => panel.title));
    const items = choice([]);
    const slider = element("input", { type: "range", step: 1, min: 0 });
    const shown = element("output", { class: "lambda" });
    const picture = element("div", { class: "chart" });
    const table = element("table", { class: "scores" });
    const asked = element("div", { class: "asked" });
    const replied = element("div", { class: "replied", "aria-live": "polite" });
    const note = element("p", { class: "note" });
    const symbol = element("span", {}, "λ of ", ...symbols(data.symbol));
    const label = element("label", { class: "slider" }, symbol, slider, shown);
    const sides = element("div", { class: "sides" }, picture, table);
    root.append(
      element("p", { class: "title" }, "Move λ"),
      element("div", { class: "controls" }, field(data.chosen, panels), field("item", items)),
      sides,
      label,
      element("div", { class: "exchange" }, asked, replied),
      note,
    );
    const panel = () => data.panels[panels.value];

    function draw() {
      const width = Math.min(560, Math.floor(picture.clientWidth) || 320);
      picture.replaceChildren(chart(panel(), data, width, Number(slider.value)));
    }

    function moved() {
      const at = Number(slider.value);
      shown.textContent = number(panel().scales[at]);
      slider.setAttribute("aria-valuetext", `λ = ${number(panel().scales[at])}`);
      draw();
      table.replaceChildren(...scores(panel(), at));
      const item = panel().items[items.value];
      if (item) replied.replaceChildren(...replies(panel(), item, at));
    }

    function asking() {
      const item = panel().items[items.value];
      if (!item) return;
      asked.replaceChildren(
        element("p", { class: "label" }, "Question"),
        element("div", { class: "question" }, item.question.replace(/^Question:\s*/, "")),
        element("p", { class: "label" }, "Right answer"),
        element("div", { class: "question" }, item.answer),
      );
      moved();
    }

    function picked() {
      const scale = panel().scales[slider.value];
      slider.max = panel().scales.length - 1;
      slider.value = Math.max(0, panel().scales.indexOf(scale));
      items.replaceChildren(...choice(panel().items.map((one) => `${one.item}: ${short(one.question)}`)).childNodes);
      items.value = "0";
      note.textContent =
        `${panel().items.length} of ${panel().of} items, those first on which “${panel().judged[0]}” changes along λ. ` +
        "Thin bars are 95 % intervals; λ takes the values that were measured.";
      asking();
    }

    panels.addEventListener("change", picked);
    items.addEventListener("change", asking);
    slider.addEventListener("input", moved);
    slider.value = 0;
    picked();
    new ResizeObserver(draw).observe(picture);
  }

  for (const root of document.querySelectorAll('.live[data-part="scale"]')) {
    const data = JSON.parse(root.querySelector("script").textContent);
    if (!data.panels.length) continue;
    root.classList.add("filled", "mathjax_ignore", "tex2jax_ignore");
    fill(root, data);
  }
})();

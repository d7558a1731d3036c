// The part "map": a cell a layer and kind of matrix; the one pointed at tells its numbers. Data are of tuningvec/page/live.py.
(() => {
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // `W_Q` with its name lowered
  const symbols = (text) =>
    text.split(/_([^\s_]+)/).filter(Boolean).map((part, at) => (at % 2 ? element("sub", {}, part) : part));

  const plain = (text) => text.replaceAll("_", " ");

  // The image of the figure that the part stands for gives way; its number and caption stay.
  function placed(root, name) {
    const figure = document.getElementById(name.replace(/[^a-z0-9]+/gi, "-").toLowerCase());
    const image = figure && figure.querySelector("img, svg, object");
    if (!image) return;
    const whole = image.closest("a, picture") || image;
    whole.classList.add("given-way");
    const output = root.closest(".cell_output");
    whole.after(root);
    if (output && !output.textContent.trim() && !output.querySelector("img, svg")) output.remove();
  }

  function choices(names, chosen) {
    const group = element("fieldset", { class: "choices" }, element("legend", {}, "vector"));
    const set = `vectors-${Math.random().toString(36).slice(2)}`;
    for (const name of names) {
      const button = element("input", { type: "radio", name: set, value: name });
      button.checked = name === names[0];
      button.addEventListener("change", () => chosen(name));
      group.append(element("label", {}, button, element("span", {}, name)));
    }
    return group;
  }

  const words = (data, vector, layer, kind, cell) => {
    const where = `${vector}, layer ${data.layers[layer]}, ${plain(data.kinds[kind])}`;
    if (!cell) return `${where}: unchanged`;
    return `${where}: ${data.said.map((label, i) => `${plain(label)} ${cell[i + 1]}`).join(", ")}`;
  };

  function told(data, vector, layer, kind, cell) {
    const where = element("strong", {}, `${vector}, layer ${data.layers[layer]}, `, ...symbols(data.kinds[kind]));
    const list = element("dl");
    (cell ? data.said : []).forEach((label, i) => {
      list.append(element("div", {}, element("dt", {}, ...symbols(label)), element("dd", {}, cell[i + 1])));
    });
    return [where, cell ? list : " is unchanged"];
  }

  function rows(data) {
    const head = element("div", { role: "row", class: "head" }, element("span", { role: "columnheader" }, "layer"));
    for (const kind of data.kinds) head.append(element("span", { role: "columnheader" }, ...symbols(kind)));
    const every = Math.ceil(data.layers.length / 16);
    const made = data.layers.map((layer, at) => {
      const name = at % every ? "" : String(layer);
      const row = element("div", { role: "row" }, element("span", { role: "rowheader", "aria-label": `layer ${layer}` }, name));
      data.kinds.forEach((_, kind) => {
        row.append(element("span", { role: "gridcell", tabindex: -1, "data-layer": at, "data-kind": kind }));
      });
      return row;
    });
    return [head, ...made];
  }

  function moved(event, layer, kind, data) {
    const last = { layer: data.layers.length - 1, kind: data.kinds.length - 1 };
    const to = {
      ArrowUp: [layer - 1, kind],
      ArrowDown: [layer + 1, kind],
      ArrowLeft: [layer, kind - 1],
      ArrowRight: [layer, kind + 1],
      Home: [event.ctrlKey ? 0 : layer, 0],
      End: [event.ctrlKey ? last.layer : layer, last.kind],
      PageUp: [layer - 5, kind],
      PageDown: [layer + 5, kind],
    }[event.key];
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return to && [within(to[0], last.layer), within(to[1], last.kind)];
  }

  // What the colours mean
  function key(colours) {
    const list = element("div", { class: "key" });
    for (const [value, colour] of colours) {
      const swatch = element("i");
      swatch.style.background = colour;
      list.append(element("span", {}, swatch, value));
    }
    return list;
  }

  function fill(root, data) {
    const names = Object.keys(data.cells);
    const size = data.layers.length > 32 ? "dense" : data.layers.length > 12 ? "" : "few";
    let vector = names[0];
    let at = [0, 0];
    const grid = element("div", { role: "grid", class: size }, ...rows(data));
    grid.style.setProperty("--kinds", data.kinds.length);
    const status = element("div", { class: "told", role: "status" });
    const note = element("p", { class: "note" }, "Point at a cell, tap it, or move with the arrow keys.");
    const cells = [...grid.querySelectorAll('[role="gridcell"]')];
    const where = (cell) => [Number(cell.dataset.layer), Number(cell.dataset.kind)];
    const cellAt = ([layer, kind]) => cells[layer * data.kinds.length + kind];

    function select(to, focus = false) {
      cellAt(at).tabIndex = -1;
      cellAt(at).removeAttribute("aria-selected");
      at = to;
      cellAt(at).tabIndex = 0;
      cellAt(at).setAttribute("aria-selected", "true");
      if (focus) cellAt(at).focus();
      status.replaceChildren(...told(data, vector, ...at, data.cells[vector][at[0]][at[1]]));
    }

    function painted(name) {
      vector = name;
      grid.setAttribute("aria-label", `${plain(data.said[0])} of ${name} by layer and kind of matrix`);
      for (const cell of cells) {
        const [layer, kind] = where(cell);
        const known = data.cells[vector][layer][kind];
        cell.style.background = known ? known[0] : "";
        cell.setAttribute("aria-label", words(data, vector, layer, kind, known));
      }
      select(at);
    }

    grid.addEventListener("keydown", (event) => {
      const to = moved(event, ...at, data);
      if (!to) return;
      event.preventDefault();
      select(to, true);
    });
    for (const kind of ["pointerover", "click", "focusin"]) {
      grid.addEventListener(kind, (event) => {
        const cell = event.target.closest('[role="gridcell"]');
        if (cell) select(where(cell), kind === "click");
      });
    }
    if (names.length > 1) root.append(choices(names, painted));
    root.append(grid, key(data.key), status, note);
    painted(vector);
  }

  for (const root of document.querySelectorAll('.live[data-part="map"]')) {
    const data = JSON.parse(root.querySelector("script").textContent);
    if (!data.layers.length) continue;
    root.classList.add("filled", "mathjax_ignore", "tex2jax_ignore");
    fill(root, data);
    placed(root, data.figure);
  }
})();

"use strict";
// The audit with other numbers in Tables 4, 5, 6 and 15: the closed forms of tuningvec/paper/closed.py, from inlined
// data. `tuningvecAudit` is pure and runs in node, too; what follows it fills the page.
(() => {
  const ATTENTION = ["W_Q", "W_K", "W_V", "W_O"];
  const MLP = ["W_gate", "W_up", "W_down"];
  const KINDS = [...ATTENTION, ...MLP];
  const NUMBER = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d{1,2}))?$/i;

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const mean = (values) => sum(values) / values.length;

  // A printed text: its value and one unit of its last digit; null where it is no number.
  function parse(text) {
    const found = NUMBER.exec(text.trim());
    if (!found) return null;
    const [, , decimals = "", power = "0"] = found;
    return { value: Number(text), step: Number(`1e${Number(power) - decimals.length}`) };
  }

  // What a cell of a table may hold: in words, or nothing where the text is allowed.
  function wrong(table, text) {
    const cell = parse(text);
    if (!cell) return "is no number such as 0.75 or 1.51e4";
    if (!(cell.value > 0)) return "is not above 0";
    if (table === "4" && cell.value > 1) return "is a share, and above 1";
    if (table === "15" && cell.value >= 100) return "is a cosine times 100, and not below 100";
    return "";
  }

  function energies(cells, { limits }) {
    return Object.entries(cells[4]).flatMap(([vector, row]) => KINDS.map((kind) => {
      const SSA = row[kind].value, par = cells[5][vector][kind], perp = cells[6][vector][kind];
      const implied = par.value * (1 / SSA - 1);
      return {
        vector, kind, SSA, E_par: par.value, E_perp: perp.value, step: par.step + perp.step, implied,
        squared: par.value / (par.value + perp.value), norms: par.value / Math.hypot(par.value, perp.value),
        misprint: Math.abs(Math.log(perp.value / implied)) > Math.log(limits.misprint),
      };
    }));
  }

  function shapes(cells, { vectors }) {
    return Object.entries(vectors).flatMap(([vector, { layers, shapes }]) => KINDS.map((kind) => {
      const [rows, columns] = shapes[kind], { value: SSA, step } = cells[4][vector][kind];
      const bound = Math.min(1, columns / rows), tall = bound < 1, k = Math.min(columns, rows / 2);
      const variance = tall ? 2 * k * (rows - k) / (rows ** 2 * (rows + 2)) : NaN;
      const sd = Math.sqrt(variance / layers);
      return {
        vector, kind, SSA, step, bound, sd, z: (SSA - step / 2 - bound) / sd,
        excess: tall ? (SSA - bound) / (1 - bound) : NaN,
      };
    }));
  }

  function cosines(cells) {
    const length = (cosine) => Math.sqrt(cosine ** -2 - 1);
    return Object.entries(cells[15]).flatMap(([pretrained, row]) => Object.entries(row).map(([member, cell]) => {
      const [low, cosine, high] = [-1, 0, 1].map((shift) => (cell.value + shift * cell.step / 2) / 100);
      const angle = Math.acos(cosine) * 180 / Math.PI;
      return { pretrained, member, cosine, angle, r: length(cosine), r_low: length(high), r_high: length(low) };
    }));
  }

  function lengths(found, turns, { vectors }) {
    const rows = Object.entries(vectors).map(([vector, { layers, pretrained }]) => {
      const own = found.filter((cell) => cell.vector === vector);
      const energy = sum(own.map((cell) => cell.E_par + (cell.misprint ? cell.implied : cell.E_perp)));
      return { vector, pretrained, layers, energy, norm: Math.sqrt(layers * energy), rounding: sum(own.map((c) => c.step)) / 2 };
    });
    return rows.map((row) => {
      const turn = turns.find((t) => rows.some((o) => o.vector === t.member && o.pretrained === row.pretrained));
      const ratio = row.norm / rows.find((other) => other.vector === turn.member).norm;
      const [r, r_low, r_high] = [turn.r, turn.r_low, turn.r_high].map((value) => value * ratio);
      const anchor = turn.member === row.vector;
      return { ...row, anchor, r, r_low, r_high, r_summed: anchor ? r : r / Math.sqrt(row.layers) };
    });
  }

  // tuningvec.verdict.judge: outcomes of cases with effect, low and high, and the kind and reason that follow.
  function judge(cases, least, direction) {
    const beyond = (c) => c.low > 0 || c.high < 0;
    const inside = (c) => c.low > -least && c.high < least;
    const outcomes = cases.map((c) => {
      if ([c.effect, c.low, c.high].some(Number.isNaN)) return "unknown";
      if (direction === 0) return inside(c) ? "for" : c.low > least || c.high < -least ? "against" : "open";
      if (beyond(c) && Math.abs(c.effect) >= least) return Math.sign(c.effect) === direction ? "for" : "against";
      return inside(c) ? "negligible" : "open";
    });
    const counts = new Map();
    outcomes.forEach((name) => counts.set(name, (counts.get(name) ?? 0) + 1));
    const total = cases.length, [on, against, small] = ["for", "against", "negligible"].map((n) => counts.get(n) ?? 0);
    if (counts.get("unknown") === total) return { kind: "cannot be known here", why: "no case could be measured" };
    if (on === total || against === total) {
      const kind = on ? "holds" : direction ? "reversed" : "differs";
      return { kind, why: total > 1 ? `${total} of ${total}` : "" };
    }
    if (on || against) {
      const order = [...counts].sort((a, b) => b[1] - a[1]);
      return { kind: "mixed", why: order.map(([name, n]) => `${n} of ${total} ${name}`).join(", ") };
    }
    if (small === total) {
      const clear = cases.filter(beyond).length;
      const more = clear ? `, though beyond chance in ${clear}` : "";
      return { kind: "null explains it", why: `within the smallest effect that matters in all ${total}${more}` };
    }
    return undecided(cases.filter((_, i) => outcomes[i] === "open"), total, small, beyond);
  }

  function undecided(left, total, small, beyond) {
    const unseen = left.filter((c) => !beyond(c));
    if (!left.length) return { kind: "cannot be known here", why: `${total - small} of ${total} could not be measured` };
    if (!unseen.length) {
      const why = `beyond chance in ${left.length} of ${total}, and not shown to be large enough to matter`;
      return { kind: "mixed", why };
    }
    const width = Math.max(...unseen.map((c) => (c.high - c.low) / 2)).toFixed(2);
    const others = small ? `${small} of ${total} negligible; in the others ` : "";
    return { kind: "within chance", why: `${others}a difference below ${width} could not have been seen` };
  }

  const JUDGES = {
    squared_norms({ energies }, { squared_norms: { least } }) {
      const [squared, norms] = ["squared", "norms"].map(
        (name) => energies.filter((cell) => Math.abs(cell[name] - cell.SSA) <= least).length);
      const numbers = { squared, norms, cells: energies.length };
      if (squared === norms) return { kind: "cannot be known here", why: "both readings fit as many cells", numbers };
      return { kind: norms > squared ? "holds" : "differs", why: "", numbers };
    },
    misprints({ energies }) {
      const total = energies.length, count = energies.filter((cell) => cell.misprint).length;
      const numbers = { total, count, agree: total - count };
      return { kind: count ? "differs" : "holds", why: `${total - count} of ${total}`, numbers };
    },
    least_aligned({ shapes }, { least_aligned: { sds, least } }, { unknown }) {
      const cases = shapes.filter((cell) => cell.bound < 1).map((c) => (
        { effect: c.excess, low: (c.z - sds) * c.sd / (1 - c.bound), high: c.SSA + c.step / 2 }));
      const numbers = { clear: cases.filter((c) => c.low > 0).length, cells: cases.length };
      return { ...noNull(judge(cases, least, -1), unknown), numbers };
    },
    attention_better_aligned({ shapes, vectors }, { attention_better_aligned: { least } }, { unknown }) {
      const parts = vectors.map(({ vector }) => {
        const of = (kinds, name) => mean(shapes.filter((c) => c.vector === vector && kinds.includes(c.kind)).map((c) => c[name]));
        return { gap: of(ATTENTION, "SSA") - of(MLP, "SSA"), shape: of(ATTENTION, "bound") - of(MLP, "bound") };
      });
      const cases = parts.map(({ gap, shape }) => ({ effect: gap, low: gap - shape, high: gap }));
      const numbers = { gap: parts.map((p) => p.gap), shape: parts.map((p) => p.shape) };
      return { ...noNull(judge(cases, least, 1), unknown), numbers };
    },
    is_minus_W({ shapes }, { is_minus_W: { least } }, { minusW }) {
      const part = [];
      const cases = minusW.map(({ vector, kind, predicted, low, high }) => {
        const { SSA, step, bound } = shapes.find((c) => c.vector === vector && c.kind === kind);
        part.push((predicted - bound) / (SSA - bound));
        const above = (value, null_) => (value - null_) / (1 - null_);
        return { effect: above(SSA, predicted), low: above(SSA - step / 2, high), high: above(SSA + step / 2, low) };
      });
      return { ...judge(cases, least, 0), numbers: { part } };
    },
    near_cosines({ cosines }, { near_cosines: { least } }) {
      const total = cosines.length, low = cosines.filter((c) => !(c.cosine >= least)).length;
      const kind = !low ? "null explains it" : low < total ? "mixed" : "differs";
      const r = cosines.flatMap((c) => [c.r_low, c.r_high]);
      const numbers = { cosine: cosines.map((c) => c.cosine), angle: cosines.map((c) => c.angle), r };
      return { kind, why: low ? `${low} of ${total} are not high` : "", numbers };
    },
    marginal_changes({ cosines }, { marginal_changes: { least } }) {
      const cases = cosines.map((c) => ({ effect: c.r, low: c.r_low, high: c.r_high }));
      return { ...judge(cases, least, 0), numbers: { r: cosines.map((c) => c.r) } };
    },
    marginal_changes_elsewhere({ vectors }, { marginal_changes_elsewhere: { least } }) {
      const others = vectors.filter((v) => !v.anchor);
      const cases = others.map((v) => ({ effect: v.r, low: v.r_low * v.r_summed / v.r, high: v.r_high }));
      const numbers = { r: others.map((v) => v.r), summed: others.map((v) => v.r_summed) };
      return { ...judge(cases, least, 0), numbers };
    },
    low_energy({ vectors }, { low_energy: { least } }) {
      const others = vectors.filter((v) => !v.anchor), ratio = [];
      const cases = others.map((other) => {
        const medical = vectors.find((v) => v.anchor && v.pretrained === other.pretrained);
        const over = (sign) => (other.energy + sign * other.rounding) / (medical.energy - sign * medical.rounding);
        ratio.push(over(0));
        return { effect: Math.log10(over(0)), low: Math.log10(over(-1)), high: Math.log10(over(1)) };
      });
      return { ...judge(cases, Math.log10(least), 1), numbers: { ratio, root: ratio.map(Math.sqrt) } };
    },
  };
  const noNull = (verdict, why) => verdict.kind === "within chance" ? { kind: "cannot be known here", why } : verdict;

  // Everything that follows from the cells, {table: {row: {column: {value, step}}}}.
  function audit(cells, data) {
    const found = { energies: energies(cells, data), shapes: shapes(cells, data), cosines: cosines(cells) };
    found.vectors = lengths(found.energies, found.cosines, data);
    const judged = Object.entries(JUDGES).map(([name, verdict]) => [name, verdict(found, data.limits, data)]);
    return { ...found, verdicts: Object.fromEntries(judged) };
  }

  const grouped = (text) => text.replace(/\B(?=(\d{3})+(?!\d))/g, ",");

  // tuningvec.page.text: a number with so many significant digits; by a format; and a template that names numbers.
  function number(value, digits) {
    if (Number.isNaN(value)) return "–";
    if (value !== 0 && !(Math.abs(value) >= 1e-4 && Math.abs(value) < 1e6)) {
      if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
      const [mantissa, power] = value.toExponential(digits - 1).split("e");
      const raised = String(Number(power)).replace(/[-\d]/g, (sign) => sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]);
      return `${mantissa}·10${raised}`.replace("-", "−");
    }
    const text = Math.abs(value) >= 10 ** digits ? grouped(value.toFixed(0)) : value.toPrecision(digits);
    return text.replace("-", "−");
  }

  function formatted(value, form) {
    if (Array.isArray(value)) {
      const known = value.filter((v) => !Number.isNaN(v));
      if (!known.length) return "–";
      const [low, high] = [Math.min(...known), Math.max(...known)].map((v) => formatted(v, form));
      return low === high ? low : `${low} to ${high}`;
    }
    const [, comma, digits, percent] = /^(,)?(?:\.(\d)(?:f|(%)))?$/.exec(form);
    const fixed = digits === undefined ? String(value) : (percent ? 100 * value : value).toFixed(Number(digits));
    const [whole, decimals] = fixed.split(".");
    const text = (comma ? grouped(whole) : whole) + (decimals ? `.${decimals}` : "") + (percent ?? "");
    return /[1-9]/.test(text) ? text.replace("-", "−") : text.replace("-", "");
  }

  const filled = (template, numbers) =>
    template.replace(/\{(\w+)(?::([^{}]*))?\}/g, (_, name, form) => formatted(numbers[name], form ?? ""));

  globalThis.tuningvecAudit = { parse, wrong, audit, number, formatted, filled };
  if (typeof document === "undefined") return;

  const SYMBOL = (name) => name.replace("W_", "");

  // The cells of a table's body by row and column.
  const grid = (name) => [...(document.querySelector(`table#${name}`)?.tBodies[0]?.rows ?? [])].map((row) => [...row.cells]);

  // What each cell of the tables below says, {table: [[row, column, text]]}.
  function shown({ energies, shapes, cosines, vectors }) {
    const range = (v) => `${formatted(v.r, ".3f")} (${formatted(v.r_low, ".3f")} to ${formatted(v.r_high, ".3f")})`;
    const tall = shapes.filter((cell) => cell.bound < 1);
    return {
      "tab-live-implied": energies.map((cell, i) => [
        Math.floor(i / KINDS.length), 1 + i % KINDS.length, number(cell.implied, 4) + (cell.misprint ? " ✗" : "")]),
      "tab-live-excess": tall.flatMap((cell, i) =>
        ["SSA", "bound", "z", "excess"].map((name, j) => [i, 2 + j, number(cell[name], 3)])),
      "tab-live-15": cosines.flatMap((cell, i) => [[i, 3, number(cell.angle, 3)], [i, 4, range(cell)]]),
      "tab-live-lengths": vectors.flatMap((v, i) => [
        [i, 1, number(v.energy, 3)], [i, 2, number(v.norm, 3)], [i, 3, range(v)], [i, 4, number(v.r_summed, 3)]]),
    };
  }

  // The inputs, one a printed number, by table, row and column in the paper's order: "6.3.5".
  function inputsOf(data) {
    const inputs = new Map();
    for (const [table, rows] of Object.entries(data.tables)) {
      const cells = grid(`tab-live-${table}`);
      let line = 0;
      Object.entries(rows).forEach(([row, columns], i) => {
        Object.entries(columns).forEach(([column, text], j) => {
          const cell = table === "15" ? cells[line++]?.[2] : cells[i]?.[1 + j];
          if (!cell) return;
          const input = document.createElement("input");
          input.inputMode = "decimal";
          input.size = 7;
          input.autocomplete = "off";
          input.value = text;
          cell.replaceChildren(input);
          inputs.set(`${table}.${i + 1}.${j + 1}`, { input, table, row, column, printed: text });
        });
      });
    }
    return inputs;
  }

  function mount(place) {
    const data = JSON.parse(place.querySelector("script").textContent);
    const inputs = inputsOf(data), outputs = new Map();
    if (!inputs.size) return;
    const say = document.createElement("p"), told = document.createElement("ul"), buttons = document.createElement("p");
    say.setAttribute("role", "status");
    told.setAttribute("role", "alert");
    place.append(say, buttons, told);
    const cell = place.closest(".cell"), output = place.closest(".cell_output");
    cell?.after(place); // beside the sections that it stays in sight of
    output?.remove();
    let notices = [];

    // Writes a cell that follows, and marks it where it is not as printed.
    function write(cell, text, html = text) {
      if (!cell) return false;
      if (!outputs.has(cell)) outputs.set(cell, { text: cell.textContent.trim(), html: cell.innerHTML });
      const own = outputs.get(cell), moved = own.text !== text;
      if (!moved) cell.innerHTML = own.html;
      else if (html === text) cell.textContent = text;
      else cell.innerHTML = html;
      cell.classList.toggle("moved", moved);
      return moved;
    }

    function draw(found) {
      for (const [name, cells] of Object.entries(shown(found))) {
        const body = grid(name);
        for (const [row, column, text] of cells) write(body[row]?.[column], text);
      }
      const body = grid("tab-live-verdicts");
      return Object.entries(data.says).filter(([name, says], i) => {
        const { kind, numbers } = found.verdicts[name];
        write(body[i]?.[2], filled(says, numbers));
        return write(body[i]?.[1], kind, `<span class="${data.colours[kind]}">${kind}</span>`);
      }).length;
    }

    function state({ input, table, row, column, printed }) {
      const text = input.value.trim(), fault = wrong(table, text), changed = text !== printed;
      const name = `Table ${table}, ${row}, ${SYMBOL(column)}`;
      input.classList.toggle("changed", changed);
      input.setAttribute("aria-invalid", String(Boolean(fault)));
      input.setAttribute("aria-label", changed ? `${name}, printed ${printed}` : name);
      input.title = changed ? `printed: ${printed}` : "";
      return { changed, text: fault ? printed : text, fault: fault && `${name}: “${text}” ${fault}. The printed ${printed} stands in for it.` };
    }

    function update() {
      const cells = {}, changed = [], faults = [];
      for (const [key, one] of inputs) {
        const now = state(one);
        ((cells[one.table] ??= {})[one.row] ??= {})[one.column] = parse(now.text);
        if (now.fault) faults.push(now.fault);
        else if (now.changed) changed.push(`${key}=${encodeURIComponent(now.text)}`);
      }
      const moved = draw(audit(cells, data)), total = Object.keys(data.says).length;
      const some = `${changed.length} number${changed.length === 1 ? " is" : "s are"} changed`;
      say.textContent = changed.length
        ? `${some}, and ${moved || "none"} of ${total} verdicts with ${changed.length === 1 ? "it" : "them"}.`
        : "No number is changed.";
      told.replaceChildren(...[...notices, ...faults].map((text) => Object.assign(document.createElement("li"), { textContent: text })));
      buttons.firstChild.disabled = !changed.length && !faults.length && !notices.length;
      return changed.join("&");
    }

    function edited() {
      notices = [];
      const address = update();
      history.replaceState(null, "", address ? `#${address}` : location.pathname + location.search);
    }

    function fill(texts) {
      for (const [key, { input, printed }] of inputs) input.value = texts.get(key) ?? printed;
    }

    // The cells that the address names; an address without any, such as that of a heading, leaves all as it is.
    function restore() {
      const parts = location.hash.slice(1).split("&").map((part) => /^(\d+\.\d+\.\d+)=(.*)$/.exec(part)).filter(Boolean);
      if (!parts.length) return update();
      const text = (part) => { try { return decodeURIComponent(part); } catch { return part; } };
      notices = parts.filter(([, key]) => !inputs.has(key)).map(([, key]) => `The address names a cell ${key}, which is not there.`);
      fill(new Map(parts.map(([, key, value]) => [key, text(value)])));
      return update();
    }

    function button(text, texts) {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      made.addEventListener("click", () => { fill(texts); edited(); });
      buttons.append(made, " ");
    }

    button("As printed", new Map());
    for (const [name, tables] of Object.entries(data.examples)) {
      const named = [...inputs].map(([key, one]) => [key, tables[one.table]?.[one.row]?.[one.column]]);
      button(`Try ${name}`, new Map(named.filter(([, text]) => text !== undefined)));
    }
    for (const { input } of inputs.values()) input.addEventListener("input", edited);
    window.addEventListener("hashchange", restore);
    restore();
  }

  document.querySelectorAll('.live[data-part="audit"]').forEach(mount);
})();

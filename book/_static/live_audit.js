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
})();

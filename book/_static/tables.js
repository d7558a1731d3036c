// Tables, figures, code and equations that are wider than their place: a wide table takes the room beside the text, and what still
// scrolls says so, to the eye by the classes `scrolls` and `more`, to the keyboard and to the ear by a stop and a name.
(() => {
  "use strict";
  const BOXES = ".bd-article :is(.pst-scrollable-table-container, figure, pre, div.math)";
  const KINDS = [["pre", "Code"], ["div.math", "Equation"], ["figure", "Figure"], ["*", "Table"]];
  const EDGE = 16; // pixels that stay free at the window's edge

  /** What scrolls in this place: the place itself, or of an equation MathJax's element, once there is one. */
  const scroller = (box) => (box.matches("div.math") ? box.querySelector("mjx-container") : box);

  /** The caption without its number's link, or the kind of thing. */
  const nameOf = (box) => {
    const said = [...box.querySelectorAll(":is(caption, figcaption > p) > :not(.headerlink)")].map((part) => part.textContent.trim());
    return said.join(" ") || KINDS.find(([kind]) => box.matches(kind))[1];
  };

  const mark = (box) => {
    const inner = scroller(box);
    if (!inner) return;
    const rest = inner.scrollWidth - inner.clientWidth;
    const over = inner.clientWidth > 0 && rest > 1;
    inner.classList.toggle("scrolls", over);
    inner.classList.toggle("more", over && inner.scrollLeft < rest - 1);
    if (!over) {
      for (const name of ["role", "aria-label", "tabindex"]) inner.removeAttribute(name);
      return;
    }
    inner.tabIndex = 0;
    if (!box.matches("figure")) inner.setAttribute("role", box.matches("pre") ? "group" : "region");
    inner.setAttribute("aria-label", `${nameOf(box)}, scrolls sideways`);
  };

  /** The room between the text and the window's right edge, which wide tables may take. */
  const measure = () => {
    const article = document.querySelector(".bd-article");
    const right = article.getBoundingClientRect().right - parseFloat(getComputedStyle(article).paddingRight);
    const beyond = Math.max(0, document.documentElement.clientWidth - EDGE - right);
    article.style.setProperty("--beyond", `${beyond}px`);
  };

  /** The page's contents fold up while a table lies under them, as the theme has it for what is in the margin. */
  const folding = () => {
    const contents = document.querySelector(".bd-sidebar-secondary");
    const under = new Set();
    return new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) under[isIntersecting ? "add" : "delete"](target);
        const wide = [...under].some((box) => box.offsetWidth > box.parentElement.clientWidth + 1);
        contents?.classList.toggle("hide", wide);
      },
      { rootMargin: "0px 0px -33% 0px" },
    );
  };

  /** How long the names in a table's first column are, which it takes where there is room; a formula is short. */
  const lengthen = (table) => {
    const cells = [...table.querySelectorAll("tr > :first-child")];
    const lengths = cells.map((cell) => (cell.querySelector(".math") ? 4 : cell.textContent.trim().length));
    table.style.setProperty("--names", `${Math.max(0, ...lengths)}ch`);
  };

  const start = () => {
    measure();
    const fold = folding();
    const sizes = new ResizeObserver((entries) => {
      for (const { target } of entries) mark(target.closest(BOXES));
    });
    for (const table of document.querySelectorAll(".bd-article table.table")) lengthen(table);
    for (const box of document.querySelectorAll(BOXES)) {
      sizes.observe(box);
      if (box.firstElementChild) sizes.observe(box.firstElementChild);
      box.addEventListener("scroll", () => mark(box), { capture: true, passive: true });
      if (box.matches(".pst-scrollable-table-container")) fold.observe(box);
    }
    new ResizeObserver(measure).observe(document.querySelector(".bd-article"));
    addEventListener("resize", measure);
  };
  if (document.querySelector(".bd-article")) start();
})();

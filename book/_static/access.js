/* What scrolls can be reached by keyboard: an equation that is wider than the page. */
(() => {
  const mark = () => {
    for (const equation of document.querySelectorAll("mjx-container[display]")) {
      if (equation.scrollWidth > equation.clientWidth) equation.tabIndex = 0;
      else equation.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", () => window.MathJax?.startup?.promise.then(mark));
  window.addEventListener("resize", mark);
})();

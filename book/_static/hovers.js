// What sphinx_tippy shows beside a reference: to a pointer and to the keyboard; a finger follows the link, as ever. Formulas
// are set once the tip stands on the page, and not where sphinx_tippy has it, before that: there they have no size yet.
(() => {
  const show = globalThis.tippy;
  if (!show) return;
  const onMount = ({ popper, popperInstance }) =>
    globalThis.MathJax?.typesetPromise?.([popper]).then(() => popperInstance?.update());
  globalThis.tippy = (link, props) => show(link, { ...props, touch: false, onShow: undefined, onMount });
})();

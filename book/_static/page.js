// One switch opens the code of all pages; it is remembered where the browser lets a page remember.
"use strict";

(() => {
  const folds = document.querySelectorAll(".bd-article .cell details.hide");
  const title = document.querySelector(".bd-article h1");
  if (!folds.length || !title) return;

  const remembered = {
    get: () => { try { return localStorage.getItem("tuningvec-code") === "open"; } catch { return false; } },
    set: (open) => { try { localStorage.setItem("tuningvec-code", open ? "open" : ""); } catch { /* then not */ } },
  };
  const button = document.createElement("button");
  button.className = "code-switch";
  button.type = "button";

  function show(open) {
    for (const fold of folds) fold.open = open;
    button.setAttribute("aria-pressed", String(open));
    button.textContent = open ? "Hide all code" : "Show all code";
  }

  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    remembered.set(open);
    show(open);
  });
  title.before(button);
  show(remembered.get());
})();

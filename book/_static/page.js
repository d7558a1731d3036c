// One switch for the code of all pages, remembered where the browser lets a page remember; long tables in short.
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

(() => {
  const shown = 10, long = 14;
  for (const table of document.querySelectorAll(".bd-article table.table")) {
    const rows = table.tBodies[0]?.rows.length ?? 0;
    if (rows <= long || table.id === "tab-audit") continue; // which is its page, and whole
    const button = document.createElement("button");
    button.className = "more-rows";
    button.type = "button";
    const set = (short) => {
      table.classList.toggle("shortened", short);
      button.setAttribute("aria-expanded", String(!short));
      button.textContent = short ? `Show all ${rows} rows` : `Show ${shown} rows`;
    };
    button.addEventListener("click", () => set(!table.classList.contains("shortened")));
    (table.closest(".pst-scrollable-table-container") ?? table).after(button);
    set(true);
  }
})();

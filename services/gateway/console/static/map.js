"use strict";
// The map of a pool: one stop for Tab, arrow keys within it, and in words what the pointer or the focus is at.
(() => {
  const live = document.getElementById("live");
  let at = "";

  const fields = () => [...live.querySelectorAll("[data-map] .field")];

  function settle() {
    const all = fields();
    const stop = all.find((each) => each.id === at) ?? all.find((each) => each.hasAttribute("aria-current")) ?? all[0];
    for (const each of all) {
      const index = each === stop ? "0" : "-1";
      if (each.getAttribute("tabindex") !== index) each.setAttribute("tabindex", index);
    }
  }

  function tell(field) {
    const told = document.getElementById("told");
    if (told && field) told.textContent = field.getAttribute("aria-label");
  }

  // As many as stand beside each other, however wide the window is.
  function columns(all) {
    const top = all[0].getBoundingClientRect().top;
    const next = all.findIndex((each) => each.getBoundingClientRect().top > top + 1);
    return next < 0 ? all.length : next;
  }

  function step(key, index, all) {
    switch (key) {
      case "ArrowLeft": return index - 1;
      case "ArrowRight": return index + 1;
      case "ArrowUp": return index - columns(all);
      case "ArrowDown": return index + columns(all);
      case "Home": return 0;
      case "End": return all.length - 1;
      default: return -1;
    }
  }

  live.addEventListener("keydown", (event) => {
    const field = event.target.closest(".field");
    if (!field || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = fields();
    const next = all[step(event.key, all.indexOf(field), all)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  live.addEventListener("focusin", (event) => {
    const field = event.target.closest(".field");
    if (!field) return;
    at = field.id;
    settle();
    tell(field);
  });
  live.addEventListener("pointerover", (event) => tell(event.target.closest(".field")));
  live.addEventListener("merged", () => {
    settle();
    tell(live.querySelector(".field:hover") ?? live.querySelector(".field:focus"));
  });
  settle();
})();

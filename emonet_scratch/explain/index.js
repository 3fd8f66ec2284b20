"use strict";
/* Clips in the order of their class, how unsure the answer is, or their name. */
const body = document.querySelector("#clips tbody");
for (const button of document.querySelectorAll("button[data-by]")) {
  button.addEventListener("click", () => {
    const by = Number(button.dataset.by), value = row => row.cells[by].dataset.value ?? row.cells[by].textContent;
    const compared = (a, b) => button.dataset.number ? Number(value(b)) - Number(value(a)) : value(a).localeCompare(value(b));
    body.append(...[...body.rows].sort(compared));
    for (const other of document.querySelectorAll("button[data-by]")) other.setAttribute("aria-pressed", String(other === button));
  });
}

"use strict";
const table = document.getElementById("classes");
const body = table.tBodies[0];
const rows = [...body.rows];
const filter = document.getElementById("filter");
const onlyDiffering = document.getElementById("differing");
const shown = document.getElementById("shown");

function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.dataset.text;
    const hit = words.every((word) => text.includes(word)) && !(onlyDiffering.checked && !row.dataset.differs);
    row.hidden = !hit;
    count += hit;
  }
  shown.textContent = `${count} of ${rows.length} classes`;
}

function sortBy(header) {
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") === "ascending";
  const isNumber = header.classList.contains("n");
  const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const order = (a, b) => isNumber ? Number(value(a)) - Number(value(b)) : value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0;
  rows.sort((a, b) => descending ? order(b, a) : order(a, b));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const button of table.tHead.querySelectorAll("button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
filter.addEventListener("input", show);
onlyDiffering.addEventListener("change", show);
show();

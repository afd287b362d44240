"use strict";
// Helpers for all scripts of the page, sorting of tables, copy buttons.
const report = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function compare(one, other) {
  const [a, b] = [Number(one), Number(other)];
  if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
  return one.localeCompare(other, undefined, { numeric: true });
}

function sort(button) {
  const header = button.closest("th");
  const column = header.cellIndex;
  const body = header.closest("table").tBodies[0];
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows];
  const numbers = rows.some((row) => value(row) !== "" && !Number.isNaN(Number(value(row))));
  const before = header.getAttribute("aria-sort");
  // Numbers are sorted in descending order first, names in ascending order.
  const up = before === "none" ? !numbers || column === 0 : before === "descending";
  for (const other of header.parentNode.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // undefined ones are last
    return (up ? 1 : -1) * compare(x, y);
  });
  body.append(...rows);
}

all(".sort").forEach((button) => button.addEventListener("click", () => sort(button)));

// ---- Notes above tables that are wider than the page

const fitting = new ResizeObserver((entries) => entries.forEach(({ target }) => {
  const columns = all("thead th", target).length;
  const sign = target.previousElementSibling;
  sign.textContent = `${columns} columns: scroll sideways for those on the right →`;
  sign.hidden = target.scrollWidth <= target.clientWidth;
}));
all(".wide + .scroll").forEach((place) => fitting.observe(place));

// ---- Copying

async function copy(button) {
  const text = button.parentNode.querySelector("pre");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

all(".copy").forEach((button) => button.addEventListener("click", () => copy(button)));

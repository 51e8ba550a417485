// A click or Enter on a column heading sorts the rows by it; a second one reverses the order.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const value = (row, column) => row.cells[column].dataset.value;
  const sort = (column, order) => {
    const numeric = heads[column].classList.contains("right");
    const compare = (a, b) => {
      const left = value(a, column), right = value(b, column);
      if (left === "" || right === "") return (left === "") - (right === "");  // rows without a figure come last
      return order * (numeric ? left - right : left.localeCompare(right, "en", { numeric: true }));
    };
    table.tBodies[0].append(...[...rows].sort(compare));
    for (const head of heads) head.setAttribute("aria-sort", "none");
    heads[column].setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
  };
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () =>
      sort(column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1)));
}

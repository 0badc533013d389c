"use strict";
// Tables are sorted by the column whose name is pressed: first up, then down, then as they were.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const given = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const words = new Intl.Collator(undefined, { numeric: true });
  heads.forEach((head, column) => {
    head.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      for (const each of heads) each.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const rows = given.slice();
      if (next !== "none") {
        const sign = next === "ascending" ? 1 : -1;
        const keyed = rows.map((row) => {
          const cell = row.cells[column];
          return { row, number: "value" in cell.dataset ? Number(cell.dataset.value) : null, text: cell.textContent };
        });
        keyed.sort((first, second) => {
          if (first.number !== null && second.number !== null) return sign * (first.number - second.number);
          if (first.number !== null || second.number !== null) return first.number === null ? 1 : -1;
          return sign * words.compare(first.text, second.text);
        });
        rows.splice(0, rows.length, ...keyed.map((each) => each.row));
      }
      body.replaceChildren(...rows);
    });
  });
}
// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not([open])")) {
    each.open = true;
    each.dataset.unfolded = "";
  }
});
addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details[data-unfolded]")) {
    each.open = false;
    delete each.dataset.unfolded;
  }
});

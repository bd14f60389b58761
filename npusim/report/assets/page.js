"use strict";
// Sorting and filtering of the table of all rows, and the precision tabs. Without scripts everything is shown.
(() => {
  const table = document.getElementById("rows");
  if (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const heads = Array.from(table.tHead.rows[0].cells);

    // Numeric cells carry data-value; a cell without a figure has an empty one and always comes last.
    const keyOf = (row, index) => {
      const cell = row.cells[index];
      if (!("value" in cell.dataset)) return cell.textContent;
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));

    const sortBy = (index) => {
      const head = heads[index];
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row, position) => ({ row, position, key: keyOf(row, index) }));
      keyed.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.position - b.position;
        return (down ? compare(b.key, a.key) : compare(a.key, b.key)) || a.position - b.position;
      });
      body.append(...keyed.map((item) => item.row));
    };
    heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => sortBy(index)));

    const words = document.getElementById("words");
    const selects = Array.from(document.querySelectorAll("select[data-column]"));
    const count = document.getElementById("count");
    const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const matches = (row, wanted) =>
      wanted.every((word) => text.get(row).includes(word)) &&
      selects.every((select) => {
        if (select.value === "") return true;
        if (select.dataset.column === "fits") return (row.className !== "misfit") === (select.value === "yes");
        return row.cells[Number(select.dataset.column)].textContent === select.value;
      });
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        row.hidden = !matches(row, wanted);
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    words.addEventListener("input", filter);
    selects.forEach((select) => select.addEventListener("change", filter));
    filter(); // a reloaded page keeps what was typed
  }

  document.querySelectorAll("[role=tablist]").forEach((list) => {
    const tabs = Array.from(list.querySelectorAll("[role=tab]"));
    const select = (chosen, focus) => {
      tabs.forEach((tab) => {
        const on = tab === chosen;
        tab.setAttribute("aria-selected", String(on));
        tab.tabIndex = on ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
      });
      if (focus) chosen.focus();
    };
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => select(tab, false));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) select(tabs[(index + step + tabs.length) % tabs.length], true);
      });
    });
    list.hidden = false;
    if (tabs.length) select(tabs[0], false);
  });
})();

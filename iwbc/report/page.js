// A click on a column's head sorts its table: numbers from the largest, text from A; a second click the other way round.
// Cells without a number stay at the bottom.
for (const button of document.querySelectorAll("thead [role=button]")) {
  const sort = () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0];
    const cell = row => row.cells[head.cellIndex];
    const numeric = [...body.rows].some(row => cell(row).dataset.value !== undefined);
    const before = head.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !numeric;
    const sign = ascending ? 1 : -1;
    const compare = (a, b) => {
      if (!numeric) return sign * cell(a).textContent.localeCompare(cell(b).textContent, "en", {numeric: true});
      const [x, y] = [a, b].map(row => Number(cell(row).dataset.value ?? NaN));
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
    };
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  };
  button.addEventListener("click", sort);
  button.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    sort();
  });
}

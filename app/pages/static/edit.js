// A plan that is edited: show some layers, tick them, and give all of them one format.

const shown = (rows) => [...rows.rows].filter((row) => !row.hidden);

// data-filter="#rows": shows the rows whose text, or whose format, has this in it
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-filter]");
  if (!field) return;
  const wanted = field.value.trim().toLowerCase();
  for (const row of document.querySelector(field.dataset.filter).rows) {
    const cells = [...row.cells].slice(1, 3).map((cell) => cell.textContent);
    const text = [...cells, row.querySelector("select").value].join(" ").toLowerCase();
    row.hidden = !text.includes(wanted);
  }
});

// data-tick="#rows": ticks all rows that are shown
document.addEventListener("change", (event) => {
  const box = event.target.closest("[data-tick]");
  if (!box) return;
  for (const row of shown(document.querySelector(box.dataset.tick))) {
    row.querySelector("input[type=checkbox]").checked = box.checked;
  }
});

// data-give="#select" data-to="#rows": gives the ticked rows that are shown this format, where they may have it
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-give]");
  if (!button) return;
  const format = document.querySelector(button.dataset.give).value;
  const ticked = shown(document.querySelector(button.dataset.to)).filter((row) => row.querySelector("input:checked"));
  const selects = ticked.map((row) => row.querySelector("select"));
  const able = selects.filter((select) => [...select.options].some((option) => option.value === format));
  for (const select of able) select.value = format;
  document.querySelector("#given").textContent = `${able.length} of ${ticked.length} ticked layers got ${format}`;
  if (able.length) able[0].dispatchEvent(new Event("change", { bubbles: true }));
});

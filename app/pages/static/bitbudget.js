// What the pages do beyond htmx. Each behaviour is asked for by an attribute in a template.

// data-copy="#id": copies the text of an element
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent.trim());
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
});

// data-needs="2": a button that waits until so many boxes of its form are ticked
const countTicked = () => {
  for (const button of document.querySelectorAll("[data-needs]")) {
    const ticked = document.querySelectorAll(`input[type=checkbox][form="${button.getAttribute("form")}"]:checked`);
    button.disabled = ticked.length < Number(button.dataset.needs);
  }
};
document.addEventListener("change", countTicked);
countTicked();

// What a mark of a chart says, at once and beside the pointer; without this, browsers show the same titles after a while.
const tip = document.getElementById("tip");
const words = new WeakMap();
function show(event) {
  const mark = event.target.closest(".chart [aria-label][role=graphics-symbol]");
  if (!mark) { tip.hidden = true; return; }
  const title = mark.querySelector("title");
  if (title) { words.set(mark, title.textContent); title.remove(); }
  tip.textContent = words.get(mark) || mark.getAttribute("aria-label");
  tip.hidden = false;
  tip.style.left = Math.max(0, Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(0, Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)) + "px";
}
document.addEventListener("pointermove", show);
document.addEventListener("pointerdown", show);

"use strict";
(function () {
  const bar = document.querySelector(".filters");
  if (!bar) return;
  const PAGE = 10;
  const cards = Array.from(document.querySelectorAll(".conversation"));
  const texts = cards.map(function (card) { return card.textContent.toLowerCase(); });
  const controls = Array.from(bar.querySelectorAll("select, input"));
  const more = document.querySelector(".more");
  const count = bar.querySelector("output");
  let shown = PAGE;

  function matches(card, index) {
    return controls.every(function (control) {
      if (!control.value) return true;
      if (control.tagName === "INPUT") {
        return control.value.toLowerCase().split(/\s+/).every(function (word) { return texts[index].includes(word); });
      }
      if (control.dataset.filter === "set") return card.dataset.set === control.value;
      return card.dataset.found.split(" ").includes(control.dataset.model + ":" + control.value);
    });
  }
  function update() {
    const found = cards.filter(matches);
    cards.forEach(function (card) { card.hidden = true; });
    found.slice(0, shown).forEach(function (card) { card.hidden = false; });
    count.textContent = Math.min(shown, found.length) + " of " + found.length + " shown";
    more.hidden = found.length <= shown;
  }
  controls.forEach(function (control) {
    control.addEventListener("input", function () { shown = PAGE; update(); });
  });
  more.addEventListener("click", function () { shown += PAGE; update(); });
  bar.hidden = false;
  update();
})();

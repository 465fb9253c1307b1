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

  // A select filters by the card's data of the same name: a value per line, or of one model "model:value" between spaces.
  function chosen(card, select) {
    const found = card.dataset[select.dataset.filter] || "";
    const model = select.dataset.model;
    return model ? found.split(" ").includes(model + ":" + select.value) : found.split("\n").includes(select.value);
  }
  function matches(card, index) {
    return controls.every(function (control) {
      if (!control.value.trim()) return true;
      if (control.tagName === "SELECT") return chosen(card, control);
      const words = control.value.toLowerCase().split(/\s+/);
      return words.every(function (word) { return texts[index].includes(word); });
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

"use strict";
(function () {
  const bar = document.querySelector(".filters");
  if (!bar) return;
  const PAGE = 10;
  const cards = Array.from(document.querySelectorAll(".conversation"));
  const selects = Array.from(bar.querySelectorAll("select"));
  const more = document.querySelector(".more");
  const count = bar.querySelector("output");
  let shown = PAGE;

  function matches(card) {
    return selects.every(function (select) {
      if (!select.value) return true;
      if (select.dataset.filter !== "outcome") return card.dataset[select.dataset.filter] === select.value;
      return card.dataset.outcomes.split(" ").includes(select.dataset.model + ":" + select.value);
    });
  }
  function update() {
    const found = cards.filter(matches);
    cards.forEach(function (card) { card.hidden = true; });
    found.slice(0, shown).forEach(function (card) { card.hidden = false; });
    count.textContent = Math.min(shown, found.length) + " of " + found.length + " shown";
    more.hidden = found.length <= shown;
  }
  selects.forEach(function (select) {
    select.addEventListener("change", function () { shown = PAGE; update(); });
  });
  more.addEventListener("click", function () { shown += PAGE; update(); });
  bar.hidden = false;
  update();
})();

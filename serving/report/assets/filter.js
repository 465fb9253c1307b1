"use strict";
(function () {
  const bar = document.querySelector(".filters");
  if (!bar) return;
  const PAGE = 10;
  const cards = Array.from(document.querySelectorAll(".conversation"));
  const selects = Array.from(bar.querySelectorAll("select"));
  const search = bar.querySelector("input[type=search]");
  const more = document.querySelector(".more");
  const count = bar.querySelector("output");
  let shown = PAGE;

  function matches(card) {
    const words = search ? search.value.toLowerCase().split(/\s+/) : [];
    const text = words.join("") ? card.textContent.toLowerCase() : "";
    if (text && !words.every(function (word) { return text.includes(word); })) return false;
    return selects.every(function (select) {
      if (!select.value) return true;
      if (select.dataset.filter === "tag") return card.dataset.tag.split("\n").includes(select.value);
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
  if (search) search.addEventListener("input", function () { shown = PAGE; update(); });
  more.addEventListener("click", function () { shown += PAGE; update(); });
  bar.hidden = false;
  update();
})();

// Filters, search and order of the gallery; the map hears of them through the event "filter".
(() => {
  const cards = [...document.querySelectorAll("#cards > .card")];
  const buttons = [...document.querySelectorAll("[data-filter]")];
  const search = document.getElementById("search");
  const sort = document.getElementById("sort");
  const shown = document.getElementById("shown");
  const inGallery = shown ? shown.textContent : "";
  const text = (card) => card.dataset.names.toLowerCase();
  const number = (value) => (Number.isNaN(Number(value)) ? -1 : Number(value)); // "inf", "nan"
  const error = (card) => (card.dataset.error === "inf" ? Infinity : number(card.dataset.error));
  const orders = {
    chosen: () => 0, // cards keep the order of the file
    error: (a, b) => (error(a) === error(b) ? 0 : error(b) - error(a)),
    distance: (a, b) => a.dataset.distance - b.dataset.distance,
    file: (a, b) => (text(a) < text(b) ? -1 : 1),
  };
  let filter = "all";

  const passes = (status) =>
    filter === "all" || status === filter || (filter === "wrong" && status !== "correct");

  function update() {
    const wanted = search.value.trim().toLowerCase();
    for (const card of cards) {
      card.hidden = !(passes(card.dataset.status) && text(card).includes(wanted));
    }
    const visible = cards.filter((card) => !card.hidden).length;
    if (shown) shown.textContent = `${inGallery} ${visible} of them pass the filters.`;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
    }
    document.dispatchEvent(new CustomEvent("filter", { detail: { passes, wanted } }));
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      filter = button.dataset.filter;
      update();
    });
  }
  search.addEventListener("input", update);
  sort.addEventListener("change", () => {
    const sorted = [...cards].sort(orders[sort.value]);
    if (cards.length) document.getElementById("cards").append(...sorted);
  });
})();

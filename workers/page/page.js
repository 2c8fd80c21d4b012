"use strict";
(() => {
  const TAGS_OFFERED = 30;
  const cards = [...document.querySelectorAll("article.card")].map((node) => ({
    node,
    tags: new Set([...node.querySelectorAll("[data-tag]")].map((tag) => tag.dataset.tag)),
    text: [...node.querySelectorAll(".caption, .key, .mark, [data-tag]")].map((part) => part.textContent).join("\n").toLowerCase(),
  }));
  const words = document.getElementById("words");
  const found = document.getElementById("found");
  const chips = document.getElementById("chips");
  const chosen = new Set();

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const fits = wanted.every((word) => card.text.includes(word)) && [...chosen].every((tag) => card.tags.has(tag));
      card.node.hidden = !fits;
      shown += fits;
    }
    found.textContent = `${shown} of ${cards.length} shown`;
  };

  const offer = (tag, count) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = `${tag} ${count}`;
    chip.setAttribute("aria-pressed", "false");
    chip.addEventListener("click", () => {
      if (!chosen.delete(tag)) chosen.add(tag);
      chip.setAttribute("aria-pressed", String(chosen.has(tag)));
      show();
    });
    chips.append(chip);
  };

  const larger = document.createElement("dialog");
  const picture = document.createElement("img");
  const said = document.createElement("p");
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => larger.close());
  larger.addEventListener("click", (click) => click.target === larger && larger.close());
  larger.append(picture, said, close);
  document.body.append(larger);

  const enlarge = (image) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.setAttribute("aria-label", `Larger picture: ${image.alt}`);
    button.addEventListener("click", () => {
      picture.src = image.src;
      picture.alt = said.textContent = image.alt;
      larger.showModal();
    });
    image.replaceWith(button);
    button.append(image);
  };

  const counts = new Map();
  for (const card of cards) for (const tag of card.tags) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  [...counts].sort((one, other) => other[1] - one[1]).slice(0, TAGS_OFFERED).forEach(([tag, count]) => offer(tag, count));
  document.querySelectorAll("article.card > img").forEach(enlarge);
  words.addEventListener("input", show);
  show();
  document.getElementById("find").hidden = false;
})();

// What a script adds to pages that work without: keys, the next page while scrolling, counts, pictures that fade in and
// come back.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const pages = find("#pages");
const one = find("main.one");
const view = find(".view");
const box = find("#q");
const help = find("#keys");
const chosen = find("#chosen");

async function fetched(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.status);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// More of the result as the reader comes near its end: a grid for each page, which knows its own address.
let loading = false;

async function more() {
  const link = find(".more");
  if (!link || loading || link.getBoundingClientRect().top > innerHeight + 1500) return;
  loading = true;
  link.setAttribute("aria-busy", "true");
  link.textContent = "Loading…";
  try {
    const next = await fetched(link.href);
    const grid = document.adoptNode(find("#pages > .grid", next));
    grid.dataset.page = link.href;
    const heading = find(".month h2", grid);
    if (heading?.textContent === all(".month h2", pages).at(-1)?.textContent) heading?.remove();  // the month goes on
    if (find("#all:checked")) all("[name=of]", grid).forEach((box) => { box.checked = true; });
    pages.append(grid);
    all("img[data-hash]", grid).forEach(underlay);
    link.replaceWith(document.adoptNode(find(".more, .end", next)));
    loading = false;
    requestAnimationFrame(more);
  } catch {
    link.textContent = "Next page";
    link.removeAttribute("aria-busy");
    setTimeout(() => { loading = false; }, 3000);
  }
}

async function counts() {
  const place = find("#facets[data-from]");
  if (!place) return;
  try {
    const told = await fetched(place.dataset.from);
    place.replaceChildren(...told.body.children);
    const heading = find("#found");
    if (heading) heading.textContent = find("[data-found]").dataset.found;
  } catch {
    place.textContent = "Counting took too long.";
    place.className = "note";
  }
}

// The box over the tags: those that contain its text take their place.
let sifting;

function sift({ target }) {
  clearTimeout(sifting);
  sifting = setTimeout(async () => {
    const told = await fetched(`/facets?${new URLSearchParams(new FormData(target.form))}`).catch(() => null);
    if (told) find("#sifted")?.replaceWith(document.adoptNode(find("#sifted", told)));
  }, 200);
}

// By position: the nearest picture in the row above or below, or beside.
function beside(cell, key) {
  const cells = all(".cell", pages);
  const step = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
  let at = cells.indexOf(cell) + step;
  if (key === "ArrowRight" || key === "ArrowLeft") return cells[at];
  const from = cell.getBoundingClientRect();
  const middle = (from.left + from.right) / 2;
  let row = null, best = null, least = Infinity;
  for (; cells[at]; at += step) {
    const to = cells[at].getBoundingClientRect();
    if (Math.abs(to.top - from.top) < 4) continue;
    row ??= to.top;
    if (Math.abs(to.top - row) > 4) break;
    const away = Math.max(0, to.left - middle, middle - to.right);
    if (away < least) [best, least] = [cells[at], away];
  }
  return best;
}

function move(key) {
  const here = document.activeElement.closest("#pages .cell");
  const to = here ? beside(here, key) : all(".cell", pages).find((cell) => cell.getBoundingClientRect().bottom > 120);
  to?.focus({ preventScroll: true });
  to?.scrollIntoView({ block: "nearest" });
  return Boolean(to);
}

// From the result to a picture and back: the address of the result is that of the page on which the picture stands.
function leaving(event) {
  const cell = event.target.closest?.(".cell") ?? event.target.closest?.(".tile > a")?.parentElement.querySelector(".cell");
  if (!cell || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  sessionStorage.setItem("seen", cell.dataset.subject);
  sessionStorage.setItem("top", cell.getBoundingClientRect().top);
  history.scrollRestoration = "manual";
  history.replaceState({ grid: true }, "", cell.closest(".grid").dataset.page ?? location.href);
}

function returned() {
  const seen = sessionStorage.getItem("seen");
  const cell = seen && all(".cell", pages).find((each) => each.dataset.subject === seen);
  if (!cell || !history.state?.grid) return;
  cell.focus({ preventScroll: true });
  scrollBy(0, cell.getBoundingClientRect().top - sessionStorage.getItem("top"));
}

function back() {
  if (document.referrer && ["/", "/changes", "/review"].includes(new URL(document.referrer).pathname) && history.length > 1) history.back();
  else find("[rel=up]").click();
}

function turn(relation) {
  const link = find(`.turn [rel=${relation}]`);
  if (link) location.assign(link.href);
}

// Selection: the checks are of a form, whose bar the style sheet shows. With Shift all from the one before are like it.
let latest = null;

function told() {
  find("output", chosen).textContent = find("#all").checked ? "All of these pictures" : `${all(":checked", pages).length} selected`;
}

function check(box, range) {
  const boxes = all("[name=of]", pages);
  const [from, to] = [boxes.indexOf(range && latest ? latest : box), boxes.indexOf(box)].sort((one, other) => one - other);
  boxes.slice(from, to + 1).forEach((each) => { each.checked = box.checked; });
  latest = box;
  find("#all").checked &&= box.checked;
  told();
}

// By a click or the key. Once something is selected, a click on a picture selects it too.
function picked(event) {
  const box = event.target.closest(".tile > .cell, [name=of]")?.parentElement.firstElementChild;
  const onBox = event.target === box && event.type === "click";
  if (!box || event.ctrlKey || event.metaKey || event.type === "click" && !onBox && !find(":checked", pages)) return false;
  if (!onBox) {
    event.preventDefault();
    event.stopImmediatePropagation();
    box.checked = !box.checked;
  }
  check(box, event.shiftKey);
  return true;
}

// A picture that is not there for now is one pixel wide. One of them is asked for until it comes, then all the others.
// While it fails another one's turn comes: the store may fail for this picture alone (502).
let probing = false;
let asked = 0;

function arrived(event) {
  const image = event.target;
  if (image.tagName !== "IMG") return;
  image.toggleAttribute("data-missing", image.naturalWidth === 1);
  if (image.naturalWidth > 1 && image.previousElementSibling?.tagName === "CANVAS") {
    image.classList.add("here");
    setTimeout(() => image.previousElementSibling?.remove(), 500);
  }
  if (image.naturalWidth === 1 && !probing) probe();
}

async function probe() {
  probing = true;
  const missing = all("img[data-missing]");
  const image = missing[asked % missing.length];
  if (image) {
    const answer = await fetch(image.src, { cache: "no-store" }).catch(() => null);
    const away = !answer || answer.status === 503;
    find("#away").hidden = !away;
    if (away || answer.status === 502) return setTimeout(probe, ++asked % missing.length && !away ? 200 : 3000);
    if (answer.ok) all("img[data-missing]").forEach(again);
    else image.removeAttribute("data-missing");
  }
  probing = Boolean(image);
  if (probing) setTimeout(probe, 200);
}

function again(image) {
  image.removeAttribute("data-missing");
  image.src = `${image.src.replace(/&again=\d+$/, "")}&again=${Date.now()}`;
}

// A ThumbHash (of Evan Wallace's format) is painted behind its picture until that comes. It holds some forty terms of a
// cosine transform, each in half a byte: luminance, yellow against blue, red against green, opacity.
const SIDE = 32;
const COSINES = Array.from({ length: 7 }, (_, wave) =>
  Float32Array.from({ length: SIDE }, (_, place) => Math.cos((Math.PI / SIDE) * (place + 0.5) * wave)));

// The terms of each channel as [wave across, wave down, amount]; null: the bytes are no ThumbHash. Anybody may have
// written them: there are at most seven waves each way.
function terms(bytes) {
  const head = bytes[0] | (bytes[1] << 8) | (bytes[2] << 16), rest = bytes[3] | (bytes[4] << 8);
  const clear = head >> 23, most = clear ? 5 : 7, least = Math.max(3, rest & 7);
  const part = (from, at, bits) => ((from >> at) & (2 ** bits - 1)) / (2 ** bits - 1);
  let next = clear ? 12 : 10;
  const channel = (mean, scale, across, down) => {
    const found = [[0, 0, mean]];
    for (let y = 0; y < down; y++) {
      for (let x = y ? 0 : 1; x * down < across * (down - y); x++) {
        found.push([x, y, 2 * scale * (((bytes[next >> 1] >> (next++ & 1) * 4) & 15) / 7.5 - 1)]);
      }
    }
    return found;
  };
  const channels = [
    channel(part(head, 0, 6), part(head, 18, 5), ...(rest >> 15 ? [most, least] : [least, most])),
    channel(part(head, 6, 6) * 2 - 1, part(rest, 3, 6) * 1.25, 3, 3),
    channel(part(head, 12, 6) * 2 - 1, part(rest, 9, 6) * 1.25, 3, 3),
    clear ? channel(part(bytes[5], 0, 4), part(bytes[5], 4, 4), 5, 5) : [[0, 0, 1]],
  ];
  return bytes.length < 5 || next > bytes.length * 2 ? null : channels;
}

function sum(row, x) {
  let found = 0;
  for (let wave = 0; wave < row.length; wave++) found += row[wave] * COSINES[wave][x];
  return found;
}

function paint(context, channels) {
  const made = context.createImageData(SIDE, SIDE);
  for (let y = 0, at = 0; y < SIDE; y++) {
    const [l, p, q, a] = channels.map((found) => {
      const row = [];
      for (const [across, down, amount] of found) row[across] = (row[across] ?? 0) + amount * COSINES[down][y];
      return row;
    });
    for (let x = 0; x < SIDE; x++) {
      const light = sum(l, x), green = sum(q, x), blue = light - (2 / 3) * sum(p, x), red = (3 * light - blue + green) / 2;
      for (const value of [red, red - green, blue, sum(a, x)]) made.data[at++] = value * 255;  // it clamps
    }
  }
  context.putImageData(made, 0, 0);
}

function underlay(image) {
  const channels = image.naturalWidth > 1 ? null : terms(Uint8Array.from(atob(image.dataset.hash), (each) => each.charCodeAt(0)));
  if (!channels) return;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  paint(canvas.getContext("2d"), channels);
  image.before(canvas);
}

// A correction on its way: the tags are read again until an outcome shows it.
async function pending() {
  const section = find("#tags[data-pending]");
  if (!section) return;
  if (!section.contains(document.activeElement) || document.activeElement.tagName === "BUTTON") {
    const now = await fetched(location.href).then((told) => find("#tags", told)).catch(() => null);
    if (now) section.replaceWith(document.adoptNode(now));
  }
  setTimeout(pending, 1500);
}

// The picture at its own size, to be dragged, scrolled or moved by the arrows.
let dragged = false;

function drag(event) {
  dragged = event.buttons === 1 && view.matches(".zoomed");
  if (dragged) find(".large").scrollBy(-event.movementX, -event.movementY);
}

const does = {
  async zoom(event) {
    if (dragged) return;
    const large = find(".large"), image = find("img", large), own = new Image(), from = image.getBoundingClientRect();
    const [x, y] = event.clientX ? [(event.clientX - from.left) / from.width, (event.clientY - from.top) / from.height] : [0.5, 0.5];
    find("button[data-does=zoom]").setAttribute("aria-pressed", view.classList.toggle("zoomed"));
    large.focus({ preventScroll: true });
    large.scrollTo(x * image.offsetWidth - large.clientWidth / 2, y * image.offsetHeight - large.clientHeight / 2);
    own.src = large.href;
    await own.decode().catch(() => {});
    if (own.naturalWidth > 1) image.src = own.src;
  },
  full: () => document.fullscreenElement ? document.exitFullscreen() : view.requestFullscreen(),
  async copy(event, button) {
    const { text } = button.dataset;
    await navigator.clipboard.writeText(text ? new URL(text, location) : button.nextElementSibling.textContent);
    button.textContent = "Copied";
  },
};

function clicked(event) {
  const button = event.target.closest("[data-does]");
  if (!button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  does[button.dataset.does](event, button);
}

// Names that begin like the last word of the box, or like the tag to add. An option is the whole text with that name; one
// that lacks the typed text would be hidden, so its label says it.
async function complete(event) {
  const input = event.target;
  if (input.getAttribute?.("list") !== "known") return;
  const text = input.value;
  const at = input !== box ? 0 : text.split('"').length % 2 ? text.lastIndexOf(" ") + 1 : text.lastIndexOf('"');
  const [mark] = input !== box ? [""] : text.slice(at).match(/^-?(tag:(.*\|)?)?"?/);
  const head = text.slice(0, at) + mark.replace('"', "");
  const begun = encodeURIComponent(text.slice(at + mark.length));
  const answer = await fetch(`/api/tags?prefix=${begun}`).then((told) => told.json()).catch(() => null);
  if (!answer?.tags || input.value !== text) return;
  find("#known").replaceChildren(...answer.tags.map(({ name, count }) => {
    const whole = head + (input === box && /[\s|]/.test(name) ? `"${name}"` : name);
    const number = count?.toLocaleString("en") ?? "";
    return new Option(whole.toLowerCase().includes(text.toLowerCase()) ? number : `${text}: ${number}`, whole);
  }));
}

// A verdict is saved at once; without a script the button saves those of a page.
async function judged({ target }) {
  if (!target.matches(".verdict input")) return;
  const { action, elements: { key, draw } } = target.form;
  const body = new URLSearchParams({ key: key.value, draw: draw.value, [target.name]: target.value, script: 1 });
  const answer = await fetch(action, { method: "POST", body }).catch(() => null);
  find("#told").textContent = answer?.ok ? await answer.text() : "Not saved: log in again, or look whether the server is up.";
  if (!answer?.ok) target.checked = false;
}

function verdict(value) {
  const cards = all(".card:has(.verdict:enabled)", pages);
  const seen = (each) => each.getBoundingClientRect().bottom > 120;
  const card = document.activeElement.closest(".card") ?? cards.find(seen) ?? cards.at(-1);
  const next = cards[cards.indexOf(card) + 1] ?? card;
  find(`[value=${value}]`, card).click();
  find(".cell", next).focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function pressed(event) {
  const typing = event.target.matches("input:not([type=checkbox]), textarea") && !(event.target.type === "radio" && "ar".includes(event.key));
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing) return;
  let done = true;
  if (event.key === "/") { box.focus(); box.select(); }
  else if (event.key === "?") help.showModal();
  else if (pages && event.key.startsWith("Arrow")) done = move(event.key);
  else if (one && event.key === "f") does.full();
  else if (one && (["z", "+"].includes(event.key) || event.key === "Escape" && view.matches(".zoomed"))) does.zoom(event);
  else if (one && event.key.startsWith("Arrow") && view.matches(".zoomed")) done = false;
  else if (find(".verdict:enabled") && "ar".includes(event.key)) verdict(event.key === "a" ? "accepted" : "rejected");
  else if (chosen && event.key.toLowerCase() === "x") done = picked(event);
  else if (chosen && event.key === "Escape") chosen.reset();
  else if (one && event.key === "ArrowLeft") turn("prev");
  else if (one && event.key === "ArrowRight") turn("next");
  else if (one && event.key === "Escape") back();
  else done = false;
  if (done) event.preventDefault();
}

document.addEventListener("keydown", pressed);
document.addEventListener("input", complete);
document.addEventListener("load", arrived, true);
all("img").filter((image) => image.complete).forEach((image) => arrived({ target: image }));
all("img[data-hash]").forEach(underlay);
find("#help").hidden = false;
find("#help").addEventListener("click", () => help.showModal());
if (matchMedia("(max-width: 860px)").matches) find(".fold")?.removeAttribute("open");
if (chosen) {
  const whole = find("#all");
  pages.addEventListener("click", picked);
  chosen.addEventListener("formdata", (event) => { if (whole.checked) event.formData.delete("of"); });
  chosen.addEventListener("reset", () => setTimeout(told));
  whole.addEventListener("change", () => { all("[name=of]", pages).forEach((box) => { box.checked = whole.checked; }); told(); });
  addEventListener("pageshow", told);
}
if (pages) {
  document.addEventListener("scroll", more, { passive: true });
  pages.addEventListener("click", leaving);
  pages.addEventListener("change", judged);
  find("#save")?.remove();
  addEventListener("pageshow", returned);
  more();
  counts();
  find("#facets")?.addEventListener("input", sift);
}
if (one) {
  pending();
  const can = { zoom: true, full: document.fullscreenEnabled, copy: navigator.clipboard };
  all("button[data-does]").forEach((button) => { button.hidden = !can[button.dataset.does]; });
  one.addEventListener("click", clicked);
  view.addEventListener("mousemove", drag);
}

"use strict";
// A pixel of the sheet is a cell of the map.
const { ends: [west, north, east, south], metres, outlines } = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map"), sheet = document.getElementById("sheet"), rule = document.getElementById("rule");
const levels = [...document.querySelectorAll(".level")], pins = [...document.querySelectorAll(".pin")];
const finest = levels.at(-1).dataset.cells;
let zoom = 1, x = 0, y = 0, chosen = null;  // screen pixels in a cell, and where the sheet's corner is
for (const image of sheet.querySelectorAll("img")) {
  image.style.left = `${image.dataset.column}px`;
  image.style.top = `${image.dataset.row}px`;
}
function drawPins() {
  const shown = [];
  for (const pin of [...pins].sort((one, other) => (other === chosen) - (one === chosen))) {
    const place = { pin, left: x + pin.dataset.column * zoom, top: y + pin.dataset.row * zoom, more: 0 };
    const isInside = place.left > -20 && place.left < map.clientWidth + 20 && place.top > 0 && place.top < map.clientHeight + 45;
    const other = shown.find(each => Math.abs(each.left - place.left) < 58 && Math.abs(each.top - place.top) < 32);
    pin.hidden = !isInside || Boolean(other);
    if (!isInside) continue;
    if (other) other.more++;
    else shown.push(place);
  }
  for (const { pin, left, top, more } of shown) {
    pin.style.left = `${left}px`;
    pin.style.top = `${top}px`;
    pin.classList.toggle("on", pin === chosen);
    pin.lastChild.textContent = more ? ` +${more}` : "";
  }
}
function draw() {
  sheet.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
  sheet.classList.toggle("near", zoom * finest > 2);
  // The coarsest level, and in front of it the first one that is fine enough.
  const fit = levels.find(level => level.dataset.cells * zoom <= 1.5) ?? levels.at(-1);
  for (const level of levels) level.hidden = level !== levels[0] && level !== fit;
  drawPins();
  let length = 10 ** Math.floor(Math.log10(200 * metres / zoom));
  length *= [5, 2, 1].find(times => length * times * zoom < 200 * metres);
  rule.style.width = `${length * zoom / metres}px`;
  rule.textContent = length >= 1000 ? `${length / 1000} km` : length >= 1 ? `${length} m` : `${Math.round(length * 100)} cm`;
}
function all() {
  zoom = 0.95 * Math.min(map.clientWidth / (east - west), map.clientHeight / (south - north));
  x = (map.clientWidth - (west + east) * zoom) / 2;
  y = (map.clientHeight - (north + south) * zoom) / 2;
  draw();
}
function scaleBy(factor, left, top) {
  const next = Math.min(16 / finest, Math.max(1e-4, zoom * factor));
  x = left - (left - x) * next / zoom;
  y = top - (top - y) * next / zoom;
  zoom = next;
  draw();
}
const middle = factor => scaleBy(factor, map.clientWidth / 2, map.clientHeight / 2);
document.getElementById("in").onclick = () => middle(1.5);
document.getElementById("out").onclick = () => middle(1 / 1.5);
document.getElementById("all").onclick = all;
map.addEventListener("wheel", event => {
  event.preventDefault();
  const box = map.getBoundingClientRect();
  scaleBy(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
let held = null;
map.addEventListener("pointerdown", event => {
  if (event.target.closest("button")) return;
  held = [event.clientX - x, event.clientY - y];
  map.setPointerCapture(event.pointerId);
});
map.addEventListener("pointermove", event => {
  if (!held) return;
  [x, y] = [event.clientX - held[0], event.clientY - held[1]];
  draw();
});
map.addEventListener("lostpointercapture", () => { held = null; });
map.addEventListener("keydown", event => {
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  const factors = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 };
  if (event.key in factors) middle(factors[event.key]);
  else if (event.key in steps) {
    x += steps[event.key][0];
    y += steps[event.key][1];
    draw();
  } else return;
  event.preventDefault();
});
function show(pin) {
  chosen = pin;
  zoom = Math.max(zoom, 1 / finest);
  x = map.clientWidth / 2 - pin.dataset.column * zoom;
  y = map.clientHeight / 2 - pin.dataset.row * zoom;
  draw();
}
for (const pin of pins) pin.onclick = () => {
  show(pin);
  document.getElementById(`place-${pin.dataset.number}`)?.scrollIntoView({ block: "center" });
};
for (const button of document.querySelectorAll(".show")) button.onclick = () => {
  show(pins.find(pin => pin.dataset.number === button.dataset.number));
  map.scrollIntoView({ block: "center" });
};
const verdicts = {};
for (const group of document.querySelectorAll(".verdict")) for (const button of group.children) button.onclick = () => {
  for (const other of group.children) other.setAttribute("aria-pressed", other === button);
  verdicts[group.dataset.number] = button.dataset.verdict;
};
const save = document.getElementById("export");
if (save) save.onclick = () => {
  const marked = outlines.filter(each => each.properties.number in verdicts);
  for (const each of marked) each.properties.verdict = verdicts[each.properties.number];
  const text = JSON.stringify({ type: "FeatureCollection", features: marked });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
  link.download = "reviewed.geojson";
  link.click();
};
window.addEventListener("resize", all);
all();

"use strict";
// What both maps share: streets underneath, links, and moving and zooming by mouse, wheel, fingers
// and keys.
const TILES = "https://tile.openstreetmap.org"; // asked only after "Streets" is switched on
const TILE_PX = 256;
const MAX_ZOOM = 19;
const MAX_TILES = 60; // of one view

// Draw tiles below the canvas of a map; see reports/planes.py for the regions. A view is a centre in
// metres (east, north) and its scale in pixels per metre.
function makeStreets(map, regions, redraw) {
  const canvas = document.createElement("canvas");
  canvas.className = "streets";
  map.prepend(canvas);
  const context = canvas.getContext("2d");
  const toggle = map.querySelector(".streets-switch");
  const checkbox = toggle.querySelector("input");
  const attribution = map.querySelector(".attribution");
  const trouble = map.querySelector(".trouble");
  const tiles = new Map();
  toggle.hidden = !regions.length;

  const terms = (u, v) => [1, u, v, u * u, u * v, v * v, u ** 3, u * u * v, u * v * v, v ** 3];
  function convert(from, to, x, y) {
    const powers = terms((x - from.middle[0]) / from.half, (y - from.middle[1]) / from.half);
    return from.terms.map(
      (factors, axis) =>
        to.middle[axis] + to.half * factors.reduce((sum, factor, i) => sum + factor * powers[i], 0),
    );
  }
  // The polynomials of "plane" end there and start from the world, and the other way round.
  const toWorld = ({ plane, world }, east, north) =>
    convert({ ...plane, terms: world.terms }, world, east, north);
  const toPlane = ({ plane, world }, x, y) => convert({ ...world, terms: plane.terms }, plane, x, y);

  function say(text) {
    trouble.textContent = text;
    trouble.hidden = !text;
  }

  function tile(zoom, x, y) {
    const address = `${TILES}/${zoom}/${x}/${y}.png`;
    if (!tiles.has(address)) {
      const picture = new Image();
      picture.onload = redraw;
      picture.onerror = () => say("Streets are missing: there is no network, or the server refuses.");
      picture.src = address;
      tiles.set(address, picture);
    }
    const picture = tiles.get(address);
    return picture.complete && picture.naturalWidth ? picture : null;
  }

  function drawRegion(region, view, ratio) {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const west = Math.max(region.box_m[0], view.east - width / 2 / view.scale);
    const south = Math.max(region.box_m[1], view.north - height / 2 / view.scale);
    const east = Math.min(region.box_m[2], view.east + width / 2 / view.scale);
    const north = Math.min(region.box_m[3], view.north + height / 2 / view.scale);
    if (west >= east || south >= north) return;
    const corners = [[west, south], [west, north], [east, south], [east, north]];
    const worlds = corners.map((corner) => toWorld(region, ...corner));
    const side = Math.hypot(worlds[2][0] - worlds[0][0], worlds[2][1] - worlds[0][1]) / (east - west);
    let zoom = Math.round(Math.log2(view.scale / side / TILE_PX)); // side: of the world, of a metre
    zoom = Math.min(Math.max(zoom, 0), MAX_ZOOM);
    const range = (axis) => {
      const values = worlds.map((world) => Math.floor(world[axis] * 2 ** zoom));
      return [Math.min(...values), Math.max(...values)];
    };
    while (zoom > 0) {
      const [[x0, x1], [y0, y1]] = [range(0), range(1)];
      if ((x1 - x0 + 1) * (y1 - y0 + 1) <= MAX_TILES) break;
      zoom--;
    }
    const screen = (x, y) => {
      const [atEast, atNorth] = toPlane(region, x / 2 ** zoom, y / 2 ** zoom);
      return [
        (width / 2 + (atEast - view.east) * view.scale) * ratio,
        (height / 2 - (atNorth - view.north) * view.scale) * ratio,
      ];
    };
    context.save();
    context.beginPath(); // regions side by side do not overlap
    context.rect(
      (width / 2 + (west - view.east) * view.scale) * ratio,
      (height / 2 - (north - view.north) * view.scale) * ratio,
      (east - west) * view.scale * ratio,
      (north - south) * view.scale * ratio,
    );
    context.clip();
    const [[x0, x1], [y0, y1]] = [range(0), range(1)];
    for (let x = x0; x <= x1; x++) {
      for (let y = y0; y <= y1; y++) {
        const picture = tile(zoom, x, y);
        if (!picture) continue;
        const [[left, top], right, below] = [screen(x, y), screen(x + 1, y), screen(x, y + 1)];
        const axes = [right[0] - left, right[1] - top, below[0] - left, below[1] - top];
        context.setTransform(...axes.map((length) => length / TILE_PX), left, top);
        context.drawImage(picture, 0, 0, TILE_PX + 0.5, TILE_PX + 0.5); // no gaps between tiles
      }
    }
    context.restore();
  }

  checkbox.addEventListener("change", () => {
    say("");
    if (checkbox.checked && location.protocol === "file:") {
      // Without a referrer, which only pages of a server have, OpenStreetMap refuses tiles.
      checkbox.checked = false;
      const [folder, page] = decodeURI(location.pathname).split(/\/(?=[^/]*$)/);
      say(
        `OpenStreetMap gives streets only to pages that come from a server. Type: python -m ` +
          `http.server --directory "${folder}", then open http://localhost:8000/${page}`,
      );
    }
    for (const [address, picture] of tiles) if (!picture.naturalWidth) tiles.delete(address);
    attribution.hidden = !checkbox.checked;
    redraw();
  });

  return {
    draw(view) {
      const ratio = window.devicePixelRatio || 1;
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
      if (checkbox.checked) for (const region of regions) drawRegion(region, view, ratio);
    },
    // Latitude and longitude of a place, or null where they are not known.
    degrees(east, north) {
      const region = regions.find(
        ({ box_m: [west, south, right, top] }) =>
          east >= west && east <= right && north >= south && north <= top,
      );
      if (!region) return null;
      const [x, y] = toWorld(region, east, north);
      return [(Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI, 360 * x - 180];
    },
  };
}

// Add links that open a place in two public maps.
function addLinks(parent, [latitude, longitude]) {
  const [north, east] = [latitude.toFixed(6), longitude.toFixed(6)];
  const links = document.createElement("span");
  links.className = "links";
  for (const [name, address] of [
    ["OpenStreetMap", `https://www.openstreetmap.org/?mlat=${north}&mlon=${east}#map=19/${north}/${east}`],
    ["Google Maps", `https://www.google.com/maps/search/?api=1&query=${north},${east}`],
  ]) {
    const link = document.createElement("a");
    Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer", textContent: name });
    links.append(link);
  }
  parent.append(links);
}

// Move and zoom a map. `hover` hears of the pointer (nothing once it has left), `tap` of a click.
function navigate(map, canvas, { move, zoom, whole, hover, tap }) {
  const fingers = new Map(); // id of a pointer -> [x, y]
  let travelled = 0;
  const centre = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  function grip() {
    const [[x, y], second] = [...fingers.values()];
    if (!second) return { x, y, length: 1 };
    const length = Math.max(Math.hypot(second[0] - x, second[1] - y), 1);
    return { x: (x + second[0]) / 2, y: (y + second[1]) / 2, length };
  }
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (!fingers.size) travelled = 0;
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId)) {
      const before = grip();
      fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      const now = grip();
      travelled += Math.hypot(now.x - before.x, now.y - before.y) + Math.abs(now.length - before.length);
      move(now.x - before.x, now.y - before.y);
      if (now.length !== before.length) zoom(now.length / before.length, now.x, now.y);
    }
    if (fingers.size < 2) hover(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerup", (event) => {
    const wasLast = fingers.delete(event.pointerId) && !fingers.size;
    if (wasLast && travelled < 6) tap(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => hover());
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaMode === 1 ? 30 * event.deltaY : event.deltaY; // lines or pixels
      zoom(Math.exp(-pixels / 500), event.offsetX, event.offsetY);
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 }[event.key];
    if (factor) zoom(factor, ...centre());
    if (!moves[event.key]) return;
    event.preventDefault();
    move(...moves[event.key]);
  });
  for (const button of map.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      if (button.dataset.zoom === "whole") whole();
      else zoom(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5, ...centre());
    });
  }
}

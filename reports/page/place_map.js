// The map of map.html: places of a database, and the predictions of photos by the photos' numbers.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const map = document.getElementById("map");
  const canvas = document.getElementById("map-canvas");
  const context = canvas.getContext("2d");
  const tooltip = document.getElementById("tooltip");
  const scaleBar = document.getElementById("scale");
  const INK = "#1f262c";
  const HEIGHT_PX = 20; // of a marker
  const LARGEST_SCALE = 100; // pixels a metre
  const places = data.regions.flatMap((region) => {
    const bytes = Uint8Array.from(atob(region.places), (letter) => letter.charCodeAt(0));
    const cells = new Uint16Array(bytes.buffer);
    return Array.from(cells, (cell, i) => region.origin_m[i % 2] + cell * region.step_m);
  });
  const streets = makeStreets(map, data.streets, redraw);
  const view = { east: 0, north: 0, scale: 1 };
  let chosen = -1; // photo whose predictions are all shown
  let pinned = null; // marker whose tooltip stays
  let markers = []; // as drawn, the last one on top
  let frame = 0;

  const colourOf = (photo) => `hsl(${(photo * 137.5) % 360} 70% 33%)`;
  const xOf = (east) => canvas.clientWidth / 2 + (east - view.east) * view.scale;
  const yOf = (north) => canvas.clientHeight / 2 - (north - view.north) * view.scale;

  function fit(points) {
    const [easts, norths] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const range = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const [[west, east], [south, north]] = [range(easts), range(norths)];
    view.east = (west + east) / 2;
    view.scale = Math.min(
      (canvas.clientWidth - 80) / Math.max(east - west, 60),
      (canvas.clientHeight - 130) / Math.max(north - south, 60),
    );
    view.north = (south + north) / 2 + 20 / view.scale; // buttons are above
    redraw();
  }
  const pointsOf = (photo) => [...photo.points, ...(photo.own ? [photo.own] : [])].map((point) => point.position_m);
  function fitAll() {
    const points = data.photos.flatMap(pointsOf);
    for (let i = 0; i < places.length; i += 2) points.push([places[i], places[i + 1]]);
    fit(points);
  }

  function redraw() {
    frame = frame || requestAnimationFrame(draw);
  }
  function draw() {
    frame = 0;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    streets.draw(view);
    context.fillStyle = "#8f979f";
    for (let i = 0; i < places.length; i += 2) {
      context.fillRect(xOf(places[i]) - 1.5, yOf(places[i + 1]) - 1.5, 3, 3);
    }
    markers = layOut();
    for (const marker of markers) drawLine(marker);
    for (const marker of markers) drawMarker(marker);
    drawScale();
  }

  // Choose the markers to draw and their places on the screen. The most important ones are placed
  // first and drawn last; one that would hide another is moved aside.
  function layOut() {
    const wanted = [];
    const shown = data.photos.map((photo, number) => ({ photo, number }));
    if (chosen >= 0) shown.unshift(...shown.splice(chosen, 1));
    for (const { photo, number } of shown) {
      if (photo.points.length) wanted.push({ number, point: photo.points[0], kind: "first" });
    }
    for (const { photo, number } of shown) {
      const isChosen = chosen < 0 || number === chosen;
      if (photo.own && isChosen) wanted.push({ number, point: photo.own, kind: "own" });
      if (number !== chosen) continue;
      for (const point of photo.points.slice(1)) wanted.push({ number, point, kind: "later" });
    }
    const taken = new Map(); // cell of the screen -> markers in it
    return wanted
      .map((marker) => place({ ...marker, ...describe(marker) }, taken))
      .reverse();
  }
  function describe({ number, point, kind }) {
    const doubt = kind === "first" && !data.photos[number].is_in_database ? "?" : "";
    const text = kind === "later" ? `${number + 1}.${point.rank}` : `${number + 1}${doubt}`;
    context.font = "bold 12px system-ui, sans-serif";
    const width = Math.max(HEIGHT_PX, context.measureText(text).width + 10);
    return { text, width, atX: xOf(point.position_m[0]), atY: yOf(point.position_m[1]) };
  }
  function place(marker, taken) {
    const { width, atX, atY } = marker;
    const cellOf = (x, y) => [Math.floor(x / 64), Math.floor(y / 64)];
    const isFree = (x, y) => {
      const [column, row] = cellOf(x, y);
      for (let i = -1; i <= 1; i++) {
        for (let j = -1; j <= 1; j++) {
          for (const other of taken.get(`${column + i} ${row + j}`) || []) {
            const isApart = Math.abs(other.x - x) > (other.width + width) / 2 + 1;
            if (!isApart && Math.abs(other.y - y) < HEIGHT_PX + 2) return false;
          }
        }
      }
      return true;
    };
    let [x, y] = [atX, atY];
    for (let step = 1; !isFree(x, y) && step <= 60; step++) {
      const ring = Math.ceil(step / 12);
      const angle = (step * Math.PI) / 6 + ring / 4;
      x = atX + Math.cos(angle) * 26 * ring;
      y = atY + Math.sin(angle) * 24 * ring;
    }
    const key = cellOf(x, y).join(" ");
    const placed = { ...marker, x, y };
    taken.set(key, [...(taken.get(key) || []), placed]);
    return placed;
  }

  // Lines: from a marker moved aside to its place, and from where EXIF puts a photo to its top-1.
  function drawLine({ x, y, atX, atY, number, kind }) {
    context.globalAlpha = chosen < 0 || chosen === number ? 1 : 0.5;
    context.strokeStyle = context.fillStyle = colourOf(number);
    context.lineWidth = 1.5;
    const line = (toX, toY, dashes) => {
      context.setLineDash(dashes);
      context.beginPath();
      context.moveTo(atX, atY);
      context.lineTo(toX, toY);
      context.stroke();
    };
    if (x !== atX || y !== atY) {
      line(x, y, []);
      context.beginPath();
      context.arc(atX, atY, 3, 0, 2 * Math.PI);
      context.fill();
    }
    const first = data.photos[number].points[0];
    if (kind === "own" && first) line(xOf(first.position_m[0]), yOf(first.position_m[1]), [5, 4]);
    context.setLineDash([]);
    context.globalAlpha = 1;
  }
  function drawMarker({ x, y, width, number, kind, text }) {
    const isFilled = kind === "first";
    const [w, h] = [width / 2, HEIGHT_PX / 2];
    context.globalAlpha = chosen < 0 || chosen === number ? 1 : 0.5;
    context.beginPath();
    if (kind === "own") {
      context.rect(x - w, y - h, width, HEIGHT_PX);
    } else {
      context.roundRect(x - w, y - h, width, HEIGHT_PX, h);
    }
    context.fillStyle = isFilled ? colourOf(number) : "#fff";
    context.strokeStyle = isFilled ? "#fff" : colourOf(number);
    context.lineWidth = 2;
    context.fill();
    context.stroke();
    context.fillStyle = isFilled ? "#fff" : INK;
    context.font = "bold 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5);
    context.globalAlpha = 1;
  }
  function drawScale() {
    const largest = 130 / view.scale;
    const power = 10 ** Math.floor(Math.log10(largest));
    const metres = [5, 2, 1].find((digit) => digit * power <= largest) * power;
    scaleBar.style.width = `${metres * view.scale}px`;
    scaleBar.textContent = metres >= 1000 ? `${metres / 1000} km` : `${metres} m`;
  }

  const markerAt = (x, y) =>
    markers.findLast(
      (marker) => Math.abs(marker.x - x) <= marker.width / 2 + 2 && Math.abs(marker.y - y) <= HEIGHT_PX / 2 + 3,
    );
  function add(parent, tag, text, className) {
    const element = parent.appendChild(document.createElement(tag));
    if (text) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  function showTooltip(marker, x, y) {
    tooltip.replaceChildren();
    tooltip.hidden = !marker;
    tooltip.classList.toggle("pinned", Boolean(marker) && marker === pinned);
    if (!marker) return;
    const { number, point, kind } = marker;
    const photo = data.photos[number];
    const what = { first: "top-1 prediction", later: `prediction ${point.rank}`, own: "position of its EXIF" };
    add(tooltip, "img").src = photo.thumbnail;
    add(tooltip, "b", `Photo ${number + 1}, ${what[kind]}`);
    for (const line of [photo.label, ...point.text.split("\n")]) add(tooltip, "div", line);
    if (point.coordinates_deg) addLinks(tooltip, point.coordinates_deg);
    const fits = (at, size, room) => Math.max(4, Math.min(at + 14, room - size - 4));
    tooltip.style.left = `${fits(x, tooltip.offsetWidth, canvas.clientWidth)}px`;
    tooltip.style.top = `${fits(y, tooltip.offsetHeight, canvas.clientHeight)}px`;
  }

  const cards = data.photos.map((photo, number) => {
    const card = add(document.getElementById("photos"), "div", "", "photo");
    card.style.setProperty("--colour", colourOf(number));
    const head = add(card, "button");
    head.type = "button";
    head.setAttribute("aria-expanded", "false");
    add(head, "span", number + 1, "badge");
    add(head, "img").src = photo.thumbnail;
    const text = add(head, "span", "", "text");
    add(text, "b", photo.label);
    for (const line of photo.text.split("\n")) add(text, "span", line);
    head.addEventListener("click", () => choose(chosen === number ? -1 : number));
    const list = add(card, "ol");
    list.hidden = true;
    for (const point of [...photo.points, ...(photo.own ? [photo.own] : [])]) {
      const item = add(list, "li");
      add(item, "span", point.rank ? `${number + 1}${point.rank > 1 ? `.${point.rank}` : ""}` : number + 1,
        `badge ${point.rank === 1 ? "" : point.rank ? "later" : "own"}`);
      const lines = add(item, "div");
      for (const line of point.text.split("\n")) add(lines, "div", line);
      if (point.coordinates_deg) addLinks(lines, point.coordinates_deg);
    }
    return { card, head, list };
  });
  function choose(number) {
    chosen = number;
    pinned = null;
    showTooltip(null);
    cards.forEach(({ card, head, list }, i) => {
      card.classList.toggle("chosen", i === number);
      head.setAttribute("aria-expanded", String(i === number));
      list.hidden = i !== number;
    });
    const points = number >= 0 ? pointsOf(data.photos[number]) : [];
    if (number >= 0) cards[number].card.scrollIntoView({ block: "nearest" });
    if (points.length) fit(points);
    else fitAll();
  }

  navigate(map, canvas, {
    move(x, y) {
      view.east -= x / view.scale;
      view.north += y / view.scale;
      redraw();
    },
    zoom(factor, x, y) {
      const scale = Math.min(Math.max(view.scale * factor, 1e-5), LARGEST_SCALE);
      const kept = 1 / view.scale - 1 / scale; // what is below the pointer stays there
      view.east += (x - canvas.clientWidth / 2) * kept;
      view.north -= (y - canvas.clientHeight / 2) * kept;
      view.scale = scale;
      redraw();
    },
    whole: () => choose(-1),
    hover(x, y) {
      if (!pinned) showTooltip(x === undefined ? null : markerAt(x, y), x, y);
    },
    tap(x, y) {
      pinned = markerAt(x, y) || null;
      showTooltip(pinned, x, y);
    },
  });
  new ResizeObserver(redraw).observe(canvas);
  choose(data.photos.length === 1 ? 0 : -1);
})();

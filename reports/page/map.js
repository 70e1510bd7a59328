// The map of a report: places of the database, queries, and a line from a query to its top-1.
(async () => {
  const element = document.getElementById("map-data");
  if (!element) return;
  const data = JSON.parse(element.textContent);
  const canvas = document.getElementById("map-canvas");
  const context = canvas.getContext("2d");
  const tooltip = document.getElementById("tooltip");
  const scaleBar = document.getElementById("scale");
  const region = document.getElementById("region");
  const STATUSES = ["missed", "later", "correct"]; // as numbered in the data
  const COLOURS = { correct: "#1d8a56", wrong: "#cf4333", neutral: "#3566a8" };
  const PLACE_COLOUR = 0xffc0bab4; // alpha, blue, green, red
  const HOVER_PX = 12;
  const MARGIN_PX = 40;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  function sums(steps) {
    const values = new Int32Array(steps.length);
    for (let i = 0, sum = 0; i < steps.length; i++) values[i] = sum += steps[i];
    return values;
  }

  const steps = new Int32Array(await unpack(data.place_steps));
  const placeEasts = sums(steps.subarray(0, data.num_places));
  const placeNorths = sums(steps.subarray(data.num_places));
  const queries = new Int32Array(await unpack(data.queries));
  const firsts = new Int32Array(await unpack(data.first_predictions));
  const statuses = data.statuses && new Uint8Array(await unpack(data.statuses));
  const [queryNames, labels, firstNames, metres] = JSON.parse(
    new TextDecoder().decode(await unpack(data.names)),
  );
  const searched = queryNames.map((name, i) => `${name}\n${firstNames[i]}`.toLowerCase());
  const view = { east: 0, north: 0, scale: 1 }; // centre in units, CSS pixels per unit
  let visible = []; // numbers of the queries that pass the filters
  let hovered = -1;
  let isPinned = false; // the tooltip of `hovered` stays
  let frame = 0;
  const map = document.getElementById("map");
  const streets = makeStreets(map, data.streets, redraw);
  const degreesOf = (points, i) =>
    isKnown(points, i)
      ? streets.degrees(points[2 * i] * data.unit_m, points[2 * i + 1] * data.unit_m)
      : null;

  const statusOf = (query) => (statuses ? STATUSES[statuses[query]] : "unlabelled");
  const kindOf = (query) =>
    !statuses ? "neutral" : statusOf(query) === "correct" ? "correct" : "wrong";
  const isNear = () => view.scale > 0.5 * data.unit_m; // half a pixel a metre
  const isKnown = (points, i) => points[2 * i] !== data.no_position;
  const xOf = (east) => (east - view.east) * view.scale + canvas.clientWidth / 2;
  const yOf = (north) => (view.north - north) * view.scale + canvas.clientHeight / 2;

  function show(box) {
    const [west, south, east, north] = box;
    view.east = (west + east) / 2;
    view.north = (south + north) / 2;
    view.scale = Math.min(
      (canvas.clientWidth - 2 * MARGIN_PX) / Math.max(east - west, 100),
      (canvas.clientHeight - 2 * MARGIN_PX) / Math.max(north - south, 100),
    );
    redraw();
  }

  function wholeMap() {
    if (region && region.value !== "all") return show(data.regions[region.value].box);
    const boxes = data.regions.map((one) => one.box);
    const corner = (i, choose) => choose(...boxes.map((box) => box[i]));
    show([corner(0, Math.min), corner(1, Math.min), corner(2, Math.max), corner(3, Math.max)]);
  }

  function zoom(factor, x, y) {
    const scale = Math.min(Math.max(view.scale * factor, 1e-6), 10);
    const kept = 1 / view.scale - 1 / scale; // what is below the pointer stays there
    view.east += (x - canvas.clientWidth / 2) * kept;
    view.north -= (y - canvas.clientHeight / 2) * kept;
    view.scale = scale;
    redraw();
  }

  function sprite(kind, radius) {
    const picture = document.createElement("canvas");
    picture.width = picture.height = 2 * radius + 4;
    const brush = picture.getContext("2d");
    brush.translate(radius + 2, radius + 2);
    brush.fillStyle = COLOURS[kind];
    brush.strokeStyle = "#fff";
    brush.beginPath();
    if (kind === "wrong") {
      for (const [x, y] of [[0, -1], [1, 0], [0, 1], [-1, 0]]) brush.lineTo(x * radius, y * radius);
      brush.closePath();
    } else {
      brush.arc(0, 0, 0.85 * radius, 0, 2 * Math.PI);
    }
    brush.fill();
    brush.stroke();
    return picture;
  }

  // Straight into pixels: 250,000 places take some milliseconds that way.
  function drawPlaces(ratio) {
    const { width, height } = canvas; // once: these are slow to ask for
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const size = Math.round(ratio * (isNear() ? 4 : 2));
    const scale = view.scale * ratio;
    const left = width / 2 - view.east * scale - size / 2;
    const top = height / 2 + view.north * scale - size / 2;
    for (let i = 0; i < data.num_places; i++) {
      const x = Math.round(left + placeEasts[i] * scale);
      const y = Math.round(top - placeNorths[i] * scale);
      if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
      for (let row = 0, start = y * width + x; row < size; row++, start += width) {
        for (let column = 0; column < size; column++) pixels[start + column] = PLACE_COLOUR;
      }
    }
    context.putImageData(image, 0, 0);
  }

  function drawQueries(ratio) {
    const { width, height } = canvas;
    const radius = Math.round(ratio * (isNear() || visible.length < 2000 ? 6 : 3));
    const scale = view.scale * ratio;
    for (const kind of Object.keys(COLOURS)) {
      const picture = sprite(kind, radius);
      const half = picture.width / 2;
      const left = width / 2 - view.east * scale - half;
      const top = height / 2 + view.north * scale - half;
      for (const query of visible) {
        if (kindOf(query) !== kind) continue;
        const x = Math.round(left + queries[2 * query] * scale);
        const y = Math.round(top - queries[2 * query + 1] * scale);
        const isInside = x > -2 * half && y > -2 * half && x < width && y < height;
        if (isInside) context.drawImage(picture, x, y);
      }
    }
  }

  function drawHovered(ratio) {
    const point = (points) => [
      xOf(points[2 * hovered]) * ratio,
      yOf(points[2 * hovered + 1]) * ratio,
    ];
    context.strokeStyle = "#1f262c";
    context.lineWidth = 2 * ratio;
    context.beginPath();
    context.arc(...point(queries), 9 * ratio, 0, 2 * Math.PI);
    if (isKnown(firsts, hovered)) {
      context.moveTo(...point(queries));
      context.lineTo(...point(firsts));
      context.stroke();
      context.beginPath();
      context.arc(...point(firsts), 4 * ratio, 0, 2 * Math.PI);
      context.fillStyle = "#1f262c";
      context.fill();
    }
    context.stroke();
  }

  function drawScale() {
    const pixelsPerMetre = view.scale / data.unit_m;
    const largest = 130 / pixelsPerMetre; // metres
    const power = 10 ** Math.floor(Math.log10(largest));
    const length = [5, 2, 1].find((digit) => digit * power <= largest) * power;
    scaleBar.style.width = `${length * pixelsPerMetre}px`;
    scaleBar.textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
  }

  function draw() {
    frame = 0;
    const ratio = window.devicePixelRatio;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    streets.draw({
      east: view.east * data.unit_m,
      north: view.north * data.unit_m,
      scale: view.scale / data.unit_m,
    });
    drawPlaces(ratio);
    drawQueries(ratio);
    if (hovered >= 0) drawHovered(ratio);
    drawScale();
  }

  function redraw() {
    frame = frame || requestAnimationFrame(draw);
  }

  function nearest(x, y) {
    let best = -1;
    let bestSquare = HOVER_PX ** 2;
    for (const query of visible) {
      const square = (xOf(queries[2 * query]) - x) ** 2 + (yOf(queries[2 * query + 1]) - y) ** 2;
      if (square < bestSquare) [best, bestSquare] = [query, square];
    }
    return best;
  }

  function line(text, isBold) {
    const div = document.createElement(isBold ? "b" : "div");
    div.textContent = text;
    return div;
  }

  // Links to a place in public maps, shown once the tooltip is pinned.
  function link(points, query) {
    const degrees = degreesOf(points, query);
    if (!degrees || !isPinned) return null;
    const element = document.createElement("div");
    addLinks(element, degrees);
    return element;
  }

  function describe(query) {
    const verdict = { correct: "correct", wrong: "wrong", neutral: "" }[kindOf(query)];
    const found = [metres[query], verdict].filter(Boolean).join(", ");
    const sign = { correct: " ✓", wrong: " ✗", neutral: "" }[kindOf(query)];
    const lines = [line(labels[query] || `Query ${query}, without predictions`, true)];
    if (queryNames[query] !== labels[query]) lines.push(line(queryNames[query]));
    lines.push(link(queries, query));
    lines.push(line(`top-1 prediction${found && `: ${found}${sign}`}`), line(firstNames[query]));
    lines.push(link(firsts, query));
    tooltip.replaceChildren(...lines.filter(Boolean));
    const figures = document.querySelectorAll(`.card[data-query="${query}"] figure`);
    for (const figure of [...figures].slice(0, 2)) {
      const picture = figure.querySelector("img");
      if (!picture) continue;
      const copy = picture.cloneNode();
      copy.loading = "eager";
      tooltip.append(copy);
    }
  }

  function showQuery(query, x, y) {
    if (query !== hovered || isPinned) {
      hovered = query;
      tooltip.hidden = query < 0;
      if (query >= 0) describe(query);
      redraw();
    }
    tooltip.classList.toggle("pinned", isPinned);
    if (query < 0) return;
    const fits = (at, size, room) => {
      if (at + 16 + size < room) return at + 16;
      return Math.max(4, Math.min(at - 16, room - 4) - size);
    };
    tooltip.style.left = `${fits(x, tooltip.offsetWidth, canvas.clientWidth)}px`;
    tooltip.style.top = `${fits(y, tooltip.offsetHeight, canvas.clientHeight)}px`;
  }

  navigate(map, canvas, {
    move(x, y) {
      view.east -= x / view.scale;
      view.north += y / view.scale;
      redraw();
    },
    zoom,
    whole: wholeMap,
    hover(x, y) {
      if (!isPinned) showQuery(x === undefined ? -1 : nearest(x, y), x, y);
    },
    tap(x, y) {
      const query = nearest(x, y);
      isPinned = query >= 0;
      showQuery(query, x, y);
    },
  });
  if (region) region.addEventListener("change", wholeMap);
  document.addEventListener("filter", ({ detail }) => {
    visible = queryNames
      .map((_, query) => query)
      .filter(
        (query) =>
          isKnown(queries, query) &&
          detail.passes(statusOf(query)) &&
          searched[query].includes(detail.wanted),
      );
    isPinned = false;
    showQuery(-1);
    redraw();
  });
  new ResizeObserver(redraw).observe(canvas);
  visible = queryNames.map((_, query) => query).filter((query) => isKnown(queries, query));
  wholeMap();
})();

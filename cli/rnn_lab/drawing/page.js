"use strict";
/* What a page does beside being read: values under the pointer, and texts whose symbols can be chosen. */

const LEVELS = 12;
const NAMES = {" ": "space", "↵": "line end", "⇥": "tab"};

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function short(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (0 < size && size < 1e-3) return Number(value).toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(Number(value).toPrecision(1 <= size && size < 10 ? 4 : 3)));
}

function percent(share) {
  return share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function named(symbol) {
  return NAMES[symbol] || `“${symbol}”`;
}

/*
 * Show the values at the pointer, at a finger, or where the arrow keys have led.
 * `plot` is the element whose box the plot fills. `source` has three functions of places in it: `near(x, y, box)` is the
 * place nearest to a point in shares of the box, from its lower left; `move(place, dx, dy)` is its neighbour; and
 * `tell(place)` is {left, right, bottom, top} in such shares, a head, and rows of {label, value, colour}.
 * What it returns tells what is shown `now`, and shows it `again` in a figure that was drawn anew.
 */
function pointing(figure, svg, plot, source) {
  const tip = make("div", {class: "tip", role: "status"}), mark = make("div", {class: "guide"});
  let place = null;
  figure.append(mark, tip);
  svg.setAttribute("tabindex", "0");
  hide();

  function hide() {
    tip.hidden = mark.hidden = true;
    place = null;
  }

  function show(next) {
    if (next === null || next === undefined) return hide();
    const told = source.tell(place = next), box = plot.getBoundingClientRect(), all = figure.getBoundingClientRect();
    tip.replaceChildren(make("b", {}, told.head), ...told.rows.map(({label, value, colour}) => {
      const swatch = make("i");
      if (colour) swatch.style.background = `var(--series-${colour})`;
      return make("div", {}, ...(colour ? [swatch] : []), label && value ? `${label}: ` : label, make("span", {}, value));
    }));
    tip.hidden = mark.hidden = false;
    const x = share => box.left - all.left + share * box.width, y = share => box.bottom - all.top - share * box.height;
    Object.assign(mark.style, {left: `${x(told.left)}px`, top: `${y(told.top)}px`,
      width: `${x(told.right) - x(told.left)}px`, height: `${y(told.bottom) - y(told.top)}px`});
    const beside = x(told.right) + 10, room = tip.offsetWidth;
    const left = beside + room <= all.width ? beside : Math.max(x(told.left) - 10 - room, 0);
    tip.style.left = `${Math.min(left, Math.max(all.width - room, 0))}px`;
    tip.style.top = `${Math.max(y((told.top + told.bottom) / 2) - tip.offsetHeight / 2, 0)}px`;
  }

  function under(event) {
    const box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (box.bottom - event.clientY) / box.height;
    if (x < -.02 || x > 1.02 || y < -.02 || y > 1.02) hide();
    else show(source.near(Math.min(Math.max(x, 0), 1), Math.min(Math.max(y, 0), 1), box));
  }

  svg.addEventListener("pointermove", under);
  svg.addEventListener("pointerdown", under);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1]}[event.key] || [0, 0];
    if (event.key === "Escape") hide();
    if (!dx && !dy || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(place === null ? source.near(.5, .5, plot.getBoundingClientRect()) : source.move(place, dx, dy));
  });

  return {
    now: () => ({place, told: place === null ? null : source.tell(place), focused: document.activeElement === svg}),
    again: ({place, told, focused}) => {
      if (focused) svg.focus({preventScroll: true});
      if (!told) return;
      const {left, right, bottom, top} = told, box = plot.getBoundingClientRect();
      show(focused ? source.move(place, 0, 0) : source.near((left + right) / 2, (bottom + top) / 2, box));
    },
  };
}

const nearest = (count, distance) => {
  let best = null, least = Infinity;
  for (let at = 0; at < count; at++) {
    const found = distance(at);
    if (found < least) [best, least] = [at, found];
  }
  return best;
};

/* Curves as a source: `x` are shares of the plot's width, null for what is not drawn; `names` and `values` are words. */
function lines(curves) {
  const stops = [...new Set(curves.flatMap(curve => curve.constant ? [] : curve.x).filter(x => x !== null))];
  if (!stops.length) stops.push(...curves.flatMap(curve => curve.x).filter(x => x !== null));
  stops.sort((one, other) => one - other);
  const apart = (curve, at, x) => curve.x[at] === null || curve.values[at] === "-" ? Infinity : Math.abs(curve.x[at] - x);

  function tell(place) {
    const x = stops[place], found = [];
    for (const curve of curves) {
      const at = nearest(curve.x.length, at => apart(curve, at, x));
      if (at === null) continue;
      const drawn = curve.x.filter((x, at) => apart(curve, at, x) === 0);
      if (!curve.constant && (x < drawn[0] - .02 || x > drawn[drawn.length - 1] + .02)) continue;
      found.push({curve, at, exact: curve.x[at] === x});
    }
    const head = (found.find(({curve, exact}) => exact && !curve.constant) || found[0]);
    const name = head ? head.curve.names[head.at] : "";
    const rows = found.map(({curve, at, exact}) => ({
      label: curve.label, colour: curve.colour,
      value: curve.constant && curve.label.endsWith(curve.values[at]) ? "" : exact || curve.constant ? curve.values[at] : `${curve.values[at]} (at ${curve.names[at].replace(/^.* /, "")})`,
    }));
    return {left: x, right: x, bottom: 0, top: 1, head: name, rows};
  }

  return {
    near: x => nearest(stops.length, at => Math.abs(stops[at] - x)),
    move: (place, dx) => Math.min(Math.max(place + dx, 0), stops.length - 1),
    tell,
  };
}

/* Clouds of points as a source: the nearest one, in pixels. */
function cloud(points, axes) {
  return {
    near: (x, y, box) => nearest(points.length, at =>
      ((points[at].x - x) * box.width) ** 2 + ((points[at].y - y) * box.height) ** 2),
    move: (place, dx, dy) => Math.min(Math.max(place + (dx || dy), 0), points.length - 1),
    tell: place => {
      const {x, y, label, colour, names} = points[place];
      const rows = axes.map((axis, at) => ({label: axis, value: names[at]}));
      return {left: x - .012, right: x + .012, bottom: y - .015, top: y + .015, head: label, rows, colour};
    },
  };
}

/* A matrix as a source, from the rows of its table. */
function cells(table, data) {
  const rows = [...table.tBodies[0].rows], names = [...table.tHead.rows[0].cells].slice(1).map(cell => cell.textContent);
  const height = rows.length, width = names.length, name = (at, known, word) => known ? `${at} ${named(word)}` : word;
  return {
    near: (x, y) => [Math.min(Math.floor(x * width), width - 1), Math.min(Math.floor((1 - y) * height), height - 1)],
    move: ([column, row], dx, dy) =>
      [Math.min(Math.max(column + dx, 0), width - 1), Math.min(Math.max(row - dy, 0), height - 1)],
    tell: ([column, row]) => ({
      left: column / width, right: (column + 1) / width, top: 1 - row / height, bottom: 1 - (row + 1) / height,
      head: rows[row].cells[column + 1].textContent,
      rows: [{label: data.y, value: name(row, data.named[1], rows[row].cells[0].textContent)},
        {label: data.x, value: name(column, data.named[0], names[column])}],
    }),
  };
}

/* The source of a figure, from where its tables say that their rows are drawn. */
function sourceOf(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent), tables = [...figure.querySelectorAll("table")];
  if (!data.tables) return cells(tables[0], data);
  const share = places => places.map(place => place === null ? null : place / 1000);
  const curves = data.tables.flatMap(({x, columns}, at) => {
    const rows = [...tables[at].tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent));
    return columns.map(({column, label, colour, band, fixed, y}) => ({
      label, colour, constant: fixed, x: share(x), y: y && share(y), names: rows.map(row => row[0]),
      values: rows.map(row => band && row[column] !== "-" ? `${row[column]} (${row[column + 1]} to ${row[column + 2]})` : row[column]),
    }));
  });
  if (curves.some(curve => curve.y)) {
    const points = curves.filter(curve => curve.y).flatMap(({label, colour, x, y, names, values}) =>
      x.map((place, at) => ({x: place, y: y[at], label, colour, names: [names[at], values[at]]})));
    return cloud(points.filter(({x, y}) => x !== null && y !== null).sort((one, other) => one.x - other.x), [data.x, data.y]);
  }
  for (const curve of curves) curve.names = curve.names.map(name => `${data.x}: ${name}`);
  return lines(curves);
}

/* A text of which one symbol is chosen, by click, touch or keys, and the panel that tells of it. */
function reader(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const text = figure.querySelector("pre"), symbols = [...text.children];
  const usual = symbols.map(symbol => symbol.className);
  const panel = figure.querySelector(".chosen");
  let now = 0;

  text.setAttribute("role", "listbox");
  text.setAttribute("aria-label", figure.querySelector("h3").textContent);
  symbols.forEach((symbol, place) => {
    symbol.setAttribute("role", "option");
    symbol.setAttribute("aria-label", `${named(data.symbols[place])}, ${short(data.bits[place])} bits`);
    symbol.tabIndex = -1;
  });

  const before = make("button", {type: "button"}, `‹ previous ${data.unit}`);
  const after = make("button", {type: "button"}, `next ${data.unit} ›`);
  before.addEventListener("click", () => choose(now - 1));
  after.addEventListener("click", () => choose(now + 1));
  const told = make("div");
  panel.append(make("div", {class: "moves"}, before, after), told);
  panel.hidden = false;

  function choose(place, focus) {
    place = Math.min(Math.max(place, 0), symbols.length - 1);
    symbols[now].tabIndex = -1;
    symbols[now].setAttribute("aria-selected", "false");
    now = place;
    const moved = data.moved[now];
    symbols.forEach((symbol, at) => {
      const distance = now - at;
      const level = distance > 0 && distance <= moved.length ? Math.round(moved[distance - 1] / 1000 * LEVELS) : null;
      symbol.className = level === null ? usual[at] : level ? `b${level}` : "";
    });
    symbols[now].tabIndex = 0;
    symbols[now].setAttribute("aria-selected", "true");
    before.disabled = now === 0;
    after.disabled = now === symbols.length - 1;
    told.replaceChildren(...telling(data, now));
    if (focus) symbols[now].focus({preventScroll: true});
    show(symbols[now]);
  }

  function show(symbol) {
    /* Scroll the text, not the page, unless the symbol is beyond the window. */
    const box = symbol.getBoundingClientRect(), view = text.getBoundingClientRect();
    if (box.top < view.top) text.scrollTop -= view.top - box.top + 8;
    if (box.bottom > view.bottom) text.scrollTop += box.bottom - view.bottom + 8;
    if (document.activeElement === symbol) symbol.scrollIntoView({block: "nearest", inline: "nearest"});
  }

  function lineOf(place, direction) {
    /* The symbols of the line that a symbol is in, or of the one above or below it, as they are wrapped. */
    const box = place => symbols[place].getClientRects()[0];
    const apart = (one, other) => Math.abs(box(one).top - box(other).top) > box(one).height / 2;
    let start = place;
    if (direction) {
      while (symbols[start + direction] && !apart(place, start + direction)) start += direction;
      start += direction;
      if (!symbols[start]) return [];
    }
    let first = start, last = start;
    while (first > 0 && !apart(start, first - 1)) first--;
    while (last < symbols.length - 1 && !apart(start, last + 1)) last++;
    return [...Array(last - first + 1).keys()].map(index => first + index);
  }

  function beside(direction) {
    const left = place => symbols[place].getClientRects()[0].left, here = left(now);
    const line = lineOf(now, direction);
    return line.reduce((best, at) => Math.abs(left(at) - here) < Math.abs(left(best) - here) ? at : best, line[0] ?? now);
  }

  text.addEventListener("click", event => {
    const symbol = event.target.closest("[role=option]");
    if (symbol) choose(symbols.indexOf(symbol), true);
  });
  text.addEventListener("keydown", event => {
    if (event.altKey || event.metaKey) return;
    const places = {
      ArrowLeft: () => now - 1,
      ArrowRight: () => now + 1,
      ArrowUp: () => beside(-1),
      ArrowDown: () => beside(1),
      Home: () => event.ctrlKey ? 0 : lineOf(now, 0)[0],
      End: () => event.ctrlKey ? symbols.length - 1 : lineOf(now, 0).pop(),
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    choose(places[event.key](), true);
  });
  choose(data.bits.indexOf(Math.max(...data.bits)));
}

/* What the panel says of one symbol of a text. */
function telling(data, place) {
  const symbol = data.symbols[place], bits = data.bits[place], moved = data.moved[place], most = data.most[place];
  const known = bits !== null, share = known ? 2 ** -bits : null;
  const said = known ? `${short(bits)} bits, probability ${percent(share)}` : "not predicted";
  const parts = [make("h4", {"aria-live": "polite"}, `${named(symbol)} at ${place}: ${said}`)];

  if (known) {
    const expected = [...data.expected[place]];
    if (!expected.some(([name]) => name === symbol)) expected.push([symbol, share]);
    parts.push(make("h5", {}, "Expected here"), make("table", {}, make("tbody", {}, ...expected.map(([name, share]) => {
      const bar = make("span");
      bar.style.width = `${100 * share}%`;
      const row = name === symbol ? {class: "here"} : {};
      return make("tr", row, make("td", {}, named(name)), make("td", {}, percent(share)), make("td", {class: "bar"}, bar));
    }))));
  }
  if (moved.length) {
    const value = distance => short(most * moved[distance - 1] / 1000);
    const word = distance => `${named(data.symbols[place - distance])}, ${distance} before: ${value(distance)}`;
    const top = moved.indexOf(Math.max(...moved)) + 1;
    const bars = moved.map((share, index) => {
      const bar = make("i", {title: word(index + 1)});
      bar.style.setProperty("--share", `${share / 10}%`);
      return bar;
    });
    parts.push(
      make("h5", {}, "What moved it"),
      make("div", {class: "moved", role: "img", "aria-label": `Influence by distance; the largest is of ${word(top)}`}, ...bars),
      make("p", {class: "ends"}, make("span", {}, `${moved.length} before`), make("span", {}, "1 before")),
      make("p", {}, `Most by ${named(data.symbols[place - top])}, ${top} before it: ${value(top)} nats`));
  }
  if (data.traces.length) {
    parts.push(make("h5", {}, "Gates, as it is read"), make("table", {}, make("tbody", {}, ...data.traces.map(trace => {
      const at = trace.values[place], bar = make("b");
      const where = value => 100 * (value - trace.low) / (trace.high - trace.low);
      bar.style.left = `${where(Math.min(at, 0))}%`;
      bar.style.width = `${where(Math.max(at, 0)) - where(Math.min(at, 0))}%`;
      return make("tr", {}, make("td", {}, trace.label), make("td", {}, short(at)),
        make("td", {class: "bar"}, make("i", {class: "trace"}, bar)));
    }))));
  }
  return parts;
}

document.querySelectorAll("figure.transcript").forEach(reader);
document.querySelectorAll("figure.chart, figure.image").forEach(figure => {
  const svg = figure.querySelector("svg"), plot = svg && svg.querySelector(".pixels image, image.pixels, .plot");
  if (plot) pointing(figure, svg, plot, sourceOf(figure));
});

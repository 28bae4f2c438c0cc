/* A run that is followed: what `rnn watch` tells of it, asked for again and again, as numbers, curves and texts. */
{
  const MS = {running: 2000, absent: 2000, ended: 5000};
  const WIDE = 30;
  const BOX = {width: 480, height: 260, left: 58, right: 470, top: 10, bottom: 216};
  const SVG = "http://www.w3.org/2000/svg";
  const one = selector => document.querySelector(selector);
  let version = "", next = 0, records = [], last = null;

  async function ask() {
    let pause = MS.ended;
    try {
      const answer = await fetch(`told?version=${version}&next=${next}`, {cache: "no-store"});
      if (!answer.ok) throw new Error(answer.statusText);
      const told = await answer.json();
      take(told);
      show(told);
      pause = MS[told.state] || MS.ended;
    } catch (error) {
      state("gone", "rnn watch has ended, or does not answer: what is below is the last that it told.");
    }
    setTimeout(ask, pause);
  }

  /* Add the new records; a record of an earlier step replaces all from there on. */
  function take(told) {
    if (told.version !== version) records = [];
    for (const record of told.records) {
      while (records.length && records[records.length - 1].step >= record.step) records.pop();
      records.push(record);
    }
    version = told.version;
    next = told.next;
  }

  function state(kind, sentence) {
    const line = one(".state");
    line.className = `state ${kind}`;
    if (line.textContent !== sentence) line.textContent = sentence;
  }

  function show(told) {
    state(told.state, told.sentence);
    one(".about").textContent = told.about;
    const seen = JSON.stringify([version, next, told.flow, told.samples, told.no_sample]);
    if (seen === last) return;
    last = seen;
    numbers(told);
    charts(told);
    samples(told);
  }

  const whole = value => (Math.round(value) + 0).toLocaleString("en-US");

  function duration(seconds) {
    const s = Math.round(seconds), two = n => String(n).padStart(2, "0");
    return s < 60 ? `${s} s` : `${s >= 3600 ? `${Math.floor(s / 3600)}:` : ""}${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  }

  function numbers(told) {
    const newest = records[records.length - 1];
    const rows = [];
    if (newest) {
      const validated = records.filter(record => "valid_loss" in record).pop();
      rows.push(["step", whole(newest.step)], ["epoch", newest.epoch.toFixed(2)], ["time", duration(newest.seconds)]);
      rows.push(["training loss", measured(told, "loss", newest.train_loss)]);
      for (const [name, value] of Object.entries(validated || {}))
        if (name.startsWith("valid_")) rows.push([`${worded(name)} at step ${whole(validated.step)}`, measured(told, name.slice("valid_".length), value)]);
      rows.push(["learning rate", short(newest.learning_rate)], ["gradient norm", short(newest.gradient_norm)]);
      rows.push([`${told.unit} per second`, whole(newest.units_per_second)]);
    }
    one(".now").replaceChildren(...rows.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  const worded = name => `held-out ${name.slice("valid_".length).replaceAll("_", " ")}`;
  const measured = (told, name, value) => [short(value), told.metrics[name]].filter(Boolean).join(" ");
  const unit = (told, name) => told.metrics[name] ? `, ${told.metrics[name]}` : "";

  function charts(told) {
    const column = name => records.filter(r => typeof r[name] === "number").map(r => [r.step, r[name]]);
    const held = [...new Set(records.flatMap(Object.keys))].filter(name => name.startsWith("valid_"));
    const all = [{key: "loss", title: `Loss${unit(told, "loss")}`, x: "step", series: [
      {label: "training", points: column("train_loss"), thin: true, colour: 1},
      {label: "held-out", points: column("valid_loss"), marked: true, colour: 2}]}];
    for (const name of held.filter(name => name !== "valid_loss"))
      all.push({key: name, title: `${worded(name)}${unit(told, name.slice(6))}`, x: "step",
        series: [{label: worded(name), points: column(name), marked: true, colour: 2}]});
    all.push(
      {key: "rate", title: "Learning rate", x: "step", linear: true, series: [{label: "learning rate", points: column("learning_rate"), colour: 3}]},
      {key: "gradient", title: "Gradient norm before clipping", x: "step",
        series: [{label: "gradient norm", points: column("gradient_norm"), thin: true, colour: 4}]});
    if (told.flow) {
      const curves = Object.entries(told.flow.norms).map(([label, norms], index) =>
        ({label, points: told.flow.lags.map((lag, at) => [lag, norms[at]]).filter(p => p[1] !== null), colour: index % 8 + 1}));
      all.push({key: "flow", title: `Gradient by time lag, at step ${whole(told.flow.step)}`, x: "lag, steps", log: true, series: curves});
      const lives = column("half_life");
      if (lives.length > 1)
        all.push({key: "half_life", title: "Half-life of the gradient, steps", x: "step", series: [{label: "half-life", points: lives, marked: true, colour: 5}]});
    }
    const place = one(".figures");
    for (const chart of all) {
      let figure = place.querySelector(`[data-key="${CSS.escape(chart.key)}"]`);
      const some = chart.series.some(series => series.points.length);
      if (!figure && some) place.append(figure = make("figure", {class: "chart", "data-key": chart.key}));
      if (figure) draw(figure, chart);
    }
    for (const figure of [...place.children])
      if (!all.some(chart => chart.key === figure.dataset.key && chart.series.some(s => s.points.length))) figure.remove();
  }

  function element(tag, attributes, words) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (words !== undefined) made.textContent = words;
    return made;
  }

  /* Round numbers on an axis from low to high. */
  function ticks(low, high, log, most) {
    if (log) {
      const first = Math.ceil(Math.log10(low)), end = Math.floor(Math.log10(high)), every = Math.ceil((end - first + 1) / most) || 1;
      const found = [];
      for (let power = first; power <= end; power += every) found.push(10 ** power);
      return found.length > 1 ? found : [low, high];
    }
    const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(m => m * size).find(step => step >= rough);
    const found = [];
    for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9 * step; count++) found.push(count * step);
    return found;
  }

  function ranged(values, log) {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) [low, high] = log ? [low / 3, high * 3] : [low - (Math.abs(low) / 2 || .5), high + (Math.abs(high) / 2 || .5)];
    return [low, high];
  }

  function draw(figure, chart) {
    const points = chart.series.flatMap(series => series.points), ys = points.map(point => point[1]);
    const positive = ys.length > 0 && Math.min(...ys) > 0;
    const log = positive && !chart.linear && (chart.log || Math.max(...ys) > WIDE * Math.min(...ys));
    const series = chart.series.filter(series => series.points.length);
    if (!series.length) return;
    const [x0, x1] = ranged(points.map(point => point[0]), false);
    let [y0, y1] = ranged(ys, log);
    if (!log) [y0, y1] = [y0 - .04 * (y1 - y0), y1 + .04 * (y1 - y0)];
    const across = x => (x - x0) / (x1 - x0);
    const up = y => log ? Math.log(y / y0) / Math.log(y1 / y0) : (y - y0) / (y1 - y0);
    const at = ([x, y]) => [BOX.left + across(x) * (BOX.right - BOX.left), BOX.bottom - up(y) * (BOX.bottom - BOX.top)];
    const svg = element("svg", {viewBox: `0 0 ${BOX.width} ${BOX.height}`, class: "drawn", role: "img",
      "aria-label": `${chart.title}: ${series.map(s => `${s.label} ${short(s.points[s.points.length - 1][1])}`).join(", ")}`});
    for (const tick of ticks(y0, y1, log, 5)) {
      const y = at([x0, tick])[1];
      svg.append(element("line", {class: "grid", x1: BOX.left, x2: BOX.right, y1: y, y2: y}),
        element("text", {x: BOX.left - 6, y: y + 4, "text-anchor": "end"}, short(tick)));
    }
    for (const tick of ticks(x0, x1, false, 5)) {
      const x = at([tick, y0])[0];
      svg.append(element("line", {class: "grid", x1: x, x2: x, y1: BOX.top, y2: BOX.bottom}),
        element("text", {x: Math.min(x, BOX.right - 12), y: BOX.bottom + 16, "text-anchor": "middle"}, whole(tick)));
    }
    svg.append(element("text", {x: BOX.right, y: BOX.bottom + 36, "text-anchor": "end"}, log ? `${chart.x} (logarithmic height)` : chart.x));
    const plot = element("path", {class: "axis plot", d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}`});
    svg.append(plot);
    for (const {points, colour, thin, marked} of series) {
      const places = points.map(at), stroke = `var(--series-${colour})`;
      svg.append(element("path", {class: `line curve${thin ? " thin" : ""}`, style: `stroke:${stroke}`,
        d: places.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("")}));
      if (marked || places.length === 1)
        for (const [x, y] of places) svg.append(element("circle", {cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5, style: `fill:${stroke}`}));
    }
    const key = series.length > 1 ? [make("ul", {class: "legend"}, ...series.map(({label, colour}) => {
      const mark = make("span");
      mark.style.color = `var(--series-${colour})`;
      return make("li", {}, mark, label);
    }))] : [];
    const before = figure.pointed && figure.pointed.now();
    figure.replaceChildren(make("h3", {}, chart.title), svg, ...key);
    figure.pointed = pointing(figure, svg, plot, lines(series.map(({points, label, colour}) => ({
      label, colour, constant: false, x: points.map(point => across(point[0])),
      names: points.map(point => `${chart.x.split(",")[0]} ${whole(point[0])}`), values: points.map(point => short(point[1])),
    }))));
    if (before) figure.pointed.again(before);
  }

  function samples(told) {
    const place = one(".samples"), texts = [...told.samples].reverse();
    place.hidden = !texts.length && !told.no_sample;
    place.querySelector("p").textContent = told.no_sample ? `No sample: ${told.no_sample}.` : "By the best weights so far, the newest first.";
    place.querySelector("div").replaceChildren(...texts.flatMap(({step, text}) =>
      [make("h3", {}, `Step ${whole(step)}`), make("pre", {}, text)]));
  }

  ask();
}

"use strict";
// The gallery: filters, sorts and enlarges the images of the JSON in #data. Names come from data
// sets and are only ever set as text; file names are numbers.
(() => {
  // Cards come in lists of this many, whole rows of one to four cards. Lists out of sight are not laid
  // out, so that the page is as fast with thousands of cards as with a few.
  const GROUP = 48;
  const MOST_FETCHED = 500;
  const data = JSON.parse(document.getElementById("data").textContent);
  const folder = data.folder.split("/").map(encodeURIComponent).join("/");
  const byId = (id) => document.getElementById(id);
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = new Intl.NumberFormat("en");
  const panelWords = {
    input: "input", reconstruction: "reconstruction", overlay: "anomaly map", mask: "mask",
  };

  const images = data.images.map(
    ([name, trained, kind, label, decision, scores, panels, width, height, stripWidth, stripHeight],
      index) => ({
      index, name, trained, label, decision, scores, width, height, stripWidth, stripHeight,
      kind: kind === null ? null : data.kinds[kind],
      score: scores[data.score],
      panels: panels.map((panel) => data.panels[panel]),
      verdict: verdictOf(label, decision),
    }));

  function verdictOf(label, decision) {
    if (decision === null) return label === null ? "" : label ? "anomalous" : "normal";
    if (label === null) return decision ? "above" : "below";
    if (label) return decision ? "found" : "miss";
    return decision ? "alarm" : "right";
  }
  const verdictWords = {
    "": "", anomalous: "anomalous", normal: "normal", above: "▲ above threshold",
    below: "below threshold", found: "● found", miss: "○ missed", alarm: "▲ false alarm",
    right: "normal, passed",
  };

  const chosen = (id) => byId(id).value;
  let descending = true;
  let shown = []; // the images that pass the filters, in order
  let rendered = 0; // how many of them have a card
  let current = -1; // the index in `shown` of the enlarged image

  const passes = (image) =>
    (chosen("kind") === "" || image.kind === chosen("kind"))
    && (chosen("split") === "" || image.trained === Number(chosen("split") === "train"))
    && image.name.toLowerCase().includes(chosen("search").toLowerCase());

  const collator = new Intl.Collator("en", {numeric: true});
  function compare(a, b) {
    const order = chosen("sort") === "score" ? a.score - b.score : collator.compare(a.name, b.name);
    return (descending ? -order : order) || a.index - b.index;
  }

  function update() {
    const candidates = images.filter(passes);
    const of = (verdict) => verdict === "all" ? candidates
      : candidates.filter((image) => image.verdict === verdict);
    // Beside every choice is the number of images that it would leave.
    for (const input of document.querySelectorAll("[name=verdict]")) {
      byId(`count-${input.value}`).textContent = number.format(of(input.value).length);
      if (input.checked) shown = of(input.value).sort(compare);
    }
    rendered = 0;
    byId("gallery").replaceChildren();
    byId("count").textContent = shown.length
      ? `${number.format(shown.length)} of ${counted(images.length)}.`
      : "No image is like that.";
    byId("direction").textContent = chosen("sort") === "score"
      ? (descending ? "↓ highest first" : "↑ lowest first")
      : (descending ? "↓ Z to A" : "↑ A to Z");
    renderMore();
  }

  function renderUpTo(count) {
    const high = byId("gallery").firstElementChild?.offsetHeight ?? 0;
    while (rendered < Math.min(count, shown.length)) {
      const group = element("ol");
      const end = Math.min(rendered + GROUP, shown.length);
      for (; rendered < end; rendered += 1) group.append(card(rendered));
      group.style.containIntrinsicHeight = `auto ${high}px`; // as the first, until it is seen
      byId("gallery").append(group);
    }
    byId("more").hidden = rendered === shown.length;
  }
  const renderMore = () => renderUpTo(rendered + GROUP);
  const cardAt = (place) => document.querySelector(`[data-place="${place}"]`);

  const HIGHEST = 320; // of a strip, in CSS pixels

  function card(place) {
    const image = shown[place];
    const button = element("button", "card");
    button.type = "button";
    button.dataset.place = place;
    const strip = picture(image, `${image.index}.jpg`, image.stripWidth, image.stripHeight,
      `${image.panels.map((panel) => panelWords[panel]).join(", ")} of ${image.name}`, "lazy");
    // All panels have the same width, even if an image has fewer of them.
    strip.style.width = `${100 * image.panels.length / data.panels.length}%`;
    strip.style.maxHeight = `${HIGHEST}px`;
    const line = element("span", "line");
    line.append(element("span", "score", digits(image.score)));
    if (image.verdict) {
      line.append(element("span", `verdict ${image.verdict}`, verdictWords[image.verdict]));
    }
    if (image.trained) line.append(element("span", "split", "training"));
    button.append(strip, element("span", "name", image.name), line);
    const item = element("li");
    item.append(button);
    return item;
  }

  function picture(image, file, width, height, words, loading = "eager") {
    const made = element("img");
    made.loading = loading; // before the source, since cached pictures load at once
    made.decoding = "async";
    made.width = width;
    made.height = height;
    made.alt = words;
    // Few pixels: show them as they are.
    if (Math.max(image.width, image.height) < 64) made.className = "tiny";
    made.src = `${folder}/${file}`;
    return made;
  }

  const counted = (count) => `${number.format(count)} ${count === 1 ? "image" : "images"}`;
  const digits = (value) => value.toPrecision(4).replace("-", "−");

  function enlarge(place) {
    if (place < 0 || place >= shown.length) return;
    current = place;
    const image = shown[place];
    byId("dialog-name").textContent = image.name;
    byId("dialog-place").textContent =
      `${number.format(place + 1)} of ${number.format(shown.length)}`;
    byId("previous").disabled = place === 0;
    byId("next").disabled = place === shown.length - 1;
    byId("dialog-panels").replaceChildren(...image.panels.map((panel) => {
      const figure = element("figure");
      const words = `${panelWords[panel]} of ${image.name}`;
      figure.append(
        picture(image, `${image.index}-${panel}.jpg`, image.width, image.height, words),
        element("figcaption", "", panelWords[panel]));
      return figure;
    }));
    const facts = data.scores.map((name, at) => [
      name, digits(image.scores[at]), at === data.score ? "asked for" : ""]);
    if (data.threshold !== null) facts.push(["threshold", digits(data.threshold), ""]);
    if (image.verdict) facts.push(["verdict", verdictWords[image.verdict], ""]);
    if (image.kind !== null) facts.push(["kind", image.kind, ""]);
    facts.push(["split", image.trained ? "training" : "test", ""]);
    byId("dialog-facts").replaceChildren(...facts.map(([name, value, remark]) => {
      const fact = element("div", remark ? "asked" : "");
      fact.append(element("dt", "", name), element("dd", "", value));
      return fact;
    }));
    if (!byId("dialog").open) byId("dialog").showModal();
    arrange(image);
    for (const neighbour of [shown[place - 1], shown[place + 1]]) {
      for (const panel of neighbour ? neighbour.panels : []) {
        new Image().src = `${folder}/${neighbour.index}-${panel}.jpg`;
      }
    }
  }

  // The number of columns with the largest panels that fit on the screen.
  function arrange(image) {
    const panels = byId("dialog-panels");
    const [gap, caption, words] = [13, 26, 105]; // in CSS pixels, roughly; words is the width of a caption
    const rest = byId("dialog").scrollHeight - panels.offsetHeight + 2 * gap;
    const count = image.panels.length;
    let best = {width: 0};
    for (let columns = 1; columns <= count; columns += 1) {
      const column = (panels.clientWidth - gap * (columns - 1)) / columns;
      if (columns > 1 && column < words) break;
      const high = (window.innerHeight - rest) / Math.ceil(count / columns) - caption - gap;
      const width = Math.floor(Math.min(
        column,
        Math.max(high, 120) * image.width / image.height,
        Math.max(2 * image.width, 512)));
      if (width > best.width) best = {columns, width};
    }
    const column = Math.min(Math.max(best.width, words), panels.clientWidth);
    panels.style.gridTemplateColumns = `repeat(${best.columns}, ${column}px)`;
    for (const panel of panels.querySelectorAll("img")) panel.style.width = `${best.width}px`;
  }
  window.addEventListener("resize", () => {
    if (byId("dialog").open) arrange(shown[current]);
  });

  // After closing, scroll to the last enlarged image.
  byId("dialog").addEventListener("close", () => {
    renderUpTo(current + 1);
    cardAt(current)?.focus();
  });
  byId("dialog").addEventListener("click", (event) => {
    if (event.target === byId("dialog")) byId("dialog").close(); // beside the content
  });
  // Not on the dialog: a button that has just been disabled has lost the focus.
  document.addEventListener("keydown", (event) => {
    if (!byId("dialog").open || event.altKey || event.ctrlKey || event.metaKey) return;
    const places = {
      ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: shown.length - 1,
    };
    if (event.key in places) {
      event.preventDefault();
      enlarge(places[event.key]);
    }
  });
  byId("previous").addEventListener("click", () => enlarge(current - 1));
  byId("next").addEventListener("click", () => enlarge(current + 1));
  byId("close").addEventListener("click", () => byId("dialog").close());
  byId("gallery").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) enlarge(Number(button.dataset.place));
  });

  byId("sort").addEventListener("input", () => { descending = chosen("sort") === "score"; });
  byId("direction").addEventListener("click", () => {
    descending = !descending;
    update();
  });
  byId("controls").addEventListener("input", update);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    const first = rendered;
    renderMore();
    cardAt(first)?.focus();
  });
  // More cards come before one has scrolled to the end.
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    renderMore();
    // It only reports changes: observe again, since the end may still be near on a tall screen.
    observer.unobserve(byId("more"));
    observer.observe(byId("more"));
  }, {rootMargin: "600px"});
  observer.observe(byId("more"));

  // Paper has all that is shown. A page cannot wait for pictures when it is printed, so they are
  // fetched before, where there are not too many.
  const fetched = [];
  window.addEventListener("load", () => requestIdleCallback(() => {
    for (const image of images.slice(0, MOST_FETCHED)) {
      fetched.push(new Image());
      fetched.at(-1).src = `${folder}/${image.index}.jpg`;
    }
  }));
  window.addEventListener("beforeprint", () => {
    renderUpTo(shown.length);
    for (const strip of document.querySelectorAll(".card img")) strip.loading = "eager";
  });

  byId("dialog").querySelector("footer").append(document.querySelector(".scale").cloneNode(true));
  byId("order").textContent =
    `From left to right: ${data.panels.map((panel) => panelWords[panel]).join(", ")}.`;
  byId("controls").hidden = false;
  update();
})();

"use strict";
// The gallery: filters, sorts and enlarges the images of the JSON in #data. Names come from data
// sets and are only ever set as text; file names are numbers.
(() => {
  // Cards come in lists of so many, whole rows of one to four: lists out of sight are not laid out,
  // and the page is as quick with thousands of cards as with a few.
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

  // What can be chosen among follows from what is known.
  const known = new Set(images.map((image) => image.verdict));
  const verdicts = [["all", "all"]];
  if (data.threshold !== null) {
    if (known.has("above") || known.has("below")) {
      verdicts.push(["above", "above threshold"], ["below", "below threshold"]);
    } else {
      verdicts.push(["alarm", "false alarms"], ["miss", "misses"], ["found", "found"]);
    }
  }
  const state = {
    verdict: "all", kind: "", split: "", sort: "score", descending: true, search: "",
  };
  const bothSplits = images.some((image) => image.trained) && images.some((image) => !image.trained);
  if (bothSplits) state.split = "test";

  let shown = []; // the images that pass the filters, in their order
  let rendered = 0; // how many of them have a card
  let current = -1; // the place in `shown` of the enlarged one

  const passesAllBut = (left) => (image) =>
    (left === "verdict" || state.verdict === "all" || image.verdict === state.verdict)
    && (state.kind === "" || image.kind === state.kind)
    && (state.split === "" || image.trained === (state.split === "train" ? 1 : 0))
    && image.name.toLowerCase().includes(state.search);

  const collator = new Intl.Collator("en", {numeric: true});
  function compare(a, b) {
    const order = state.sort === "score" ? a.score - b.score : collator.compare(a.name, b.name);
    return (state.descending ? -order : order) || a.index - b.index;
  }

  function update() {
    shown = images.filter(passesAllBut("")).sort(compare);
    rendered = 0;
    byId("gallery").replaceChildren();
    byId("count").textContent = shown.length
      ? `${number.format(shown.length)} of ${counted(images.length)}.`
      : "No image is like that.";
    // Beside every choice stands how many it would leave.
    const candidates = images.filter(passesAllBut("verdict"));
    for (const [value] of verdicts) {
      const count = value === "all" ? candidates.length
        : candidates.filter((image) => image.verdict === value).length;
      byId(`count-${value}`).textContent = number.format(count);
    }
    byId("direction").textContent = state.sort === "score"
      ? (state.descending ? "↓ highest first" : "↑ lowest first")
      : (state.descending ? "↓ Z to A" : "↑ A to Z");
    renderMore();
  }

  function renderUpTo(count) {
    const columns = getComputedStyle(byId("gallery")).gridTemplateColumns.split(" ").map(parseFloat);
    const groups = document.createDocumentFragment();
    while (rendered < Math.min(count, shown.length)) {
      const group = element("ol");
      const end = Math.min(rendered + GROUP, shown.length);
      const height = heightOf(shown.slice(rendered, end), columns);
      group.style.containIntrinsicSize = `auto none auto ${height}px`;
      for (; rendered < end; rendered += 1) group.append(card(rendered));
      groups.append(group);
    }
    byId("gallery").append(groups);
    byId("more").hidden = rendered === shown.length;
  }
  const renderMore = () => renderUpTo(rendered + GROUP);
  const cardAt = (place) => document.querySelector(`[data-place="${place}"]`);

  const [TEXT_AND_PADDING, GAP] = [80, 19]; // of a card and between rows, in CSS pixels, about
  const HIGHEST = 320; // of a strip, in CSS pixels

  // What a group will take of the page, about.
  function heightOf(group, columns) {
    const heights = group.map((image) => Math.min(HIGHEST,
      columns[0] * shareOf(image) * image.stripHeight / image.stripWidth));
    let height = 0;
    for (let first = 0; first < group.length; first += columns.length) {
      height += Math.max(...heights.slice(first, first + columns.length)) + TEXT_AND_PADDING + GAP;
    }
    return Math.round(height);
  }

  // All panels are as wide, also where an image has fewer of them.
  const shareOf = (image) => image.panels.length / data.panels.length;

  function card(place) {
    const image = shown[place];
    const button = element("button", "card");
    button.type = "button";
    button.dataset.place = place;
    const strip = picture(image, `${image.index}.jpg`, image.stripWidth, image.stripHeight,
      `${image.panels.map((panel) => panelWords[panel]).join(", ")} of ${image.name}`, "lazy");
    strip.style.width = `${100 * shareOf(image)}%`;
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
    made.loading = loading; // before the source: what is in memory is taken at once
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

  // As many columns as make the panels as large as fits on the screen.
  function arrange(image) {
    const panels = byId("dialog-panels");
    const [gap, caption, words] = [13, 26, 105]; // in CSS pixels, about; words are a caption's width
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

  // Closed, the page is where the last enlarged image is.
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

  function choices(id, key, values) {
    const select = byId(id);
    for (const [value, words] of values) {
      const choice = element("option", "", words);
      choice.value = value;
      choice.selected = value === state[key];
      select.append(choice);
    }
    select.addEventListener("change", () => {
      state[key] = select.value;
      update();
    });
    select.parentElement.hidden = values.length < 3;
  }

  for (const [value, words] of verdicts) {
    const label = element("label");
    const input = element("input");
    input.type = "radio";
    input.name = "verdict";
    input.value = value;
    input.checked = value === "all";
    input.addEventListener("change", () => {
      state.verdict = value;
      update();
    });
    const count = element("span", "number");
    count.id = `count-${value}`;
    const chip = element("span", "chip", `${words} `);
    chip.append(count);
    label.append(input, chip);
    byId("verdicts").append(label);
  }
  byId("verdicts").hidden = verdicts.length < 2;
  choices("kind", "kind", [["", "all"], ...data.kinds.map((kind) => [kind, kind])]);
  choices("split", "split", bothSplits
    ? [["test", "test"], ["train", "training"], ["", "both"]] : []);
  byId("sort").addEventListener("change", () => {
    state.sort = byId("sort").value;
    state.descending = state.sort === "score";
    update();
  });
  byId("direction").addEventListener("click", () => {
    state.descending = !state.descending;
    update();
  });
  byId("search").addEventListener("input", () => {
    state.search = byId("search").value.toLowerCase();
    update();
  });
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
    // It reports changes only: ask anew whether the end is still near, as on a tall screen.
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

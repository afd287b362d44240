"use strict";
// The gallery: boxes over the pictures, the score threshold, and the viewer for one picture.
const SVG = "http://www.w3.org/2000/svg";
const state = { threshold: Number(byId("threshold")?.value), found: true, truth: true,
  errors: false };
const OUTCOMES = ["wrong", "right", "uncounted"];  // of detections, by their numbers

function rectangle({ corners: [left, top, right, bottom], color }) {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("x", Math.min(left, right));
  rect.setAttribute("y", Math.min(top, bottom));
  rect.setAttribute("width", Math.abs(right - left));
  rect.setAttribute("height", Math.abs(bottom - top));
  if (color) rect.style.setProperty("--class", color);
  return rect;
}

const score = (value) => value === null ? "" : ` ${value.toFixed(2)}`;

// Outcome of a box at the threshold. The match of a detection does not depend on detections of lower
// scores, so a true box is missed if the detection matched with it does not reach the threshold.
function outcome(mark) {
  if (mark.kind === "found") return OUTCOMES[mark.outcome];
  if (mark.kind === "suspect") return "";
  if (mark.ignored) return "ignored";
  return mark.foundBy >= state.threshold ? "matched" : "missed";
}

function describe(mark, outcome) {
  if (mark.kind === "suspect") return mark.text;
  const said = { matched: "found", uncounted: "not counted" }[outcome] ?? outcome;
  return `${mark.text}, ${said}`;
}

// All boxes of a picture as marks {rect, kind, score}, which are shown and hidden, not redrawn.
function fill(svg, picture) {
  const boxes = [
    ...picture.truth.map(([x1, y1, x2, y2, label, ignored, foundBy]) => ({
      corners: [x1, y1, x2, y2], kind: "truth", color: report.colors[label - 1], score: 1,
      ignored, foundBy, text: `true box: ${report.classes[label - 1]}`,
    })),
    ...picture.found.map(([x1, y1, x2, y2, label, value, outcome]) => ({
      corners: [x1, y1, x2, y2], kind: "found", color: report.colors[label - 1], score: value,
      outcome, text: `${report.classes[label - 1]}${score(value)}`,
    })),
  ];
  const area = ({ corners: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  // The pointer hits the topmost box: small boxes are on top of large ones.
  boxes.sort((a, b) => area(b) - area(a));
  boxes.push(...picture.suspects.map(([x1, y1, x2, y2, kind, name, value]) => ({
    corners: [x1, y1, x2, y2], kind: "suspect", color: "", score: value,
    text: `suspected: ${kind}, ${name}, suspicion${score(value)}`,
  })));
  const marks = boxes.map((box) => ({ ...box, rect: rectangle(box) }));
  svg.replaceChildren(...marks.map((mark) => mark.rect));
  return marks;
}

const ERRORS = new Set(["wrong", "missed"]);

const isDrawn = (mark) => mark.kind === "suspect"
  || state[mark.kind] && (mark.kind === "truth" || mark.score >= state.threshold)
    && (!state.errors || ERRORS.has(outcome(mark)));

// Show or hide each box, and count the visible ones by kind and by outcome.
function update(marks) {
  const drawn = {};
  for (const mark of marks) {
    const came = outcome(mark);
    mark.rect.setAttribute("class", `${mark.kind} ${came}`);
    mark.rect.dataset.text = describe(mark, came);
    const shown = isDrawn(mark);
    mark.rect.style.display = shown ? "" : "none";
    if (!shown) continue;
    for (const name of [mark.kind, came]) drawn[name] = (drawn[name] ?? 0) + 1;
  }
  return drawn;
}

const many = (count, one, more = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

function startGallery() {
  const cards = all(".gallery > li").map((item) => {
    const picture = report.pictures[Number(item.dataset.number)];
    return { item, picture, marks: fill(item.querySelector("svg"), picture) };
  });
  const viewer = { dialog: byId("viewer"), scene: byId("viewer-scene"), card: null, marks: [] };
  const shown = () => cards.filter((card) => !card.item.hidden);

  function redraw() {
    const total = { found: 0, right: 0, wrong: 0, truth: 0, missed: 0 };
    const visible = shown();
    for (const card of visible) {
      const drawn = update(card.marks);
      for (const name in total) total[name] += drawn[name] ?? 0;
    }
    byId("drawn").textContent = `${many(visible.length, "picture")}: `
      + `${many(total.found, "detection")} (${total.right} right, ${total.wrong} wrong) and `
      + `${many(total.truth, "true box", "true boxes")} (${total.missed} missed) drawn.`;
    if (viewer.card) listBoxes();
  }

  // The boxes of the viewer as a list for the keyboard; the focused one is highlighted.
  function listBoxes() {
    update(viewer.marks);
    const order = { suspect: 0, found: 1, truth: 2 };
    const drawn = viewer.marks.filter(isDrawn)
      .sort((a, b) => order[a.kind] - order[b.kind] || b.score - a.score);
    byId("viewer-list").replaceChildren(...drawn.map((mark) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = mark.rect.dataset.text;
      const light = (on) => () => mark.rect.classList.toggle("lit", on);
      for (const name of ["mouseenter", "focus"]) button.addEventListener(name, light(true));
      for (const name of ["mouseleave", "blur"]) button.addEventListener(name, light(false));
      item.append(button);
      return item;
    }));
  }

  function open(card) {
    const { picture } = card;
    viewer.card = card;
    const image = viewer.scene.querySelector("img");
    image.src = card.item.querySelector("img").src;
    image.alt = picture.note;
    viewer.scene.style.setProperty("--ratio", picture.width / picture.height);
    viewer.scene.style.aspectRatio = `${picture.width} / ${picture.height}`;
    const svg = viewer.scene.querySelector("svg");
    svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
    viewer.marks = fill(svg, picture);
    byId("viewer-name").textContent = picture.name;
    byId("viewer-note").textContent = picture.note;
    listBoxes();
    if (viewer.dialog.open) return;
    viewer.dialog.showModal();
    // A browser that scrolls to the picture's anchor moves the focus after this.
    requestAnimationFrame(() => setTimeout(() => byId("close").focus()));
  }

  // The URL fragment says which picture is open, so that links, "back" and reloading work.
  function follow() {
    const card = cards.find(({ picture }) => `#${picture.id}` === location.hash);
    if (card) open(card);
    else if (viewer.dialog.open) viewer.dialog.close();
  }

  function walk(step) {
    const list = shown();
    const place = (list.indexOf(viewer.card) + step + list.length) % list.length;
    history.replaceState(null, "", `#${list[place].picture.id}`);
    open(list[place]);
  }

  function setThreshold(value) {
    state.threshold = Number(value);
    const digits = state.threshold.toFixed(3).replace(/0$/, "");
    all(".threshold").forEach((slider) => { slider.value = value; });
    all(".at").forEach((output) => { output.textContent = digits; });
    redraw();
  }

  all(".threshold").forEach((slider) =>
    slider.addEventListener("input", () => setThreshold(slider.value)));
  for (const kind of ["found", "truth"]) {
    byId(`show-${kind}`).addEventListener("change", (event) => {
      state[kind] = event.target.checked;
      redraw();
    });
  }
  byId("errors-only").addEventListener("change", (event) => {
    state.errors = event.target.checked;
    redraw();
  });
  all("[name=colour]").forEach((choice) => choice.addEventListener("change", () => {
    byId("gallery").dataset.colour = choice.value;
  }));
  all("[name=reason]").forEach((choice) => choice.addEventListener("change", () => {
    for (const card of cards) {
      card.item.hidden = choice.value !== "" && !card.picture.reasons.includes(choice.value);
    }
    redraw();
  }));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => walk(-1));
  byId("next").addEventListener("click", () => walk(1));
  byId("close").addEventListener("click", () => viewer.dialog.close());
  viewer.dialog.addEventListener("click", (event) => {
    if (event.target === viewer.dialog) viewer.dialog.close();
  });
  viewer.dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") walk(-1);
    if (event.key === "ArrowRight") walk(1);
  });
  viewer.dialog.addEventListener("close", () => {
    const link = viewer.card.item.querySelector("a");
    viewer.card = null;
    byId("tip").hidden = true;
    history.replaceState(null, "", location.pathname + location.search);
    link.focus();
  });
  addEventListener("hashchange", follow);
  startTip(viewer.dialog);
  setThreshold(state.threshold);
  follow();
}

function startTip(dialog) {
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
    const text = event.target.dataset?.text;
    tip.hidden = !text;
    if (!text) return;
    // A modal dialog covers all elements outside it.
    (dialog.open ? dialog : byId("gallery")).append(tip);
    tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)}px`;
  });
}

if (byId("viewer")) startGallery();

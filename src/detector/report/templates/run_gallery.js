"use strict";
// The gallery: boxes over the pictures, a threshold, the picture that is looked at.
const SVG = "http://www.w3.org/2000/svg";
const state = { threshold: Number(byId("threshold")?.value), found: true, truth: true };

function rectangle({ corners: [left, top, right, bottom], style, color, text }) {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("class", style);
  rect.setAttribute("x", Math.min(left, right));
  rect.setAttribute("y", Math.min(top, bottom));
  rect.setAttribute("width", Math.abs(right - left));
  rect.setAttribute("height", Math.abs(bottom - top));
  if (color) rect.style.color = color;
  rect.dataset.text = text;
  return rect;
}

const score = (value) => value === null ? "" : ` ${value.toFixed(2)}`;

// All boxes of a picture as marks {rect, kind, score}; they are shown and hidden, not made anew.
function fill(svg, picture) {
  const boxes = [
    ...picture.truth.map(([x1, y1, x2, y2, label, ignored]) => ({
      corners: [x1, y1, x2, y2], kind: "truth", style: ignored ? "truth ignored" : "truth",
      color: report.colors[label - 1], score: 1,
      text: `truth: ${report.classes[label - 1]}${ignored ? " (ignored)" : ""}`,
    })),
    ...picture.found.map(([x1, y1, x2, y2, label, value]) => ({
      corners: [x1, y1, x2, y2], kind: "found", style: "found",
      color: report.colors[label - 1], score: value,
      text: `${report.classes[label - 1]}${score(value)}`,
    })),
  ];
  const area = ({ corners: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  // The pointer finds what is on top: small boxes lie on large ones.
  boxes.sort((a, b) => area(b) - area(a));
  boxes.push(...picture.suspects.map(([x1, y1, x2, y2, kind, name, value]) => ({
    corners: [x1, y1, x2, y2], kind: "suspect", style: "suspect", color: "", score: value,
    text: `suspected: ${kind}, ${name}, suspicion${score(value)}`,
  })));
  const marks = boxes.map((box) => ({ ...box, rect: rectangle(box) }));
  svg.replaceChildren(...marks.map((mark) => mark.rect));
  return marks;
}

const isDrawn = (mark) => mark.kind === "suspect"
  || state[mark.kind] && (mark.kind === "truth" || mark.score >= state.threshold);

function update(marks) {
  const drawn = { found: 0, truth: 0, suspect: 0 };
  for (const mark of marks) {
    const shown = isDrawn(mark);
    mark.rect.style.display = shown ? "" : "none";
    drawn[mark.kind] += shown;
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
    const total = { found: 0, truth: 0, pictures: 0 };
    for (const card of shown()) {
      const drawn = update(card.marks);
      total.found += drawn.found;
      total.truth += drawn.truth;
      total.pictures += 1;
    }
    byId("drawn").textContent = `${many(total.found, "detection")} and `
      + `${many(total.truth, "true box", "true boxes")} drawn on `
      + `${many(total.pictures, "picture")}.`;
    if (viewer.card) listBoxes();
  }

  // The boxes of the large picture as words, reachable by keyboard; one lights up in the picture.
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
    if (!viewer.dialog.open) viewer.dialog.showModal();
  }

  // The address says which picture is open, so that links, "back" and reloading do what they say.
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
    // A modal dialog covers what is outside it.
    (dialog.open ? dialog : byId("gallery")).append(tip);
    tip.textContent = text;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)}px`;
  });
}

if (byId("viewer")) startGallery();

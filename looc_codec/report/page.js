// The report's page. It follows web/viewer.js in one inline script, and so finds Viewer.

const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// --- theme -------------------------------------------------------------------------------------------------------------

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// --- choices that hold for the whole page --------------------------------------------------------------------------------

const chosen = { metric: 0, bpp: null };
const contests = [];

/** Buttons of which one is pressed; `choose` gets the number of the one that a person presses. */
function choice(buttons, choose) {
  buttons.forEach((button, number) => button.addEventListener("click", () => choose(number)));
}

function chooseMetric(number) {
  chosen.metric = number;
  for (const group of all("[data-choice=metric]")) {
    all("button", group).forEach((button, place) => button.setAttribute("aria-pressed", place === number));
  }
  all(".plot").forEach((plot, place) => (plot.hidden = place !== number));
  for (const contest of contests) contest.tell();
}

function chooseRate(bpp) {
  chosen.bpp = bpp;
  for (const button of all("[data-choice=rate] button")) button.setAttribute("aria-pressed", Number(button.value) === bpp);
  for (const contest of contests) contest.draw();
}

// --- plots ---------------------------------------------------------------------------------------------------------------

for (const plot of all(".plot")) {
  const tip = plot.querySelector(".tip");
  for (const button of all(".legend button", plot)) {
    button.addEventListener("click", () => {
      const hidden = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", !hidden);
      for (const group of all(`svg .curve-${button.value}`, plot)) group.classList.toggle("off", hidden);
    });
  }
  const drawing = plot.querySelector(".drawing");
  const points = all("svg .point", plot).map((group) => ({ group, words: group.querySelector("title").textContent }));
  // The browser's own tip comes late, and never on a phone.
  for (const { group, words } of points) {
    group.querySelector("title").remove();
    group.setAttribute("aria-label", words);
    group.setAttribute("role", "img");
  }
  let near = null;
  const point = (next) => {
    near?.group.classList.remove("near");
    near = next;
    near?.group.classList.add("near");
    tip.textContent = near?.words ?? tip.dataset.empty;
  };
  drawing.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
  for (const type of ["pointermove", "pointerdown"]) {
    drawing.addEventListener(type, (event) => {
      let [best, least] = [null, 40];
      for (const candidate of points) {
        if (candidate.group.classList.contains("off")) continue;
        const box = candidate.group.getBoundingClientRect();
        const distance = Math.hypot(box.left + box.width / 2 - event.clientX, box.top + box.height / 2 - event.clientY);
        // The drawing of the other width is not shown, and has no box.
        if (box.width && distance < least) [best, least] = [candidate, distance];
      }
      if (best !== near) point(best);
    });
  }
  point(null);
}

// --- pictures at equal bytes -----------------------------------------------------------------------------------------------

const loaded = new Map();

/** An image of the page's pictures, decoded, each asked for once. */
function load(name) {
  if (!loaded.has(name)) {
    const image = new Image();
    image.src = data.pictures[name];
    loaded.set(name, image.decode().then(() => image));
  }
  return loaded.get(name);
}

function value(version) {
  const metric = data.metrics[chosen.metric];
  if (!metric || !version.values) return "";
  const number = version.values[metric.key];
  if (number === null || number === undefined) return `no ${metric.label}`;
  return `${metric.label} ${number.toFixed(metric.decimals)} ${metric.unit}`.trim();
}

function words(version) {
  if (!version.values) return "original";
  const size = `${version.bytes.toLocaleString("en")} bytes, ${version.bpp.toFixed(3)} bpp`;
  return [`${version.label}, quality ${version.quality}`, size, value(version)].filter(Boolean).join(" · ");
}

class Contest {
  #fields; #root; #viewer; #versions = []; #drawn = 0;
  #sides = {};

  constructor(fields, root) {
    this.#fields = fields;
    this.#root = root;
    const stage = root.querySelector(".stage");
    stage.style.aspectRatio = `${fields.width} / ${fields.height}`;
    // A small picture needs no large stage, but one in which it can be zoomed.
    stage.style.maxHeight = `min(78vh, ${Math.max(fields.height, 360)}px)`;
    this.#viewer = new Viewer(stage, { inPage: true });
    for (const side of ["left", "right"]) {
      this.#sides[side] = root.querySelector(`select[data-side=${side}]`);
      this.#sides[side].addEventListener("change", () => this.#show());
    }
    for (const button of all("[data-mode]", root)) {
      button.addEventListener("click", () => {
        if (button.dataset.mode === "flicker") this.#viewer.swap();
        else this.#viewer.mode = button.dataset.mode;
      });
    }
    root.querySelector("[data-gain]").addEventListener("change", (event) => (this.#viewer.gain = Number(event.target.value)));
    for (const [name, act] of Object.entries({
      in: () => this.#viewer.zoomStep(1), out: () => this.#viewer.zoomStep(-1), fit: () => this.#viewer.fit(), one: () => this.#viewer.actualSize(),
    })) root.querySelector(`[data-zoom=${name}]`).addEventListener("click", act);
    this.#viewer.addEventListener("change", () => this.#state());
    this.#fill();
  }

  get #round() {
    const away = (round) => Math.abs(Math.log(round.bpp / chosen.bpp));
    return this.#fields.rounds.reduce((best, round) => (away(round) < away(best) ? round : best));
  }

  /** The codecs are the same at every rate. */
  #fill() {
    const versions = [{ label: "original" }, ...this.#fields.rounds[0].versions];
    const rival = versions.findIndex((version) => version.codec && version.codec === data.rival);
    // The first looc is on the right, its hardest comparison on the left.
    const first = { right: versions.length > 1 ? 1 : 0, left: rival > 1 ? rival : versions.length > 2 ? 2 : 0 };
    for (const [side, select] of Object.entries(this.#sides)) {
      select.append(...versions.map((version, place) => make("option", { value: place, textContent: version.label })));
      select.selectedIndex = first[side];
    }
  }

  /** The rate that is chosen, or the one of this picture next to it. */
  async draw() {
    this.#versions = [{ label: "original", picture: this.#fields.original }, ...this.#round.versions];
    this.#drawCrops();
    await this.#show();
  }

  /** Captions in the metric that is chosen. */
  tell() {
    if (this.#versions.length) this.draw();
  }

  async #show() {
    const turn = ++this.#drawn;
    const [left, right] = ["left", "right"].map((side) => this.#versions[this.#sides[side].selectedIndex]);
    for (const [side, version] of [["left", left], ["right", right]]) {
      this.#root.querySelector(`[data-words=${side}]`).textContent = words(version);
    }
    const problem = this.#root.querySelector(".problem");
    try {
      const [other, picture] = await Promise.all([load(left.picture), load(right.picture)]);
      if (turn !== this.#drawn) return; // another choice came in between
      const { width, height } = this.#fields;
      const label = (version) => [version.label, value(version)].filter(Boolean).join(" · ");
      const flickered = this.#viewer.otherShown;
      this.#viewer.show({ source: picture, width, height, label: label(right) });
      this.#viewer.compare({ source: other, width, height, label: label(left) });
      if (flickered) this.#viewer.swap();
      problem.hidden = true;
    } catch {
      problem.hidden = false;
    }
  }

  #state() {
    const viewer = this.#viewer;
    for (const button of all("[data-mode]", this.#root)) button.setAttribute("aria-pressed", button.dataset.mode === viewer.mode);
    this.#root.querySelector(".gain").hidden = viewer.mode !== "difference";
    this.#root.querySelector("[data-zoom=one]").textContent = `${Math.round(100 * viewer.zoom)}%`;
  }

  #drawCrops() {
    const { width } = this.#fields;
    const crops = this.#round.crops.map((crop) => make("div", {},
      make("p", { className: "soft", textContent: `Zoom: ${crop.words}` }),
      make("div", { className: "crops" }, ...this.#versions.map((version) => {
        const image = make("img", { src: data.pictures[version.picture], alt: version.label, loading: "lazy" });
        Object.assign(image.style, {
          width: `${(100 * width) / data.crop}%`, left: `${(-100 * crop.left) / data.crop}%`, top: `${(-100 * crop.top) / data.crop}%`,
        });
        const size = version.values ? `${version.bytes.toLocaleString("en")} bytes` : "";
        const caption = make("span", { className: "soft", textContent: [size, value(version)].filter(Boolean).join(", ") });
        return make("figure", {}, make("div", { className: "cut" }, image), make("figcaption", {}, version.label, make("br"), caption));
      }))));
    this.#root.querySelector(".all-crops").replaceChildren(...crops);
  }
}

for (const root of all(".contest")) contests.push(new Contest(data.contests[Number(root.dataset.contest)], root));
for (const group of all("[data-choice=metric]")) choice(all("button", group), chooseMetric);
for (const group of all("[data-choice=rate]")) {
  const buttons = all("button", group);
  choice(buttons, (number) => chooseRate(Number(buttons[number].value)));
}
if (data.metrics.length) chooseMetric(0);
if (contests.length) chooseRate(data.contests[0].rounds.find((round) => round.first).bpp);

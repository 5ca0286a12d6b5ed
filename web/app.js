/* The page: joins the files that are open, the viewer, and what can be pressed. */

import { createDecoder, LoocError } from "./client.js";
import { bitmapOf } from "./page/bitmap.js";
import { Documents } from "./page/documents.js";
import { informationRows } from "./page/information.js";
import { psnrDb } from "./page/reference.js";
import { download, encode, KINDS } from "./page/save.js";
import { Strip } from "./page/strip.js";
import { Viewer } from "./viewer.js";

const base = new URL("./", import.meta.url);
const $ = (id) => document.getElementById(id);
const STAGES = { weights: "getting the model", codes: "reading codes", pixels: "drawing" };
const PICTURE = /\.(avif|bmp|gif|jfif|jpe?g|png|webp)$/i;

const models = await fetch(new URL("models.json", base)).then((answer) => (answer.ok ? answer.json() : []), () => []);
const decoder = createDecoder({ base, models });
const documents = new Documents(decoder);
const viewer = new Viewer($("viewer"));
const strip = new Strip($("strip"), documents);

let shown = null; // {document, data, bitmap}
let reference = null; // {document, bitmap}
let informationWanted = false;

/** For scripts and tests: the pixels of a .looc file, {width, height, data} with RGBA. */
window.loocDecode = async (buffer) => {
  const { width, height, data } = await decoder.decode(new Uint8Array(buffer), {});
  return { width, height, data };
};

// --- what is shown ---------------------------------------------------------------------------------------------------

documents.addEventListener("select", ({ document: selected }) => {
  endComparison();
  say(selected.name);
  update();
});
documents.addEventListener("change", ({ document: changed }) => {
  strip.update(changed);
  if (changed === documents.selected) update();
});
viewer.addEventListener("change", showView);

/** Makes the page show the state of the selected file. */
function update() {
  const selected = documents.selected;
  const { name, header, state, error, progress, coarse, picture } = selected;
  document.title = `${name} – looc`;
  $("name").textContent = name;
  $("name").title = name;
  $("empty").hidden = true;
  document.body.classList.add("open");
  $("strip").hidden = documents.list.length < 2;
  $("compare").disabled = $("save").disabled = !picture;
  $("info").disabled = !header;
  $("progress").hidden = state !== "decoding" && state !== "cancelled";
  $("progress-bar").hidden = $("cancel").hidden = state === "cancelled";
  $("again").hidden = state !== "cancelled";
  $("progress-bar").value = progress.fraction;
  const percent = Math.round(100 * progress.fraction);
  $("progress-words").textContent = state === "cancelled" ? "Cancelled" : `${STAGES[progress.stage] ?? "reading"}, ${percent} %`;
  $("problem").hidden = state !== "failed";
  $("problem-name").textContent = name;
  $("problem-words").textContent = capital(error ?? "");
  if (state === "failed") say(`${name}: ${error}`);
  showInformation(header);
  showPicture(selected);
}

async function showPicture(selected) {
  const { picture, coarse, header, name } = selected;
  const stage = picture ? "whole" : coarse ? "coarse" : "none";
  if (shown?.document === selected && shown.data === (picture ?? coarse)?.data) return;
  const before = shown;
  const next = { document: selected, data: (picture ?? coarse)?.data, bitmap: null };
  shown = next;
  if (stage === "none") {
    viewer.show(null);
  } else {
    const pixels = picture ?? { ...coarse, hasAlpha: header.hasAlpha, icc: header.iccProfile };
    const bitmap = await bitmapOf(pixels).catch(() => null);
    if (shown !== next) {
      bitmap?.close();
      return;
    }
    next.bitmap = bitmap;
    if (!bitmap) {
      notice(`${name} cannot be shown: the browser has not enough memory for it`);
    } else {
      viewer.show({ source: bitmap, width: header.width, height: header.height, label: name, transparent: header.hasAlpha });
      if (stage === "whole") say(`${name} is shown, ${header.width} by ${header.height} pixels`);
    }
  }
  before?.bitmap?.close();
  $("viewer").hidden = $("zoom").hidden = !next.bitmap;
  $("viewer").dataset.stage = stage;
  showView();
}

function showView() {
  const percent = 100 * viewer.zoom;
  $("zoom-value").textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === viewer.mode);
  $("gain-label").hidden = viewer.mode !== "difference";
}

function showInformation(header) {
  $("information").hidden = !header || !informationWanted;
  $("info").setAttribute("aria-expanded", !$("information").hidden);
  if ($("information").hidden) return;
  $("information").firstElementChild.replaceChildren(...informationRows(header, models).flatMap(([label, text]) => [
    Object.assign(document.createElement("dt"), { textContent: label }), Object.assign(document.createElement("dd"), { textContent: text }),
  ]));
}

function toggleInformation() {
  informationWanted = !informationWanted;
  showInformation(documents.selected.header);
}

// --- files -----------------------------------------------------------------------------------------------------------

/** Takes files that were dropped, pasted or chosen: .looc files are opened, other pictures compared with them. */
function take(files) {
  const pictures = files.filter((file) => PICTURE.test(file.name) || file.type.startsWith("image/") && !/\.looc$/i.test(file.name));
  const others = files.filter((file) => !pictures.includes(file));
  if (others.length) {
    const added = documents.add(others.map((file) => ({ name: file.name, read: () => readFile(file) })));
    // A picture among several files belongs to the one of its name.
    const namesake = pictures.length === 1 && added.find((one) => stem(one.name) === stem(pictures[0].name));
    if (namesake) documents.select(namesake);
  }
  if (pictures.length === 1 && documents.selected) compareWith(pictures[0]);
  else if (pictures.length === 1) notice(`${pictures[0].name} is not a .looc file; open one first to compare the two`);
  else if (pictures.length) notice("One picture at a time can be compared with the .looc file that is shown");
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "");
}

async function readFile(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new LoocError("the file cannot be read; is it still there?");
  }
}

/** Opens what the address names: `?open=photo.looc`, as often as wanted, or a list of them in a .json file. */
async function openAddressed() {
  const addresses = new URLSearchParams(location.search).getAll("open").map((text) => ({ url: new URL(text, location.href) }));
  const files = [];
  for (const { url } of addresses) {
    if (url.pathname.endsWith(".json")) {
      const list = JSON.parse(new TextDecoder().decode(await fetchBytes(url)));
      files.push(...list.map((one) => ({ name: one.name, url: new URL(one.url, url) })));
    } else {
      files.push({ name: decodeURIComponent(url.pathname.split("/").pop()), url });
    }
  }
  if (files.length) documents.add(files.map(({ name, url }) => ({ name, read: () => fetchBytes(url) })));
}

async function fetchBytes(url) {
  if (url.origin !== location.origin) throw new LoocError(`${url} lies on another server, which this page may not ask`);
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new LoocError(`${url.pathname} cannot be fetched; is the server still running?`);
  if (!answer.ok) throw new LoocError(`the server has no ${url.pathname} (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

// --- comparing -------------------------------------------------------------------------------------------------------

/** Compares the selected file with a picture, once it is decoded. */
async function compareWith(file) {
  const selected = documents.selected;
  const isLooc = /\.looc$/i.test(file.name);
  try {
    const picture = await decoded(selected);
    const blob = isLooc ? await loocAsPng(file) : file;
    const bitmap = await createImageBitmap(blob).catch(() => {
      throw new LoocError(`${file.name} is not a picture that this browser can read`);
    });
    if (selected !== documents.selected) return bitmap.close();
    if (bitmap.width !== picture.width || bitmap.height !== picture.height) {
      throw new LoocError(`${file.name} has ${bitmap.width} × ${bitmap.height} pixels and ${selected.name} ${picture.width} × ${picture.height}; only pictures of equal size can be compared`);
    }
    endComparison();
    reference = { document: selected, bitmap };
    viewer.compare({ source: bitmap, width: bitmap.width, height: bitmap.height, label: file.name, transparent: picture.hasAlpha });
    viewer.mode = "divider";
    $("comparison").hidden = false;
    $("psnr").textContent = "";
    const psnr = await psnrDb(blob, picture);
    if (reference?.bitmap !== bitmap) return;
    $("psnr").textContent = psnr === Infinity ? "equal in every pixel" : `PSNR ${psnr.toFixed(2)} dB`;
    say(`Compared with ${file.name}: ${$("psnr").textContent}`);
  } catch (error) {
    notice(error instanceof LoocError ? error.message : `${file.name} cannot be compared (${error.message})`);
  }
}

/** The picture of a file as soon as it is there. */
async function decoded(one) {
  while (!one.picture) {
    if (one.state === "failed" || one.state === "cancelled") throw new LoocError(`${one.name} is not decoded, so there is nothing to compare`);
    await new Promise((resolve) => documents.addEventListener("change", resolve, { once: true }));
  }
  return one.picture;
}

async function loocAsPng(file) {
  const { width, height, data, header } = await decoder.decode(await readFile(file), {});
  const { blob } = await encode({ width, height, data, hasAlpha: header.hasAlpha, isGrey: false, icc: header.iccProfile }, "png");
  return blob;
}

function endComparison() {
  if (!reference) return false;
  viewer.compare(null);
  reference.bitmap.close();
  reference = null;
  $("comparison").hidden = true;
  return true;
}

// --- saving ----------------------------------------------------------------------------------------------------------

function toggleSaveMenu(open = $("save-menu").hidden) {
  $("save-menu").hidden = !open;
  $("save").setAttribute("aria-expanded", open);
  if (open) {
    $("save-menu").querySelector('[data-kind="jpeg"]').disabled = documents.selected.picture.hasAlpha;
    $("save-menu").querySelector("button").focus();
  }
}

async function save(kind) {
  const { name, picture } = documents.selected;
  toggleSaveMenu(false);
  $("save").focus();
  say(`Saving ${name} as ${KINDS[kind].name}`);
  try {
    const { blob, lost } = await encode(picture, kind);
    download(blob, name.replace(/\.looc$/i, "") + KINDS[kind].suffix);
    if (lost.length) notice(`${KINDS[kind].name} cannot hold this picture's ${lost.join(" and ")}; left out`);
  } catch (error) {
    notice(`${name} is not saved: ${error.message}`);
  }
}

// --- words -----------------------------------------------------------------------------------------------------------

/** For screen readers. */
function say(text) {
  $("status").textContent = text;
}

function notice(text) {
  $("notice").firstElementChild.textContent = text;
  $("notice").hidden = false;
}

function capital(text) {
  return text && text[0].toUpperCase() + text.slice(1);
}

// --- what can be pressed ---------------------------------------------------------------------------------------------

const presses = {
  open: () => $("files").click(),
  choose: () => $("files").click(),
  compare: () => $("reference").click(),
  save: () => toggleSaveMenu(),
  info: toggleInformation,
  theme: toggleTheme,
  help: () => $("keys").showModal(),
  again: () => documents.resume(),
  cancel: () => documents.cancel(),
  "end-comparison": endComparison,
  "zoom-out": () => viewer.zoomStep(-1),
  "zoom-in": () => viewer.zoomStep(1),
  fit: () => viewer.fit(),
  actual: () => viewer.actualSize(),
};
for (const [id, press] of Object.entries(presses)) $(id).addEventListener("click", press);
for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", () => save(button.dataset.kind));
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => (button.dataset.mode === "flicker" ? viewer.swap() : (viewer.mode = button.dataset.mode)));
}
$("notice").querySelector("button").addEventListener("click", () => ($("notice").hidden = true));
$("gain").addEventListener("change", () => (viewer.gain = Number($("gain").value)));
for (const [id, taking] of [["files", take], ["reference", ([file]) => file && compareWith(file)]]) {
  $(id).addEventListener("change", () => {
    const files = [...$(id).files];
    $(id).value = ""; // the same file can be chosen again
    taking(files);
  });
}
addEventListener("pointerdown", (event) => {
  if (!$("save-menu").hidden && !event.target.closest("#save-menu, #save")) toggleSaveMenu(false);
});

const keys = {
  o: () => $("files").click(),
  c: () => $("compare").click(),
  s: () => $("save").click(),
  i: () => $("info").click(),
  "?": () => $("keys").showModal(),
  PageUp: () => documents.selectNext(-1),
  PageDown: () => documents.selectNext(1),
  Escape: () => escape(),
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, dialog")) return;
  if (event.key in keys) {
    event.preventDefault();
    keys[event.key]();
  } else if (!$("viewer").hidden && !event.target.closest("#strip, #information")) {
    viewer.key(event);
  }
});

/** Closes the topmost of what is open. */
function escape() {
  if (!$("save-menu").hidden) {
    toggleSaveMenu(false);
    $("save").focus();
  } else if (!$("notice").hidden) $("notice").hidden = true;
  else if (!documents.cancel() && !endComparison() && informationWanted) toggleInformation();
}

const stage = $("stage");
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    stage.classList.add("dropping");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => event.clipboardData.files.length && take([...event.clipboardData.files]));

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
}

function setTheme(theme) {
  if (theme !== "dark" && theme !== "light") return;
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("looc-theme", theme);
  } catch {
    // Not kept where the browser keeps nothing.
  }
}

try {
  setTheme(localStorage.getItem("looc-theme"));
} catch {
  // As above.
}
openAddressed().catch((error) => notice(error instanceof LoocError ? error.message : "The list of files in the address cannot be read"));

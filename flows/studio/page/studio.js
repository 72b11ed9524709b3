"use strict";
// The page keeps no state of its own but what is looked at: images and their results are the server's.

const $ = (id) => document.getElementById(id);
const say = (text) => {
  const all = [...refused, text].join(" ");
  if ($("status").textContent !== all) $("status").textContent = all;
};
const mode = () => document.querySelector("input[name=mode]:checked").value;

let products = [];
let images = [];
let refused = []; // why files were not added, until an image is picked or files are added
let current = null; // key of the image that is shown
let shown = ""; // what the layers hold
let polling = false;
const view = { scale: 1, x: 0, y: 0, fitted: true };

async function ask(method, path, body) {
  const headers = { "X-Relume-Studio": "1" };
  if (body && !(body instanceof Blob)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("The studio does not answer. Start it again with relume studio.");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(content?.error ?? `The studio answered with status ${answer.status}.`);
  return content;
}

const image = () => images.find((each) => each.key === current);
const busy = (each) => each.state === "waiting" || each.state === "restoring";
// What images are restored with, but for the level, which may be each one's own.
const wish = () => ({
  product: $("product").value,
  orientations: Number($("orientations").value) || null,
  backend: $("backend").value || null,
});
const product = () => products.find((each) => each.name === $("product").value);

// Images

async function add(files) {
  refused = [];
  for (const [number, file] of [...files].entries()) {
    say(`Reading ${file.name} (${number + 1} of ${files.length}) …`);
    try {
      const added = await ask("POST", `/api/images?name=${encodeURIComponent(file.name)}`, file);
      images.push(added);
      if (!image()) show(added.key);
      await restore([added]);
    } catch (error) {
      refused.push(error.message);
    }
  }
  await follow();
  list();
}

async function restore(which) {
  for (const each of which.filter((each) => !busy(each))) {
    await ask("POST", `/api/images/${each.key}/restore`, { ...wish(), level: levelFor(each) });
    each.state = "waiting";
  }
  list();
  follow();
}

async function remove(key) {
  await ask("DELETE", `/api/images/${key}`);
  images = images.filter((each) => each.key !== key);
  if (current === key) show(images[0]?.key ?? null);
  list();
  $("images").querySelector(".pick")?.focus();
}

async function follow() {
  if (polling) return;
  polling = true;
  try {
    do {
      images = await ask("GET", "/api/images");
      list();
      draw();
      await new Promise((done) => setTimeout(done, 300));
    } while (images.some(busy));
  } catch (error) {
    say(error.message);
  }
  polling = false;
}

function stateOf(each) {
  if (each.state === "restoring" && each.tiles) return `${Math.round((100 * each.done) / each.tiles)} %`;
  if (each.state === "restored") return `${each.seconds} s`;
  return each.state === "read" ? "not restored" : each.state;
}

function list() {
  const items = images.map((each) => {
    const old = $("images").querySelector(`[data-key="${each.key}"]`) ?? item(each);
    old.className = each.state;
    old.querySelector(".state").textContent = stateOf(each);
    old.querySelector(".pick").setAttribute("aria-current", each.key === current);
    const bar = old.querySelector("progress");
    bar.hidden = !busy(each);
    bar.value = each.tiles ? each.done / each.tiles : 0;
    return old;
  });
  if (items.length !== $("images").children.length || items.some((each, i) => each !== $("images").children[i])) {
    $("images").replaceChildren(...items);
  }
  const done = images.filter((each) => each.state === "restored").length;
  const failed = images.filter((each) => each.state === "failed").length;
  const chosen = image();
  $("restore").disabled = !chosen || busy(chosen);
  $("restore-all").disabled = !images.length || images.every(busy);
  hints(chosen);
  enable($("save"), chosen?.version);
  enable($("save-all"), images.some((each) => each.version));
  if (!images.length) return say("Add photographs to begin. They stay on this machine.");
  if (images.some(busy)) return say(`${done} of ${images.length} restored${failed ? `, ${failed} failed` : ""} …`);
  if (chosen?.state === "failed") return say(chosen.error);
  if (chosen?.release) {
    const level = chosen.level === null ? "" : `, level ${chosen.level}`;
    const notes = chosen.notes.map((note) => ` Note: ${note}.`).join("");
    say(`${chosen.name}: ${chosen.width} × ${chosen.height}, noise about ${chosen.noise}, by ${chosen.release}${level}.${notes}`);
  }
}

function hints(each) {
  const level = each && levelFor(each);
  const other = each && (Object.entries(wish()).some(([name, value]) => each[name] !== value)
    || (level !== null && each.level !== null && level !== each.level));
  $("stale").hidden = !each?.version || busy(each) || !other;
  $("stale").textContent = `The image shows ${each?.product}${each?.level == null ? "" : ` at ${each.level}`} until it is restored again.`;
  $("quality-part").hidden = [".png", ".tif"].includes($("suffix").value);
  const lost = each?.losses[$("suffix").value] ?? [];
  $("lost").hidden = !lost.length;
  $("lost").textContent = lost.map((sentence) => `${sentence[0].toUpperCase()}${sentence.slice(1)}.`).join(" ");
}

function item(each) {
  const made = document.createElement("li");
  made.dataset.key = each.key;
  made.innerHTML = `<button type="button" class="pick"><img alt=""><span class="name"></span><span class="state"></span></button>
    <progress max="1" hidden></progress><button type="button" class="remove">×</button>`;
  made.querySelector("img").src = `/api/images/${each.key}/thumbnail.png`;
  made.querySelector(".name").textContent = made.querySelector(".pick").title = each.name;
  made.querySelector("progress").setAttribute("aria-label", `Progress of ${each.name}`);
  made.querySelector(".remove").setAttribute("aria-label", `Remove ${each.name}`);
  made.querySelector(".pick").onclick = () => {
    refused = [];
    show(each.key);
  };
  made.querySelector(".remove").onclick = () => remove(each.key).catch((error) => say(error.message));
  return made;
}

function enable(link, on) {
  if (on) {
    link.setAttribute("aria-disabled", "false");
    link.href = address(link.id === "save" ? `/api/images/${current}/result` : "/api/results.zip");
  } else {
    link.setAttribute("aria-disabled", "true");
    link.removeAttribute("href");
  }
}

function address(path) {
  const wishes = new URLSearchParams({ blend: $("blend").value / 100, keep: $("keep").value });
  if ($("suffix").value) wishes.set("suffix", $("suffix").value);
  if ($("quality").value && $("quality").validity.valid && !$("quality-part").hidden) wishes.set("quality", $("quality").value);
  return `${path}?${wishes}`;
}

// The view

function show(key) {
  current = key;
  view.fitted = true;
  $("stage").hidden = $("view").hidden = !image();
  $("drop").hidden = Boolean(image());
  settings();
  list();
  draw();
}

function draw() {
  const each = image();
  if (!each) return;
  const wanted = `${each.key} ${each.version}`;
  if (shown !== wanted) {
    shown = wanted;
    $("before").src = `/api/images/${each.key}/before.png`;
    // Without a result the original stands for it, so that the view does not jump when the result comes.
    $("after").src = each.version ? `/api/images/${each.key}/after.png?${each.version}` : $("before").src;
  }
  const { clientWidth: width, clientHeight: height } = $("stage");
  const unit = 1 / devicePixelRatio; // one pixel of the image on one of the screen
  if (view.fitted) view.scale = fitting();
  const room = (size, length) => (size <= length ? [(length - size) / 2, (length - size) / 2] : [length - size, 0]);
  const clamp = (at, [lowest, highest]) => Math.min(Math.max(at, lowest), highest);
  const whole = (at) => Math.round(at / unit) * unit; // between its pixels the screen would blur the image
  view.x = whole(clamp(view.x, room(each.width * view.scale, width)));
  view.y = whole(clamp(view.y, room(each.height * view.scale, height)));
  const layers = $("layers");
  layers.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  layers.style.width = `${each.width}px`;
  layers.style.height = `${each.height}px`;
  layers.className = `${mode()} ${view.scale > unit ? "sharp" : ""}`;
  const sliding = mode() === "slide";
  const at = ($("divider").value / 100) * width;
  const cut = Math.min(Math.max((at - view.x) / view.scale, 0), each.width);
  $("after").style.clipPath = sliding ? `inset(0 0 0 ${cut}px)` : "none";
  $("after").style.opacity = mode() === "before" ? 0 : $("blend").value / 100;
  $("line").hidden = $("divider-label").hidden = !sliding;
  $("line").style.left = `${at}px`;
  for (const side of ["left", "right"]) document.querySelector(`.corner.${side}`).hidden = !sliding;
  $("scale").textContent = `${Math.round(100 * view.scale * devicePixelRatio)} %`;
  $("blend-value").textContent = `${$("blend").value} %`;
}

function fitting() {
  const { clientWidth: width, clientHeight: height } = $("stage");
  return Math.min(width / image().width, height / image().height, 8 / devicePixelRatio);
}

function zoom(factor, x = $("stage").clientWidth / 2, y = $("stage").clientHeight / 2) {
  view.fitted = false;
  const before = view.scale;
  const [lowest, highest] = [Math.min(fitting(), 1 / 8 / devicePixelRatio), 16 / devicePixelRatio];
  view.scale = Math.min(Math.max(view.scale * factor, lowest), highest);
  view.x = x - ((x - view.x) * view.scale) / before;
  view.y = y - ((y - view.y) * view.scale) / before;
  draw();
}

const zooms = {
  in: () => zoom(1.5),
  out: () => zoom(1 / 1.5),
  fit: () => { view.fitted = true; draw(); },
  one: () => zoom(1 / devicePixelRatio / view.scale),
};

function pan(x, y) {
  view.fitted = false;
  view.x += x;
  view.y += y;
  draw();
}

const pointers = new Map();
const spread = () => {
  const [a, b] = [...pointers.values()];
  return Math.hypot(a.x - b.x, a.y - b.y);
};

$("stage").addEventListener("pointerdown", (event) => {
  $("stage").setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, line: event.target === $("line") });
});
$("stage").addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const box = $("stage").getBoundingClientRect();
  const now = { ...last, x: event.clientX, y: event.clientY };
  if (pointers.size === 2) {
    const apart = spread();
    pointers.set(event.pointerId, now);
    zoom(spread() / apart, event.clientX - box.left, event.clientY - box.top);
  } else if (last.line) {
    $("divider").value = (100 * (event.clientX - box.left)) / box.width;
    draw();
  } else {
    pan(now.x - last.x, now.y - last.y);
  }
  pointers.set(event.pointerId, now);
});
for (const end of ["pointerup", "pointercancel"]) {
  $("stage").addEventListener(end, (event) => pointers.delete(event.pointerId));
}
$("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = $("stage").getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 500), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
$("stage").addEventListener("keydown", (event) => {
  const keys = {
    "+": zooms.in, "=": zooms.in, "-": zooms.out, "0": zooms.fit, "1": zooms.one,
    ArrowLeft: () => pan(40, 0), ArrowRight: () => pan(-40, 0), ArrowUp: () => pan(0, 40), ArrowDown: () => pan(0, -40),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
});

// Settings

function levelFor(each) {
  const levels = product()?.levels;
  if (!levels) return null;
  if (!$("level-auto").checked) return Number($("level").value);
  if (product().estimates) return null; // by the model's own estimator
  return levels.kind === "sigma" ? Math.min(Math.max(each.noise, levels.lowest), levels.highest) : null;
}

function settings() {
  const chosen = product();
  $("purpose").textContent = chosen?.purpose ?? "";
  const levels = chosen?.levels;
  $("level-part").hidden = !levels;
  if (!levels) return;
  $("level-name").textContent = levels.kind === "sigma" ? "Noise (sigma)" : levels.kind;
  [$("level").min, $("level").max] = [levels.lowest, levels.highest];
  $("level-auto").parentElement.hidden = levels.kind !== "sigma" && !chosen.estimates;
  const estimated = chosen.estimates && image()?.product === chosen.name ? image().level : null;
  if ($("level-auto").checked) $("level").value = (image() && levelFor(image())) ?? estimated ?? levels.default;
  $("level-value").textContent = $("level").value;
}

$("product").onchange = $("level-auto").onchange = () => {
  settings();
  list();
};
$("level").oninput = () => {
  $("level-auto").checked = false;
  settings();
  list();
};
for (const id of ["blend", "divider"]) $(id).oninput = () => { draw(); list(); };
for (const id of ["orientations", "backend", "suffix", "quality", "keep"]) $(id).onchange = list;
for (const each of document.querySelectorAll("input[name=mode]")) each.onchange = draw;
for (const each of document.querySelectorAll("[data-zoom]")) each.onclick = zooms[each.dataset.zoom];
$("restore").onclick = () => restore([image()]).catch((error) => say(error.message));
$("restore-all").onclick = () => restore(images).catch((error) => say(error.message));
$("files").onchange = () => {
  const files = [...$("files").files];
  $("files").value = ""; // so that the same file can be chosen again
  add(files);
};

// Files and folders that are dropped anywhere

const known = new Set($("files").accept.split(",").filter((each) => each.startsWith(".")));
const isImage = ({ name, type }) => type.startsWith("image/") || known.has(name.slice(name.lastIndexOf(".")).toLowerCase());

async function imagesIn(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a call gives a hundred entries at most
    const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!entries.length) return found;
    for (const each of entries) found.push(...(each.isFile ? [await fileOf(each)].filter(isImage) : await imagesIn(each)));
  }
}

const fileOf = (entry) => new Promise((done, fail) => entry.file(done, fail));

async function dropped(entries) {
  const found = [];
  for (const each of entries) found.push(...(each.isFile ? [await fileOf(each)] : await imagesIn(each)));
  return found;
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const entries = [...event.dataTransfer.items].map((each) => each.webkitGetAsEntry()).filter(Boolean);
  dropped(entries).then(add).catch((error) => say(error.message));
});
new ResizeObserver(draw).observe($("stage"));

(async () => {
  try {
    const known = await ask("GET", "/api/products");
    products = known.products;
    $("product").replaceChildren(...products.map((each) => new Option(each.name, each.name)));
    $("product").value = known.default;
    images = await ask("GET", "/api/images");
    if (images.length) show(images[0].key);
    settings();
    list();
    if (images.some(busy)) follow();
  } catch (error) {
    say(error.message);
  }
})();

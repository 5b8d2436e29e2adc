// data-upload="model": a box whose file goes to the service in pieces (tus 1.0.0) as soon as it is chosen or dropped
// there. What it became is chosen in the list that data-into names. Without this script the form sends the file itself.

const PIECE_BYTES = 16 * 1024 ** 2;
const LONGEST_PAUSE_MS = 30000;
const MOST_REFUSALS = 3; // a quota of requests is open again after a minute, one of samples is not
const AWAY = [0, 408, 409, 502, 503, 504]; // nobody answered, or not now, or it goes on at another place: ask again
const busy = new Set();
let choosing = false; // whether this script, and nobody else, takes an entry of a list

for (const box of document.querySelectorAll("[data-upload]")) watch(box);

function watch(box) {
  const input = box.querySelector("input[type=file]");
  const name = input.name;
  const list = document.getElementById(box.dataset.into);
  if ("several" in input.dataset) input.multiple = true;
  let current = null;

  input.addEventListener("change", async () => {
    current?.abort();
    busy.delete(box);
    input.name = name;
    if (!input.files.length) return hide(box);
    const mine = (current = new AbortController());
    busy.add(box);
    try {
      const upload = await sent([...input.files], box.dataset.upload, show(box), mine.signal);
      input.removeAttribute("name"); // the form has its id, and need not send it
      choose(list, upload);
      say(box, `${upload.name}, ${size(upload.bytes)}: uploaded`, 1);
    } catch (error) {
      if (!mine.signal.aborted) say(box, error.message, 0, true);
    } finally {
      if (current === mine) done(box);
    }
  });
  list.addEventListener("change", () => {
    if (choosing) return;
    current?.abort(); // somebody took another one from the list
    done(box);
    input.value = "";
    hide(box);
  });
  for (const kind of ["dragenter", "dragover"]) box.addEventListener(kind, (event) => { event.preventDefault(); box.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) box.addEventListener(kind, () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

// A file that misses its box does not take the place of the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

// A form waits for its uploads.
document.addEventListener("submit", (event) => {
  const waiting = [...busy].some((box) => event.target.contains(box));
  if (!waiting) return;
  event.preventDefault();
  event.target.dataset.goesOn = "";
  tell(event.target, "Starts when the upload is complete.");
});

function done(box) {
  busy.delete(box);
  const form = box.closest("form");
  if (!("goesOn" in form.dataset) || [...busy].some((other) => form.contains(other))) return;
  delete form.dataset.goesOn;
  tell(form, "");
  if (!form.querySelector("[data-upload-state].failed")) form.requestSubmit();
}

function tell(form, text) {
  form.querySelector("[data-upload-wait]").textContent = text;
}

async function sent(files, kind, progress, signal) {
  if (files.length > 1) return inParts(files, progress, signal);
  return inPieces(files[0], kind, progress, signal);
}

// A network and the files that its weights lie in: one form, from its beginning.
async function inParts(files, progress, signal) {
  const network = files.find((file) => file.name.endsWith(".onnx"));
  if (!network) throw new Error("Several files were chosen, and none is an .onnx file. Choose it with its data files.");
  const form = new FormData();
  for (const file of files) form.append(file === network ? "model" : "data", file, file.name);
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const address = `/v1/models?name=${encodeURIComponent(network.name)}`;
  const answer = await request("PUT", address, { body: form, signal, progress: (loaded) => progress(loaded, bytes) });
  if (AWAY.includes(answer.status)) throw new Error("The connection was cut. Choose the files again.");
  if (!went(answer)) throw problem(answer);
  return { id: JSON.parse(answer.responseText).id, name: network.name, bytes };
}

async function inPieces(file, kind, progress, signal) {
  const known = `upload ${kind} ${file.name} ${file.size} ${file.lastModified}`;
  let address = memory("getItem", known);
  let asked = !address; // whether the offset is known
  let offset = 0;
  for (let failures = 0, refusals = 0; ; ) {
    let answer;
    if (!address) {
      const metadata = `kind ${base64(kind)},name ${base64(file.name)}`;
      answer = await request("POST", "/v1/uploads", { headers: { "Upload-Length": file.size, "Upload-Metadata": metadata }, signal });
      if (went(answer)) {
        address = answer.getResponseHeader("Location");
        memory("setItem", known, address);
        [offset, asked] = [0, true];
      }
    } else if (!asked) {
      answer = await request("HEAD", address, { signal });
      if (went(answer)) [offset, asked] = [Number(answer.getResponseHeader("Upload-Offset")), true];
    } else {
      const from = offset;
      const headers = { "Upload-Offset": from, "Content-Type": "application/offset+octet-stream" };
      const body = file.slice(from, from + PIECE_BYTES);
      answer = await request("PATCH", address, { headers, body, signal, progress: (loaded) => progress(from + loaded, file.size) });
      if (went(answer)) [offset, refusals] = [Number(answer.getResponseHeader("Upload-Offset")), 0];
    }
    const made = went(answer) && offset === file.size && answer.getResponseHeader("Location");
    if (made && made !== address) {
      memory("removeItem", known);
      return { id: made.split("/").pop(), name: file.name, bytes: file.size };
    }
    if (went(answer)) {
      failures = 0;
      progress(offset, file.size);
    } else if ([404, 410].includes(answer.status) && address) {
      memory("removeItem", known); // it went a day after it began
      address = null;
    } else if (AWAY.includes(answer.status) || (answer.status === 429 && refusals++ < MOST_REFUSALS)) {
      const asked_ms = 1000 * (Number(answer.getResponseHeader("Retry-After")) || 0);
      const pause = Math.max(Math.min(1000 * 2 ** failures++, LONGEST_PAUSE_MS), asked_ms);
      const why = answer.status === 429 ? problem(answer).message : "The connection was cut";
      progress(offset, file.size, `${why}. Trying again in ${pause / 1000} s; what has arrived stays.`);
      await rest(pause, signal);
      asked = !address;
    } else {
      throw problem(answer);
    }
  }
}

function request(method, address, { headers = {}, body = null, signal, progress = null }) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest(); // fetch does not say how much of a body has been sent
    const stop = () => { call.abort(); reject(new Error("stopped")); };
    if (signal.aborted) return stop();
    signal.addEventListener("abort", stop, { once: true });
    call.open(method, address);
    call.setRequestHeader("Tus-Resumable", "1.0.0");
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    if (progress) call.upload.addEventListener("progress", (event) => progress(event.loaded));
    call.addEventListener("loadend", () => { signal.removeEventListener("abort", stop); resolve(call); });
    call.send(body);
  });
}

function went(answer) {
  return answer.status >= 200 && answer.status < 300; // 0: nobody answered
}

function problem(answer) {
  try {
    return new Error(JSON.parse(answer.responseText).detail);
  } catch {
    return new Error(`The service answered ${answer.status}. Choose the file again.`);
  }
}

function rest(pause, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, pause);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new Error("stopped")); }, { once: true });
  });
}

function choose(list, { id, name, bytes }) {
  [...list.options].find((one) => one.value === id)?.remove(); // it has a new name now
  list.add(new Option(`${name}, ${size(bytes)}`, id), 1);
  list.value = id;
  choosing = true;
  list.dispatchEvent(new Event("change", { bubbles: true }));
  choosing = false;
}

function show(box) {
  return (loaded, bytes, text) => {
    const part = Math.min(loaded / bytes, 1);
    say(box, text ?? `${Math.floor(100 * part)} % of ${size(bytes)}`, part);
  };
}

function say(box, text, part, failed = false) {
  const state = box.querySelector("[data-upload-state]");
  state.hidden = false;
  state.classList.toggle("failed", failed);
  state.querySelector("progress").value = part;
  state.querySelector("[role=status]").textContent = text;
}

function hide(box) {
  const state = box.querySelector("[data-upload-state]");
  state.hidden = true;
  state.classList.remove("failed");
}

function size(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 3);
  const value = bytes / 1000 ** power;
  return `${power && value < 100 ? Number(value.toPrecision(3)) : Math.round(value)} ${["bytes", "kB", "MB", "GB"][power]}`;
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

// What is remembered over a reload of the page, where the browser lets it.
function memory(what, ...about) {
  try {
    return localStorage[what](...about);
  } catch {
    return null;
  }
}

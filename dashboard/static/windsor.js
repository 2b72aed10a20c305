// What the pages cannot do by themselves: arrive live, tell the time, remember a zone and a theme.
"use strict";

const root = document.documentElement;
root.classList.add("scripted");

function remember(name, value) {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=lax`;
}

// The browser's zone, for the days and hours of the next page.
remember("windsor_zone", Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");

// The theme: what the system says, then the other one.
document.addEventListener("click", (click) => {
  if (!click.target.closest("[data-theme-switch]")) return;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  remember("windsor_theme", root.dataset.theme);
});

// Relative times stay true while a page is open.
function ago(at) {
  const seconds = (Date.now() - at) / 1000;
  if (seconds < -60 || seconds >= 604800) return null;
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const words = ago(Date.parse(time.dateTime));
    if (words !== null && words !== time.textContent) time.textContent = words;
  }
}, 15000);

// An avatar that does not load leaves the initials.
function judge(image) {
  if (image.naturalWidth > 0) image.classList.add("loaded");
  else image.remove();
}
for (const type of ["load", "error"]) {
  document.addEventListener(type, (event) => {
    if (event.target instanceof HTMLImageElement && event.target.closest(".avatar")) judge(event.target);
  }, true);
}
for (const image of document.querySelectorAll(".avatar img")) if (image.complete && image.currentSrc) judge(image);

// Details of a line: asked for once, then only opened and closed.
document.addEventListener("htmx:beforeRequest", (event) => {
  const button = event.target;
  if (!button.classList.contains("open")) return;
  const details = button.parentElement.querySelector(".details");
  if (details.childElementCount > 0) {
    event.preventDefault();
    details.hidden = !details.hidden;
    button.setAttribute("aria-expanded", String(!details.hidden));
  } else {
    details.hidden = false;
    button.setAttribute("aria-expanded", "true");
  }
});
document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRF-Token"] = document.querySelector("meta[name=csrf]").content;
});

// Copying a token.
document.addEventListener("click", async (click) => {
  const button = click.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
  document.getElementById("said").textContent = "Copied";
  button.lastChild.textContent = "Copied";
});

// The live feed: new lines go on top where the top is in sight; else they wait, and a button
// says how many, so that nobody loses their place.
let source = null;
let waiting = [];
// Whether more was missed than a page holds: then only a fresh page has it all.
let holed = false;

function isHere(line) {
  return (
    document.getElementById(line.id) !== null ||
    waiting.some((told) => told.html.includes(`id="${line.id}"`))
  );
}

function isTopInSight() {
  const opened = document.querySelector('.open[aria-expanded="true"]');
  return window.scrollY < 80 && !opened && !document.hidden;
}

function put(events) {
  const feed = document.getElementById("feed");
  for (const html of events) {
    const part = document.createElement("template");
    part.innerHTML = html;
    const lines = [...part.content.querySelectorAll(".line")].filter(
      (line) => !document.getElementById(line.id),
    );
    for (const line of lines.reverse()) {
      let heading = feed.querySelector(".day");
      if (!heading || heading.dataset.day !== line.dataset.day) {
        heading = document.createElement("h2");
        heading.className = "day";
        heading.dataset.day = heading.textContent = line.dataset.day;
        feed.prepend(heading);
      }
      line.classList.add("fresh");
      heading.after(line);
      htmx.process(line);
    }
  }
  document.querySelector(".empty")?.remove();
  // A page left open all day keeps its newest lines.
  for (const line of [...feed.querySelectorAll(".line")].slice(2000)) line.remove();
}

function show() {
  const button = document.querySelector(".arrivals");
  if (!button) return;
  const count = waiting.reduce((sum, told) => sum + told.count, 0);
  button.hidden = count === 0;
  button.querySelector("[data-arrivals]").textContent =
    `↑ ${count} new event${count === 1 ? "" : "s"}`;
}

function arrive(told) {
  if (isTopInSight() && !holed) {
    put([told.html]);
  } else {
    waiting = [...waiting, told].slice(-200);
    show();
  }
}

document.addEventListener("click", (click) => {
  if (!click.target.closest(".arrivals")) return;
  if (holed) return location.reload();
  window.scrollTo({ top: 0 });
  put(waiting.map((told) => told.html));
  document.getElementById("said").textContent = `${waiting.length} new events shown`;
  waiting = [];
  show();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || window.scrollY >= 80 || !waiting.length || holed) return;
  put(waiting.map((told) => told.html));
  waiting = [];
  show();
});

// What was stored before the stream began, or while it was away: the page is asked for anew, and
// what is not here yet arrives like any other event.
async function catchUp(mine, isNew) {
  const answer = await fetch(location.href);
  if (!answer.ok) throw new Error(`the feed answers ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (source !== mine) return;
  const lines = [...page.querySelectorAll("#feed .line")];
  const missed = lines.filter((line) => !isHere(line));
  if (!missed.length) return;
  // A page that has just been opened is as fresh as another one would be.
  if (missed.length === lines.length && document.querySelector("#feed .line") && !isNew) {
    if (isTopInSight()) return location.reload();
    holed = true;
  }
  arrive({ html: missed.map((line) => line.outerHTML).join(""), count: missed.length });
}

function listen(wasAway = false) {
  const live = document.querySelector("[data-live]");
  if (source) source.close();
  source = null;
  waiting = [];
  holed = false;
  show();
  if (!live) return;
  const word = live.querySelector("[data-live-word]");
  const mine = new EventSource(live.dataset.live);
  source = mine;
  // The first gap is that between the page and its stream; later ones come by errors.
  let gaps = 1;
  let isNew = !wasAway;
  let caughtUp = Promise.resolve();
  mine.addEventListener("hello", () => {
    live.classList.add("on");
    word.textContent = "Live";
    if (!gaps) return;
    const closing = gaps;
    caughtUp = catchUp(mine, isNew).then(
      () => (gaps -= closing),
      // The next hello tries again.
      () => undefined,
    );
  });
  mine.addEventListener("error", () => {
    gaps += 1;
    isNew = false;
    live.classList.remove("on");
    word.textContent = "Reconnecting";
    // After an answer that is no stream the browser does not come again by itself.
    if (mine.readyState === EventSource.CLOSED) {
      setTimeout(() => source === mine && listen(true), 5000);
    }
  });
  mine.addEventListener("lines", async (message) => {
    // Else they would pass for the newest that the page has.
    await caughtUp;
    if (source === mine) arrive(JSON.parse(message.data));
  });
}
listen();
document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target.id === "main") listen();
});
window.addEventListener("pagehide", () => source?.close());
window.addEventListener("pageshow", (event) => {
  if (event.persisted) listen(true);
});

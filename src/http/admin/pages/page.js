"use strict";
const exact = () => document.querySelectorAll("time").forEach(t => { t.title = new Date(t.dateTime).toLocaleString(); });
let seen = new Date(), looking = false;
const stale = why => {
  const told = document.querySelector("#stale") || document.createElement("div");
  told.id = "stale"; told.className = "banner bad"; told.setAttribute("role", "alert");
  told.textContent = `What stands here was so at ${seen.toLocaleTimeString()}. Since then ${why}.`;
  if (!told.isConnected) document.querySelector("main").prepend(told);
  document.title = "✖ No news · Switchyard";
};
const look = async () => {
  const now = document.querySelector("main"), at = document.activeElement;
  if (looking || at.matches("main input, main button") || document.hidden && new Date() - seen < 60000) return;
  looking = true;
  try {
    const answer = await fetch("./", { signal: AbortSignal.timeout(30000) });
    if (!answer.ok) return stale(answer.status == 401 ? "you are signed out: load the page again" : `the relay answers with ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html"), next = page.querySelector("main");
    if (!next) return stale("something else answers at this address");
    now.querySelectorAll("details[open]").forEach(d => { const same = next.querySelector("#" + d.id); if (same) same.open = true; });
    now.replaceWith(next);
    document.title = page.title;
    if (at.id && next.querySelector("#" + at.id)) next.querySelector("#" + at.id).focus();
    seen = new Date();
    exact();
  } catch { stale("the relay does not answer: see whether it runs"); } finally { looking = false; }
};
exact();
setInterval(look, 5000);
document.addEventListener("visibilitychange", () => document.hidden || look());

"use strict";
const exact = () => document.querySelectorAll("time").forEach(t => { t.title = new Date(t.dateTime).toLocaleString(); });
const look = async () => {
  const now = document.querySelector("main"), at = document.activeElement;
  if (document.hidden || at.matches("main input, main button")) return;
  try {
    const answer = await fetch("./");
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html"), next = page.querySelector("main");
    if (!next) return;
    now.querySelectorAll("details[open]").forEach(d => { const same = next.querySelector("#" + d.id); if (same) same.open = true; });
    now.replaceWith(next);
    document.title = page.title;
    if (at.id && next.querySelector("#" + at.id)) next.querySelector("#" + at.id).focus();
    exact();
  } catch { /* It is asked again. */ }
};
exact();
setInterval(look, 5000);

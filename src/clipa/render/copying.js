"use strict";
const byId = (id) => document.getElementById(id);

async function copy(content) {
  try {
    await navigator.clipboard.writeText(content);
  } catch {
    const area = document.createElement("textarea");
    area.value = content;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

let quiet = 0;
function say(content) {
  byId("notice").textContent = content;
  byId("notice").classList.add("now");
  clearTimeout(quiet);
  quiet = setTimeout(() => byId("notice").classList.remove("now"), 2500);
}

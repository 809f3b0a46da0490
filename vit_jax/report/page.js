"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.querySelector("script").textContent);
  const cursor = plot.querySelector(".cursor"), tip = plot.querySelector(".tip");
  const write = (value) => data.style === "percent"
    ? (100 * value).toFixed(2) + " %"
    : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
  };
  const hide = () => { cursor.style.display = tip.style.display = "none"; };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const wanted = data.first + share * (data.last - data.first);
    const found = data.series.map((series) => [series, nearest(series.points, wanted)]);
    const step = found.reduce((a, b) => Math.abs(b[1][0] - wanted) < Math.abs(a[1][0] - wanted) ? b : a)[1][0];
    const place = data.last > data.first ? (step - data.first) / (data.last - data.first) : 0;
    cursor.style.left = 100 * place + "%";
    cursor.style.display = tip.style.display = "block";
    tip.replaceChildren();
    const head = document.createElement("div");
    head.textContent = "step " + Math.round(step).toLocaleString("en");
    tip.append(head);
    for (const [series, point] of found) {
      const row = document.createElement("div"), swatch = document.createElement("i");
      swatch.style.background = "var(--c" + series.color + ")";
      const at = point[0] === step ? "" : " (step " + Math.round(point[0]).toLocaleString("en") + ")";
      row.append(swatch, (series.label ? series.label + ": " : "") + write(point[1]) + at);
      tip.append(row);
    }
    const room = box.width - tip.offsetWidth;
    const left = place * box.width + (place > 0.5 ? -tip.offsetWidth - 10 : 10);
    tip.style.left = Math.min(Math.max(left, -50), Math.max(room, 0)) + "px";
  });
  plot.addEventListener("pointerleave", hide);
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "select and copy";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

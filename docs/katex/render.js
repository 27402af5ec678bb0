// Sets the formulas of a page: what pymdownx.arithmatex leaves between \\( and \\), or \\[ and \\].
for (const place of document.querySelectorAll(".arithmatex")) {
  const formula = place.textContent.trim().slice(2, -2);
  katex.render(formula, place, { displayMode: place.tagName === "DIV", throwOnError: false });
}

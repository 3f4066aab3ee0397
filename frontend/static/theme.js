// Runs before the first paint, so that a stored theme does not flash in the other one, and what needs scripts is
// in its place from the start.
document.documentElement.dataset.scripts = "on";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  /* storage is not available: the system preference applies */
}

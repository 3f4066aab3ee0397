// On every page: the theme button, and the charts' buttons.

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

const button = document.getElementById("theme");
const label = () => {
  button.textContent = dark() ? "Light" : "Dark";
  button.title = `Switch to the ${dark() ? "light" : "dark"} theme`;
};
const changed = () => {
  label();
  root.dispatchEvent(new CustomEvent("themechange"));
};
label();
button.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    /* storage is not available: the theme applies to this page only */
  }
  changed();
});
system.addEventListener("change", changed);

if (document.querySelector("[data-chart]")) import("./charts.js");

// Contexts of a feature: shows the token under the pointer or selected by arrow keys, and whole contexts on request.

const readout = document.getElementById("readout");
const whole = document.getElementById("whole");

if (readout) {
  let current = null;
  const show = (token) => {
    if (!token || token === current) return;
    current?.classList.remove("at");
    current = token;
    current.classList.add("at");
    readout.textContent = token.title;
  };
  const section = document.querySelector(".reading");
  section.addEventListener("pointerover", (event) => show(event.target.closest(".contexts [title]")));
  section.addEventListener("keydown", (event) => {
    const line = event.target.closest(".contexts li");
    const right = line?.dir === "rtl" ? -1 : 1;
    const step = { ArrowRight: right, ArrowLeft: -right }[event.key];
    if (!step || !line) return;
    event.preventDefault();
    const tokens = [...line.querySelectorAll("[title]")];
    const from = tokens.indexOf(current);
    const home = tokens.findIndex((t) => t.matches(".fired, .missed"));
    show(tokens[from < 0 ? home : Math.min(Math.max(from + step, 0), tokens.length - 1)]);
  });
  whole.addEventListener("change", () => section.classList.toggle("whole", whole.checked));
  section.classList.toggle("whole", whole.checked);
}

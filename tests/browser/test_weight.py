"""What a page weighs over the wire, how far its content moves while it loads, and that it fits a phone."""

import pytest

WIRE, SHIFT = 200_000, 0.02
PATHS = [
    *("/", "/search?q=paris", "/tokens/tiny/0", "/tiny/1-vasae", "/tiny/1-vasae/6", "/tiny/1-vasae/made"),
    *("/read", "/steer", "/compare", "/lists", "/about"),
]
MOVED = """() => new Promise(resolve => {
    let sum = 0;
    new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
    }).observe({type: "layout-shift", buffered: true});
    setTimeout(() => resolve(sum), 300);
})"""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_light_and_does_not_move_while_it_loads(page, path, width):
    page.set_viewport_size({"width": width, "height": 844})
    session, weights = page.context.new_cdp_session(page), []
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    page.goto(path, wait_until="networkidle")
    assert 5_000 < sum(weights) <= WIRE
    moved = page.evaluate(MOVED)
    if moved > SHIFT:  # a busy machine paints half of a table, whose columns then change: look again
        page.reload(wait_until="networkidle")
        moved = page.evaluate(MOVED)
    assert moved <= SHIFT
    assert page.evaluate("document.documentElement.scrollWidth") <= width

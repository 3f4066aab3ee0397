"""docs/steering.md is what bench/steer_quality.py makes of the committed figures."""

from bench import steer_quality


def test_the_page_is_made_from_the_committed_figures(tmp_path, monkeypatch):
    committed = steer_quality.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(steer_quality, "PAGE", tmp_path / "steering.md")
    steer_quality.write_page()
    assert steer_quality.PAGE.read_text(encoding="utf-8") == committed

"""``tonnage replay`` and ``compare`` on profiles, and the timeline as one HTML file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tonnage import history as told
from tonnage import profiles
from tonnage.cli import main
from tonnage.history import History, Life, Span
from tonnage.report.timeline_html import data, reduced, render

PROFILES = Path(__file__).parent / "sources" / "data" / "profiles"
CHROME = str(PROFILES / "chrome.json.gz")
RECORDING = str(Path(__file__).parents[1] / "accuracy" / "recordings" / "sil_bf16.json.gz")


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = main([*argv, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_a_profile_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, "replay", CHROME)
    assert code == 0
    assert found["kind"] == "Chrome trace of torch.profiler"
    peak = found["peak"]
    assert found["peak_bytes"] == {"requested": peak["bytes"], "allocated": None, "reserved": None, "device": None}
    assert peak["bytes"] == sum(line["bytes"] for line in peak["by_component"])
    assert peak["within"] == ["backward"]
    assert peak["largest"][0]["bytes"] == max(line["bytes"] for line in peak["largest"])


def test_a_profile_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(PROFILES / "memory.prof")]) == 0
    out = capsys.readouterr().out
    assert "device memory profile of JAX of cpu:0" in out
    assert "1,114,116 B" in out
    assert "mk_jax.py:4" in out


def test_a_recording_tells_its_peak_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, "replay", RECORDING, "--peak")
    assert code == 0
    assert found["peak"]["bytes"] == found["peak_requested_bytes"]
    assert "peak" not in asked(capsys, "replay", RECORDING)[1]
    main(["replay", RECORDING, "--peak"])
    assert "alive at the peak" in capsys.readouterr().out


def test_only_a_recording_is_played_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, "replay", CHROME, "--gpu", "t4")
    assert (code, found["error"]["key"]) == (2, "gpu")


def test_profiles_lie_beside_each_other_and_beside_a_prediction(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, found = asked(capsys, "compare", CHROME, str(PROFILES / "timeline.json.gz"))
    assert code == 0
    lines = {line["name"]: line for line in found["lines"]}
    assert lines["optimizer_state"]["difference_bytes"] == lines["gradients"]["difference_bytes"] == 0
    assert "weights" in found["extra"]
    main(["train", "gpt2", "--seq", "128", "--json"])
    prediction = tmp_path / "predicted.json"
    prediction.write_text(capsys.readouterr().out)
    code, found = asked(capsys, "compare", str(prediction), RECORDING)
    assert code == 0
    tiers = {line["tier"]: line for line in found["tiers"]}
    assert tiers["reserved"]["right_bytes"] == 861_929_472
    assert tiers["device"]["right_bytes"] is None
    assert main(["compare", str(prediction), RECORDING]) == 0
    assert "fragmentation" in capsys.readouterr().out


def test_a_profile_beside_a_model_is_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, "compare", "gpt2", CHROME)
    assert code == 2
    assert "--json > FILE" in found["error"]["hint"]


def test_blocks_of_an_accelerator_lie_beside_tensors_of_a_prediction() -> None:
    from tonnage.report.beside import _aligned

    left = {("weights", "requested"): 5, ("workspace", "allocated"): 7, ("rounding", "allocated"): 1}
    right = {("weights", "allocated"): 6, ("workspace", "allocated"): 7}
    assert _aligned(left, right)[1] == {("weights", "requested"): 6, ("workspace", "allocated"): 7}


# The page.


def page_data(page: str) -> Any:
    match = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.html"
    assert main(["replay", CHROME, "--html", str(path)]) == 0
    capsys.readouterr()
    page = path.read_text()
    assert not re.search(r"(?:src|href)\s*=|https?://|import\(|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page
    found = page_data(page)
    history = profiles.read(CHROME)
    assert found["order"] == history.order
    assert found["lives"]["size"] == [life.size for life in history.lives]
    assert found["peak"] == history.peak()


def test_two_runs_are_drawn_on_one_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.html"
    assert main(["compare", CHROME, RECORDING, "--html", str(path)]) == 0
    frames = [unescape(text) for text in re.findall(r'srcdoc="([^"]*)"', path.read_text())]
    found = [page_data(page) for page in frames]
    sides = [profiles.read(CHROME), profiles.read(RECORDING)]
    assert [f["order"] for f in found] == [side.order for side in sides]
    highest = max(side.highest(tier) or 0 for side in sides for tier in (side.tier, *side.others))
    assert [f["most"] for f in found] == [highest, highest]
    capsys.readouterr()
    assert main(["compare", "gpt2", CHROME, "--html", str(path)]) == 2
    assert "no run over time" in capsys.readouterr().err


def test_a_page_shows_text_and_never_markup() -> None:
    evil = "</script><script>alert(1)</script><!--\u2028"
    history = History(
        "kind", evil, "", "requested", [Life(5, f"other:{evil}", evil, evil, (evil,))], [0], notes=(evil,)
    )
    page = render(history)
    assert "alert(1)</script>" not in page
    assert page.count("</script>") == 2
    assert page_data(page)["notes"] == [evil]


def test_a_run_too_long_to_draw_keeps_its_sums() -> None:
    sizes = [(i * 7919) % 1000 + 1 for i in range(5000)]
    lives = [Life(size, "weights" if i % 3 else "activations") for i, size in enumerate(sizes)]
    order = [n for i in range(5000) for n in ((i, ~(i - 50)) if i >= 50 else (i,))]
    whole = History(
        "k", "f", "", "requested", lives, order, times=range(len(order)), spans=(Span("all", 0, len(order)),)
    )
    small = reduced(whole, 300)
    assert len([life for life in small.lives if life.what == ""]) == 300
    assert small.levels()[-1] == whole.levels()[-1]
    assert abs(max(small.levels()) - max(whole.levels())) < 0.06 * max(whole.levels())
    assert small.spans[0].stop == len(small.order) == len(small.times)
    assert "are drawn as sums" in small.notes[-1]


def test_an_empty_run_is_a_page() -> None:
    assert page_data(render(History("kind", "file", "", "requested", [], [])))["peak"] == -1


def test_more_kinds_than_colours_share_one() -> None:
    lives = [Life(100 - i, f"other:{i}") for i in range(60)]
    found = data(History("kind", "file", "", "requested", lives, list(range(60))), "a")
    assert len(found["names"]) == 30
    assert max(found["lives"]["name"]) == 29


def test_what_a_book_writes_down_can_be_lived() -> None:
    book = told.Book()
    book.born(1, Life(5, "a"))
    book.born(1, Life(6, "a"))
    assert book.lost == 1
    assert book.died(1, 6)
    assert not book.died(1, 6)
    history = History("k", "f", "", "requested", book.lives, book.closed())
    assert history.levels() == [6, 11, 6, 12, 6, 0]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    """The page runs without an error and tells the peak in its table."""
    path = tmp_path / "a.html"
    path.write_text(render(profiles.read(CHROME)))
    flags = [
             "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--virtual-time-budget=4000", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path}/browser"]  # fmt: skip
    found = subprocess.run(
        ["chromium", *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert "CONSOLE" not in found.stderr
    assert "alive after event 261" in found.stdout
    assert "optimizer state" in found.stdout


def test_reading_a_profile_imports_no_torch() -> None:
    program = (
        "import sys; from tonnage.cli import main; main(['replay', sys.argv[1]]);"
        " sys.exit(int(bool({'torch', 'numpy', 'transformers'} & set(sys.modules))))"
    )
    ran = subprocess.run([sys.executable, "-c", program, CHROME], capture_output=True, check=False)
    assert ran.returncode == 0

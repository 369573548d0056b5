"""The built-in page, in a browser: it shows what was sent."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from deeprecsys.node.service.backend import OperatingPoint, Reason
from tests.serve.bodies import arrays, json_body
from tests.serve.conftest import Running
from tests.serve.stand_in import FLAT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def post(running: Running, items: int) -> int:
    request = urllib.request.Request(
        f"http://{running.http}/v2/models/flat/infer", json_body(arrays(FLAT, items)), method="POST"
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return e.code


def test_the_page_needs_nothing_from_elsewhere(running: Running) -> None:
    with urllib.request.urlopen(f"http://{running.http}/") as answer:
        page = answer.read().decode()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(running: Running, tmp_path: Path) -> None:
    assert [post(running, items) for items in (3, 3, 20)] == [200] * 3
    running.backend.refuse = Reason.OVERLOAD
    assert post(running, 1) == 503
    nasty = OperatingPoint("coalescing", 48, None, 321.0, time.monotonic(), "<b>rate</b> rose")
    running.loop.call_soon_threadsafe(running.backend.listeners[0].point_changed, "flat", nasty)
    time.sleep(1.1)  # a second is shown when it is over
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2000",
         "--virtual-time-budget=3000", "--dump-dom", f"http://{running.http}/"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    flat = done.stdout[done.stdout.index('data-model="flat"') :]
    flat = flat[: flat.find("data-model=", 1)]
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", flat)).split())
    assert "target 100 ms, met" in text
    assert "limited by the workers; network face: 0.400 ms per query" in text
    assert "late answers 3 since the start; 247 more may be late" in text
    assert "version 1, engine stand-in, ready" in text
    assert "3–4: 2" in text  # batches by items
    assert "17–32: 1" in text
    assert "overload: 1" in text
    assert "3 items, 1×" in text
    assert "coalescing, batches of 48 <b>rate</b> rose" in text  # as text, not as markup
    assert flat.count("<svg") == 5
    assert "CONSOLE" not in done.stderr

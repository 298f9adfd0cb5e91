"""The page in a real browser: it draws, says nothing on the console and fits a phone."""

import os
import re
import shutil
import struct
import subprocess

import pytest

from normscope.report import render_measurements

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
)
PROBE = """<script>addEventListener("load", () => {
  const aside = ".scroll, .hidden, .skip, svg, thead", reach = (item) => item.getBoundingClientRect().right;
  const items = [...document.querySelectorAll("body *")].filter((item) => !item.closest(aside));
  const wide = items.filter((item) => reach(item) > innerWidth + 1), root = document.documentElement;
  const first = wide[0]?.outerHTML.slice(0, 99);
  parent.postMessage(`width ${innerWidth} needs ${root.scrollWidth} beyond ${wide.length} ${first}`, "*");
});</script>"""
FRAME = """<!doctype html><html lang="en"><title>waiting</title><body>
<script>addEventListener("message", (event) => { document.title = event.data; });</script>
<iframe src="page.html" style="width:WIDTHpx;height:800px;border:0"></iframe></body></html>"""


def run(folder, *arguments):
    if CHROMIUM is None:
        if "CI" in os.environ:
            pytest.fail("continuous integration must have Chromium")
        pytest.skip("no Chromium here")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def console(done):
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
def test_the_page_is_drawn_and_the_console_stays_silent(page, tmp_path, scheme):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    picture = tmp_path / "page.png"
    size, colours = "--window-size=1280,2000", f"--blink-settings=preferredColorScheme={scheme}"
    done = run(tmp_path, f"--screenshot={picture}", size, colours, (tmp_path / "page.html").as_uri())
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1280, 2000)
    assert len(data) > 50_000
    assert console(done) == []


def test_a_message_on_the_console_would_be_seen(page, tmp_path):
    (tmp_path / "page.html").write_text(page.replace("</main>", "<script>1</script></main>"), encoding="utf-8")
    done = run(tmp_path, f"--screenshot={tmp_path / 'x.png'}", (tmp_path / "page.html").as_uri())
    assert any("Content Security Policy" in line for line in console(done))


def needed(text, folder, pixels=360):
    """(width of the window, width that the page needs, elements that reach beyond) in a frame of `pixels`."""
    open_all = re.sub("<details>", "<details open>", text)
    probed = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, open_all)
    (folder / "page.html").write_text(probed, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(pixels)), encoding="utf-8")
    uri = (folder / "frame.html").as_uri()
    done = run(folder, "--virtual-time-budget=4000", "--allow-file-access-from-files", "--dump-dom", uri)
    found = re.search(r"<title>width (\d+) needs (\d+) beyond (\d+) (.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stdout[:300]
    return (*map(int, found.groups()[:3]), found.group(4))


@pytest.mark.parametrize("pixels", [360, 680, 700, 1000, 1160, 1920])
def test_nothing_reaches_beyond_the_window_from_a_phone_to_a_desktop(page, tmp_path, pixels):
    width, needs, beyond, first = needed(page, tmp_path, pixels)
    assert (width, needs, beyond) == (pixels, pixels, 0), first


def test_measurements_fit_a_phone_too(measurements, tmp_path):
    width, needs, beyond, first = needed(render_measurements(measurements, "Layers"), tmp_path)
    assert (width, needs, beyond) == (360, 360, 0), first


def test_a_wide_element_would_be_seen(page, tmp_path):
    wide = page.replace("</main>", '<div style="width:700px">wide</div></main>')
    assert needed(wide, tmp_path)[1] >= 700

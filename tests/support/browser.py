"""A page opened in a real browser: what its console said, what it asked a server for, and what is to be seen in it."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The page stands in a frame of the same origin, so that this script can press and measure what its own rules forbid to
# anything on the page.
_FRAME = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0"><script>
const begun = performance.now();
function look(frame) {
  const opened = performance.now() - begun, page = frame.contentDocument, view = frame.contentWindow;
  const found = (PROBE)(page, view);
  const shown = document.createElement("pre");
  shown.id = "found";
  shown.textContent = JSON.stringify({ opened, ...found });
  document.body.append(shown);
}
</script><iframe src="page.html" style="border:0;width:WIDTHpx;height:900px" onload="look(this)"></iframe>
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of opening a page.

    Args:
        found: What the probe returned, and milliseconds until the page was loaded under `opened`.
        console: Lines of the console.
        asked: Paths that were asked of the server, the frame left out.
    """

    found: dict[str, Any]
    console: list[str]
    asked: list[str]


def browser_program() -> str:
    """The browser; skips the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium here to open the page with")


def open_page(page: str, folder: Path, *, probe: str, width: int = 1200, dark: bool = False) -> Opened:
    """Open a page.

    Args:
        page: The page.
        folder: Where files may be put.
        probe: A function of JavaScript from document and window to an object.
        width: Of the window.
        dark: Whether the reader prefers dark.
    """
    program = browser_program()
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME.replace("PROBE", probe).replace("WIDTH", str(width)), encoding="utf-8")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--dump-dom", f"http://127.0.0.1:{server.server_port}/frame.html",
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, check=False, timeout=90)
        server.shutdown()
    said = [line for line in ended.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    shown = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout.decode(), re.DOTALL)
    assert shown is not None, ended.stderr.decode(errors="replace")[-2000:]
    return Opened(json.loads(html.unescape(shown[1])), said, [path for path in asked if path != "/frame.html"])

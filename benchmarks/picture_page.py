"""The first screen of a run's page as a picture, docs/page.png.

Run: python -m benchmarks.picture_page --root quick [--to docs/page.png] [--dark]
Reads:  ROOT/part4_outputs/report.html; Chromium (Debian: apt-get install chromium)
Writes: the picture, 1280 x 800 pixels, in few enough colours to stay below 250 kB
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 800
# of the picture: text and notes keep their edges, a page of 16 colours has grey ones
COLOURS = 128
SECONDS = 60  # a browser that takes longer hangs


def photograph(browser, page, to, is_dark):
    """Writes the first screen of a page (a path) as a PNG."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{HEIGHT}",
                "--virtual-time-budget=3000",
                *(["--blink-settings=preferredColorScheme=0"] if is_dark else []),
                f"--screenshot={to.resolve()}",
                page.resolve().as_uri(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("."), metavar="DIR")
    parser.add_argument("--to", type=Path, default=Path("docs/page.png"), metavar="FILE")
    parser.add_argument("--dark", action="store_true", help="as on a dark screen")
    args = parser.parse_args(argv)
    page, browser = args.root / "part4_outputs/report.html", next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if not page.exists():
        sys.exit(f"there is no {page}; run: python -m study.report.page {args.root}")
    if not browser:
        sys.exit("no Chromium on this machine; install one (Debian: apt-get install chromium)")
    photograph(browser, page, args.to, args.dark)
    from PIL import Image  # of matplotlib

    Image.open(args.to).convert("RGB").quantize(COLOURS).save(args.to, optimize=True)
    print(f"{args.to}: {args.to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

"""Puts today's script and style into docs/compose.html, around the model that it holds.

python -m benchmarks.renew_compose
"""

import re

from study.stages.code_key import HERE
from study.stages.files import write_text

from study.report.compose import filled

PAGE = HERE / "docs/compose.html"


def renewed(page):
    """Returns the text of a page with the script and style of today around the same model."""
    content, weights = re.findall(
        r'<script type="application/[a-z-]+" id="[a-z]+">(.*?)</script>', page, re.S
    )
    return filled(content, weights)


def main():
    """Renews the page."""
    write_text(PAGE, renewed(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

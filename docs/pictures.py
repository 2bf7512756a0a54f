"""Pictures for the README, of the demo's report: ``make demo``, then ``make pictures``."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

STATIC = Path(__file__).parent / "_static"
DESKTOP, PHONE = {"width": 1000, "height": 900}, {"width": 390, "height": 844}


def main(report: Path) -> None:
    """Open a report as it is seen on a desk and on a phone, and keep what three parts look like."""
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=DESKTOP)
        _open(page, report)
        top = {"x": 0, "y": 0, "width": DESKTOP["width"], "height": 1290}
        page.screenshot(path=STATIC / "report.png", clip=top, full_page=True)
        _part(page, "Map of items").screenshot(path=STATIC / "report-map.png")
        phone = browser.new_page(viewport=PHONE, color_scheme="dark")
        _open(phone, report)
        user = phone.get_by_role("heading", name=re.compile("^User ")).first
        user.evaluate("heading => scrollTo(0, heading.getBoundingClientRect().top + scrollY - 12)")
        phone.screenshot(path=STATIC / "report-phone.png")


def _open(page: Page, report: Path) -> None:
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-drawn]")


def _part(page: Page, heading: str):  # type: ignore[no-untyped-def]
    return page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

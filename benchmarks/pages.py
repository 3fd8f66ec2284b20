"""How heavy pages are, how soon they can be used, and what is wrong with them for who cannot see or point.

    npm install axe-core
    python benchmarks/pages.py PAGE... --axe node_modules/axe-core/axe.min.js

In headless Chromium, from disk, at 360 and 1600 pixels, light and dark: the median of five loads, and every finding of
axe-core (all its rules, best practices included). --screenshot FILE: of the first page, at 1600 pixels.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars")


def browser(folder: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (*OPTIONS, f"--user-data-dir={folder}"):
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def look(driver: webdriver.Chrome, width: int, scheme: str, height: int = 900) -> None:
    """Have pages shown at this width, in this scheme of colours."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})


def findings(driver: webdriver.Chrome, axe: str) -> list[tuple[str, str, int]]:
    """(impact, rule, elements) of what axe finds in the page that is shown."""
    driver.execute_script(axe)
    found = driver.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    return [(rule["impact"], rule["id"], len(rule["nodes"])) for rule in found["violations"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--axe", type=Path, required=True)
    parser.add_argument("--screenshot", type=Path, metavar="FILE")
    options = parser.parse_args()
    machine()
    axe, serious = options.axe.read_text(encoding="utf-8"), 0
    with tempfile.TemporaryDirectory() as folder:
        driver = browser(folder)
        print(driver.capabilities["browserName"], driver.capabilities["browserVersion"])
        for page in options.pages:
            took = []
            for width, scheme in ((360, "light"), (360, "dark"), (1600, "dark"), (1600, "light")):
                look(driver, width, scheme)
                driver.get(page.absolute().as_uri())
                for impact, rule, count in findings(driver, axe):
                    print(f"  {page.name}, {width} pixels, {scheme}: {impact}: {rule}, {count} elements")
                    serious += impact in ("serious", "critical")
            for _ in range(5):
                driver.get(page.absolute().as_uri())
                took.append(driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
            print(f"{page.name}: {page.stat().st_size / 1e6:.2f} MB, loaded in {np.median(took):.0f} ms "
                  f"({min(took):.0f} - {max(took):.0f})")
        if options.screenshot:
            look(driver, 1600, "light", 1000)
            driver.get(options.pages[0].absolute().as_uri())
            for lane in driver.find_elements(By.CSS_SELECTOR, ".lane")[:1]:   # the window in the middle
                lane.send_keys(Keys.ARROW_RIGHT * (int(lane.get_attribute("aria-valuemax")) // 2))
                lane.parent.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
            time.sleep(0.5)
            driver.save_screenshot(str(options.screenshot))
        driver.quit()
    return int(serious > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Pages in a real browser, headless Chromium: no errors, keys and pointer, both widths, light and dark, nothing fetched."""

import shutil

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data.video import probe

from . import media

pytest.importorskip("selenium", reason="Selenium is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not installed")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(real_data, tmp_path_factory):
    """The pages of two people in one clip, of a sound, and their index."""
    folder = tmp_path_factory.mktemp("pages")
    clips = sorted((real_data / "java_sed").rglob("0[16]-*.mp4"), key=lambda clip: (probe(clip).duration, clip))
    clips = [[clip for clip in clips if clip.name.startswith(actor)][-1] for actor in ("01", "06")]
    graph = "[0:v]scale=256:256,fps=25[a];[1:v]scale=256:256,fps=25[b];[a][b]hstack=shortest=1[v]"
    lit = ("-ss", "0.6", "-i")                                                # they begin in black
    media.ffmpeg(*lit, clips[0], *lit, clips[1], "-filter_complex", graph, "-map", "[v]", "-map", "0:a", folder / "two.mp4")
    media.ffmpeg("-i", clips[0], "-vn", folder / "<b>heard.wav")
    calls = [str(folder / "two.mp4"), str(folder / "<b>heard.wav")]
    assert main(["predict", *calls, "--page", str(folder / "site"), "--embed"]) == 0
    return folder / "site"


def opened(browser, page, width=1200, scheme="light"):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.get(page.absolute().as_uri())
    assert browser.get_log("browser") == []
    return browser


def chosen(browser):
    return browser.find_element(By.CSS_SELECTOR, "#now h3").text


@pytest.fixture
def lanes(browser, pages):
    opened(browser, next(pages.glob("*two.html")))
    found = browser.find_elements(By.CSS_SELECTOR, ".lane")
    assert len(found) == 2
    return found


def test_keys_choose_a_window(browser, lanes):
    first, second = lanes
    count = int(second.get_attribute("aria-valuemax"))
    assert count > 3 and chosen(browser).startswith("person 1, 0.0")
    for keys, number in ((Keys.ARROW_RIGHT * 2, 3), (Keys.ARROW_LEFT, 2), (Keys.END, count), (Keys.ARROW_RIGHT, count),
                         (Keys.HOME, 1), (Keys.PAGE_UP, min(11, count))):
        second.send_keys(keys)
        assert int(second.get_attribute("aria-valuenow")) == number
    assert chosen(browser).startswith("person 2") and first.get_attribute("aria-valuenow") == "1"
    assert "seconds:" in second.get_attribute("aria-valuetext")
    second.send_keys(Keys.SHIFT, Keys.TAB)                                    # out of it again, with nothing but keys
    assert browser.switch_to.active_element == first


def test_the_pointer_chooses_a_window_and_shows_its_face_and_heat(browser, lanes):
    width = lanes[1].size["width"]
    seen = []
    for share in (-0.45, 0, 0.45):
        ActionChains(browser).move_to_element_with_offset(lanes[1], int(width * share), 0).perform()
        faces = browser.find_elements(By.CSS_SELECTOR, "#now .face img")
        seen.append((chosen(browser), *(face.get_attribute("src") for face in faces)))
        assert len(faces) == 2 and all(face.get_attribute("alt") for face in faces)
    assert len(set(seen)) == 3
    shown = [float(cell.text) for cell in browser.find_elements(By.CSS_SELECTOR, "#now > div:first-child td:not(.wide-bar)")]
    assert len(shown) == 7 and abs(sum(shown) - 1) < 0.04


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_all_pages_fit_and_can_be_read(browser, pages, width, scheme):
    for page in pages.glob("*.html"):
        opened(browser, page, width, scheme)
        inner, outer = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inner <= outer == width, page.name
        for selector in ("main", "figcaption", "p.muted", "a", "th", "#now"):
            for element in browser.find_elements(By.CSS_SELECTOR, selector)[:3]:
                assert contrast(browser, element) >= 4.5, (page.name, selector)


def contrast(browser, element):
    """Of text to what is behind it (WCAG 2.2, 1.4.3)."""
    ink, paper = browser.execute_script("""
        let behind = arguments[0];
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
        return [getComputedStyle(arguments[0]).color, getComputedStyle(behind).backgroundColor]""", element)
    levels = []
    for colour in (ink, paper):
        share = np.array([float(x) for x in colour[colour.index("(") + 1:-1].split(",")[:3]]) / 255
        levels.append(np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_nothing_is_fetched_and_the_clip_plays(browser, pages):
    opened(browser, next(pages.glob("*two.html")))
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    film = browser.find_element(By.CSS_SELECTOR, "video")
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return arguments[0].readyState >= 2", film))
    assert browser.execute_script("return arguments[0].videoWidth", film) == 480
    assert browser.execute_script("return arguments[0].duration", film) > 2
    browser.find_element(By.CSS_SELECTOR, ".lane").send_keys(Keys.ARROW_RIGHT)    # shows the moment that is chosen
    WebDriverWait(browser, 20).until(lambda b: 1 < b.execute_script("return arguments[0].currentTime", film) < 2)


def test_a_sound_has_a_lane_of_its_voice_alone(browser, pages):
    opened(browser, next(pages.glob("*heard.html")))
    assert chosen(browser).startswith("voice alone") and browser.find_element(By.TAG_NAME, "h1").text == "<b>heard.wav"
    assert not browser.find_elements(By.CSS_SELECTOR, "#now .face") and browser.find_elements(By.CSS_SELECTOR, "audio")
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg.sound path")) == 3


def test_an_index_is_sorted_by_its_buttons_and_leads_to_the_pages(browser, pages):
    opened(browser, pages / "index.html")
    for name, by, number in (("name", 0, False), ("unsure first", 3, True), ("class", 1, False)):
        button = next(b for b in browser.find_elements(By.TAG_NAME, "button") if b.text == name)
        button.send_keys(Keys.ENTER)
        cells = [row.find_elements(By.TAG_NAME, "td")[by].text for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr")]
        assert cells == (sorted(cells, key=float, reverse=True) if number else sorted(cells))
        assert button.get_attribute("aria-pressed") == "true"
    browser.find_element(By.LINK_TEXT, str(pages.parent / "two.mp4")).click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "two.mp4"


def test_the_page_of_a_run_loads_and_its_clips_play(browser, tmp_path):
    call = ["train", "--runs", str(tmp_path), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*call, "--clips-per-class", "2", "2", "1"]) == 0
    opened(browser, tmp_path / "run" / "page.html")
    films = browser.find_elements(By.CSS_SELECTOR, "video")
    assert films and all(image.get_attribute("alt") for image in browser.find_elements(By.TAG_NAME, "img"))
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return arguments[0].readyState >= 2", films[0]))

"""A report in a real Chromium: it opens, sorts, tells its numbers, and can be used on a phone and without a mouse."""

import re
import shutil
import time

import pytest
import tiny
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

WIDTHS = [390, 1280]
OPTIONS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
 --disable-component-update --disable-sync --disable-dev-shm-usage"""
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"

TOOLTIP = """
const found = [];
(function walk(root) {
  for (const element of root.querySelectorAll("*")) {
    if (element.shadowRoot) walk(element.shadowRoot);
    if (element.classList.contains("bk-Tooltip") || element.localName === "bk-tooltip") found.push(element);
  }
})(document);
return found.filter((e) => e.getBoundingClientRect().width).map((e) => (e.shadowRoot ?? e).textContent).join(" ");
"""
PLACE = """  // where on the screen a point of the first curve is
const [radius, row] = arguments;
const view = [...Bokeh.index.roots][0], plot = view.model;
const {at, y} = plot.renderers.map((r) => r.data_source).find((s) => s.name === `curve-${row}`).data;
const i = at.findIndex((one) => one >= radius);
const box = view.canvas_view.el.getBoundingClientRect();
const [left, right] = [view.frame.x_scale.compute(at[i - 1] ?? 0), view.frame.x_scale.compute(at[i])];
return {x: box.x + (left + right) / 2, y: box.y + view.frame.y_scale.compute(y[i]), value: y[i].toFixed(1)};
"""


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """A report of two runs and a log, one run attacked."""
    folder = tmp_path_factory.mktemp("browser")
    tiny.write_model(folder / "model")
    words = ["certify", folder / "model", "--workers", 0, "--images", "::6", "--n", 300]
    assert tiny.cli(*words, "-o", folder / "denoised").status == 0
    assert tiny.cli(*words, "--plain", "-o", folder / "<b>plain").status == 0
    attack = ["attack", folder / "denoised", "--steps", 2, "--draws", 2, "--n", 300, "--images", "::4"]
    assert tiny.cli(*attack, "--radii", "0.1,0.3").status == 0
    log = shutil.copy(folder / "<b>plain" / "certificates.tsv", folder / "somebody_sigma0.25.tsv")
    out = folder / "report.html"
    done = tiny.cli("report", folder / "denoised", folder / "<b>plain", log, "--radii", "0:0.5:0.1", "-o", out)
    assert done.status == 0, done.err
    return out


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Without network; a session of it serves all tests."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        pytest.fail("there is no Chromium with its driver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in [*OPTIONS.split(), OFFLINE, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(found[1]))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(params=WIDTHS)
def browser(chromium, page, request):
    """The page at either width; in the end nothing was complained of."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.get(page.as_uri())  # straight from the page before: by about:blank, one load in thirty hangs in its driver
    until(lambda: chromium.execute_script("return document.documentElement.dataset.ready"))
    yield chromium
    complaints = [line for line in chromium.get_log("browser") if "document idle" not in line["message"]]
    assert complaints == []


def until(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.05)
    return found


def column(browser, name):
    heads = [head.text for head in browser.find_elements(By.CSS_SELECTOR, "#table thead th")]
    rows = browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[heads.index(name)].text for row in rows]


def head(browser, name):
    found = browser.find_elements(By.CSS_SELECTOR, "#table thead th")
    return next(one for one in found if one.text == name)


def test_a_header_sorts_by_mouse_and_by_keyboard(browser):
    button = head(browser, "ACR").find_element(By.TAG_NAME, "button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", button)
    button.click()
    values = [float(text) for text in column(browser, "ACR")]
    assert values == sorted(values, reverse=True)
    assert head(browser, "ACR").get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.ENTER)
    assert [float(text) for text in column(browser, "ACR")] == sorted(values)
    assert head(browser, "ACR").get_attribute("aria-sort") == "ascending"
    head(browser, "run").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert column(browser, "run") == sorted(column(browser, "run"))
    assert head(browser, "ACR").get_attribute("aria-sort") is None
    draws = head(browser, "draws/image").find_element(By.TAG_NAME, "button")
    for _ in range(2):
        draws.send_keys(Keys.ENTER)
        assert column(browser, "draws/image")[-1] == ""  # the log, which does not say


def test_pointing_at_a_curve_tells_the_numbers_of_the_table(browser):
    browser.execute_script("document.getElementById('chart').scrollIntoView({block: 'center'})")
    first = column(browser, "run")[0]
    for radius in (0.1, 0.3):
        place = browser.execute_script(PLACE, radius, 0)
        actions = ActionChains(browser, duration=50)
        actions.w3c_actions.pointer_action.move_to_location(int(place["x"]), round(place["y"]))
        actions.perform()
        said = until(lambda: browser.execute_script(TOOLTIP))
        assert first in said
        assert f"{place['value']} %" in said
        assert place["value"] == column(browser, f"r={radius:g}")[0]
        actions = ActionChains(browser, duration=50)
        actions.w3c_actions.pointer_action.move_to_location(3, 3)
        actions.perform()
        until(lambda: not browser.execute_script(TOOLTIP))


def test_the_slider_tells_the_numbers_of_the_table_by_arrow_keys(browser):
    slider = browser.find_element(By.ID, "radius")
    slider.send_keys(Keys.HOME)

    def told():
        return [output.text for output in browser.find_elements(By.CSS_SELECTOR, "output[data-row]")]

    assert told() == [f"{cell} %" for cell in column(browser, "r=0")]
    slider.send_keys(*[Keys.ARROW_RIGHT] * 30)
    assert browser.find_element(By.ID, "radius-value").text == "0.30"
    assert told() == [f"{cell} %" for cell in column(browser, "r=0.3")]
    assert slider.get_attribute("aria-valuetext") == "radius 0.30"
    spoken = browser.find_element(By.ID, "spoken")
    until(lambda: "radius 0.30" in spoken.get_attribute("textContent"))
    assert told()[0] in spoken.get_attribute("textContent")


def test_a_box_hides_its_curve_and_what_belongs_to_it(browser):
    box = browser.find_element(By.CSS_SELECTOR, "[data-curve='0']")
    visible = "return [...Bokeh.index.roots][0].model.renderers.filter((r) => r.visible).length"
    before = browser.execute_script(visible)
    box.send_keys(Keys.SPACE)
    assert browser.execute_script(visible) == before - 3  # the curve, and the attack's line and triangles
    box.send_keys(Keys.SPACE)
    assert browser.execute_script(visible) == before


def test_it_fits_and_is_legible(browser):
    for details in browser.find_elements(By.CSS_SELECTOR, "details:not([open]) > summary"):
        details.send_keys(Keys.ENTER)
    assert not browser.find_elements(By.CSS_SELECTOR, "details:not([open])")
    until(lambda: not browser.find_elements(By.CSS_SELECTOR, "[data-training]:empty"))
    wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    small = browser.execute_script(
        """return [...document.querySelectorAll("body *")].filter((e) =>
           [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && e.checkVisibility() &&
           parseFloat(getComputedStyle(e).fontSize) < 12).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == []
    chart = browser.find_element(By.ID, "chart").rect
    assert chart["width"] > 0.8 * min(wide[1], 1200) - 40
    assert chart["height"] >= 300


def test_everything_can_be_reached_by_tab(browser):
    wanted = browser.execute_script(
        """return [...document.querySelectorAll("a[href], button, input, summary")].filter(
           (e) => e.checkVisibility()).length"""
    )
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0); window.reached = new Set()")
    remember = """const e = document.activeElement; const outline = getComputedStyle(e).outlineStyle;
      if (e.matches("a[href], button, input, summary")) reached.add(e);
      return [reached.size, outline, e.localName]"""
    for _ in range(4 * wanted):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        count, outline, name = browser.execute_script(remember)
        if name in ("a", "button", "input", "summary"):
            assert outline != "none", name
        if count == wanted:
            return
    missing = "return [...document.querySelectorAll('a[href], button, input, summary')].filter((e) => !reached.has(e))"
    pytest.fail(str([e.get_attribute("outerHTML") for e in browser.execute_script(missing)]))


def test_the_skip_link_and_links_to_rows_work(browser):
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    link = browser.switch_to.active_element
    assert link.text == "Skip to the table"
    link.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"
    browser.find_element(By.CSS_SELECTOR, "a[href='#row-1']").send_keys(Keys.ENTER)
    until(lambda: browser.find_element(By.ID, "row-1").get_attribute("open"))


def test_a_name_with_markup_is_text(browser):
    assert "<b>plain" in column(browser, "run")
    assert not browser.find_elements(By.TAG_NAME, "b")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_background(browser, scheme):
    """WCAG AA: a contrast of 4.5, for every text that is shown."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    pairs = browser.execute_script(
        """const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
             if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
           return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() &&
             [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map(
             (e) => [getComputedStyle(e).color, back(e), e.outerHTML.slice(0, 60)])"""
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len({back for _, back, _ in pairs}) >= 1
    for colour, back, where in {tuple(pair) for pair in pairs}:
        assert contrast(colour, back) >= 4.5, (colour, back, where)


def contrast(one, other):
    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)

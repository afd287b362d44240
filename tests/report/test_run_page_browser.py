"""The report in a browser: opened from disk, looked at, used with mouse and keyboard."""

import re
import shutil

import numpy as np
import pytest
from run_content import class_row, comparison, content, picture, suspect, training
from test_page import HOSTILE

from detector.evaluation.breakdown import SIDE_NAMES
from detector.report.draw import Boxes
from detector.report.run_page import write_run_page

sync_api = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for found in map(shutil.which, NAMES) if found), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on the path")

RESET = """() => {
  document.getElementById("viewer").close();
  document.getElementById("controls").reset();
  document.getElementById("class").value = "";
  for (const field of document.querySelectorAll("#threshold, #controls input:checked, "
    + "#show-found, #show-truth, #errors-only, #class")) {
    for (const name of ["input", "change"]) field.dispatchEvent(new Event(name));
  }
  document.activeElement.blur();
  scrollTo(0, 0);
}"""

# What plotly draws for a value: points, lines, bars, the picture of a heat map.
MARKS = ".cartesianlayer :is(path.point, path.js-line, .point path, .hm image)"
PICTURES = [
    # The detection of 0.57 found one of the two true boxes.
    picture(
        0,
        (0.9, 0.57, 0.2),
        truths=2,
        reasons=("best",),
        match_scores=np.array([0.57, np.nan], np.float32),
        outcomes=np.array([0, 1, 0]),
    ),
    picture(1, (0.8, 0.56), truths=0, reasons=("worst", "suspect")),
    picture(2, (), truths=1, reasons=("worst",)),
]
PARTS = {
    "training": training(),
    "comparison": comparison(),
    "suspects": [suspect(image=1), suspect(image=9, suspicion=0.99)],
    "per_class": {"cat": class_row(ap=0.4), "dog": class_row(ap=None), "eel": class_row(ap=0.5)},
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The file of a report with everything in it."""
    file = tmp_path_factory.mktemp("report") / "index.html"
    write_run_page(file, content(classes=("cat", "dog", "eel"), **PARTS), PICTURES)
    return file


class Visit:
    """Pages that were opened, what they asked for and what they complained about."""

    def __init__(self, browser):
        self.browser, self.pages, self.asked, self.complaints = browser, [], [], []

    def open(self, file, fragment="", **options):
        """Open a file and wait for its plots."""
        page = self.browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.pages.append(page)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("html[data-plots=drawn]")
        return page

    def check(self):
        """Fail if a page complained or asked for anything but itself."""
        outside = [url for url in self.asked if not url.startswith(("data:", "blob:"))]
        assert not self.complaints
        assert all(re.fullmatch(r"file:.*/index\.html(#.*)?", url) for url in outside)
        assert len(outside) == len(self.pages)

    def close(self):
        for page in self.pages:
            page.close()


@pytest.fixture
def visit(browser):
    """Open a file and wait for its plots; whatever it asks for or complains about is a failure."""
    visited = Visit(browser)
    yield visited.open
    visited.close()
    visited.check()


@pytest.fixture(scope="module")
def opened(browser, report):
    """The report, opened once."""
    visited = Visit(browser)
    visited.open(report)
    yield visited
    visited.close()


@pytest.fixture
def page(opened):
    """The report as if it had just been opened, but for the order of the rows of its tables."""
    (page,) = opened.pages
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate(RESET)
    yield page
    opened.check()


def resize(page, width, plot):
    """Change the width of the window and wait until a plot has followed."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(
        "plot => Math.abs(document.querySelector(`${plot} .main-svg`).clientWidth"
        " - document.querySelector(plot).clientWidth) <= 1",
        arg=plot,
    )


def drawn(page, kind):
    """How many boxes of a kind can be seen in the gallery."""
    return page.locator(f".gallery rect.{kind}:visible").count()


def test_every_plot_is_drawn_without_the_network_and_without_a_complaint(page):
    plots = page.locator("[data-figure]")
    assert plots.count() == 11
    for plot in plots.all():
        assert plot.locator(MARKS).count(), plot.get_attribute("id")
    assert not page.locator(".modebar, .plotlyjsicon").count()
    assert page.locator("#failed").is_hidden()


def test_every_label_of_an_axis_lies_within_its_plot_and_beside_the_title(visit, tmp_path):
    measures = {"truths": 3, "detections": 4, "recall": 0.5, "recall_any_score": 0.9}
    sizes = [{"range": name, "precision": 0.4, **measures} for name in SIDE_NAMES]
    rates = training(8)
    for epoch, row in enumerate(rates["rows"]):
        row["lr/stem"] = 1e-3 * 0.3**epoch  # many digits
    write_run_page(tmp_path / "index.html", content(sizes=sizes, training=rates), [])
    page = visit(tmp_path / "index.html")
    for width in (1280, 390):
        resize(page, width, "#plot-rates")
        for name in ("sizes", "rates"):
            plot = page.locator(f"#plot-{name}")
            frame = plot.bounding_box()
            title = plot.locator(".xtitle").bounding_box()
            ticks = [t.bounding_box() for t in plot.locator(":is(.xtick, .ytick) text").all()]
            assert len(ticks) >= 6
            for tick in ticks:
                assert tick["x"] >= frame["x"]
                assert tick["x"] + tick["width"] <= frame["x"] + frame["width"]
                assert tick["y"] + tick["height"] <= title["y"] + 1


def test_the_threshold_draws_exactly_the_boxes_that_reach_it(page):
    assert drawn(page, "found") == 4  # at the best F1, 0.5: 0.9, 0.57, 0.8, 0.56
    assert page.inner_text("#drawn") == (
        "3 pictures: 4 detections (1 right, 3 wrong) and 3 true boxes (2 missed) drawn."
    )
    page.fill("#threshold", "0.57")
    assert drawn(page, "found") == 3
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")  # to 0.575
    assert drawn(page, "found") == 2
    assert page.inner_text("#drawn") == (
        "3 pictures: 2 detections (0 right, 2 wrong) and 3 true boxes (3 missed) drawn."
    )
    page.keyboard.press("Home")  # to 0.05
    assert drawn(page, "found") == 5
    assert page.inner_text("#gallery .controls .at") == "0.05"


def test_the_gallery_shows_what_is_asked_for(page):
    page.check("text=Worst 2")
    assert page.locator(".gallery li:visible code").all_inner_texts() == [
        *("image_1.jpg", "image_2.jpg")
    ]
    assert page.inner_text("#drawn") == (
        "2 pictures: 2 detections (0 right, 2 wrong) and 1 true box (1 missed) drawn."
    )
    page.uncheck("#show-truth")
    assert (drawn(page, "found"), drawn(page, "truth")) == (2, 0)
    page.uncheck("#show-found")
    page.check("#show-truth")
    assert (drawn(page, "found"), drawn(page, "truth")) == (0, 1)
    assert page.inner_text("#drawn") == (
        "2 pictures: 0 detections (0 right, 0 wrong) and 1 true box (1 missed) drawn."
    )


def strokes(page, kind):
    """The lines of the boxes of a kind in the first picture, as colours and dashes."""
    return page.eval_on_selector_all(
        f".gallery li:first-child rect.{kind}",
        "all => all.map(r => [getComputedStyle(r).stroke, getComputedStyle(r).strokeDasharray])",
    )


def test_right_wrong_and_missed_differ_in_colour_and_in_line_at_every_threshold(page):
    for threshold, matched, missed in (("0.57", 1, 1), ("0.575", 0, 2)):
        page.fill("#threshold", threshold)
        assert (len(strokes(page, "matched")), len(strokes(page, "missed"))) == (matched, missed)
    looks = {kind: strokes(page, kind)[0] for kind in ("right", "wrong", "missed")}
    for part in (0, 1):
        assert len({look[part] for look in looks.values()}) == 3
    assert looks["right"][1] == "none"


def test_errors_alone_are_drawn_if_asked_for(page):
    page.check("#errors-only")
    assert page.inner_text("#drawn") == (
        "3 pictures: 3 detections (0 right, 3 wrong) and 2 true boxes (2 missed) drawn."
    )
    assert (drawn(page, "right"), drawn(page, "matched")) == (0, 0)
    page.fill("#threshold", "0.6")  # what found one of the true boxes is gone
    assert (drawn(page, "wrong"), drawn(page, "missed")) == (2, 3)


def test_boxes_are_coloured_by_class_if_asked_for(page):
    assert len({colour for colour, _ in strokes(page, "found")}) == 2
    page.check("[name=colour][value=class]")
    assert {colour for colour, _ in strokes(page, "found")} == {"rgb(58, 134, 224)"}
    assert page.locator(".legend.classes").is_visible()


def test_a_box_lies_where_it_is_and_says_its_class_and_score(page):
    scene = page.locator(".gallery .scene").first
    scene.scroll_into_view_if_needed()
    frame, box = scene.bounding_box(), scene.locator(".found").nth(1).bounding_box()
    # The box is 12 to 22 by 10 to 20 in an image of 80 by 60; its line is two pixels wide.
    for key, place in (("x", 12 / 80 * frame["width"]), ("y", 10 / 60 * frame["height"])):
        assert box[key] - frame[key] == pytest.approx(place, abs=1.5)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.inner_text("#tip") == "cat 0.57, right"
    ground_truth = scene.locator(".truth").first.bounding_box()
    page.mouse.move(
        ground_truth["x"] + ground_truth["width"] / 2,
        ground_truth["y"] + ground_truth["height"] / 2,
    )
    assert page.inner_text("#tip") == "true box: cat, found"
    page.mouse.move(frame["x"] + frame["width"] - 3, frame["y"] + frame["height"] - 3)
    assert page.locator("#tip").is_hidden()


def test_a_small_box_is_found_by_the_pointer_below_a_large_one(visit, tmp_path):
    large = Boxes(np.array([[0.0, 0, 80, 60]]), np.array([1]), np.array([0.9], np.float32))
    write_run_page(tmp_path / "index.html", content(), [picture(predictions=large)])
    page = visit(tmp_path / "index.html")
    page.locator(".gallery .truth").hover()
    assert page.inner_text("#tip") == "true box: cat, missed"


def test_tables_are_sorted_by_their_headers_and_what_is_undefined_stays_last(page):
    header = page.locator("#classes th", has_text="mAP")
    table = page.locator("#classes table").first
    names = table.locator("tbody th")
    for order, expected in (("descending", "eel cat dog"), ("ascending", "cat eel dog")):
        header.get_by_role("button").press("Enter")
        assert header.get_attribute("aria-sort") == order
        assert " ".join(names.all_inner_texts()) == expected
    table.get_by_role("button", name="Class").click()
    assert " ".join(names.all_inner_texts()) == "cat dog eel"
    assert header.get_attribute("aria-sort") == "none"


def test_a_plot_shows_a_value_under_the_pointer(page):
    plot = page.locator("#plot-losses")
    plot.scroll_into_view_if_needed()
    layer = plot.locator(".nsewdrag").first.bounding_box()
    # The second of three epochs, on an axis from 0 to 3.06.
    page.mouse.move(layer["x"] + 2 / 3.06 * layer["width"], layer["y"] + layer["height"] / 2)
    page.wait_for_selector("#plot-losses .hoverlayer text")
    shown = " ".join(plot.locator(".hoverlayer text").all_text_contents())
    assert "epoch 2" in shown
    assert "train/loss : 0.9000" in shown


def test_choosing_a_class_shows_its_curves_and_puts_its_line_in_front(page):
    visible = "plot => plot.data.filter(t => t.visible).map(t => t.meta)"
    thick = "plot => plot.data.filter(t => t.line.width === 3).map(t => t.meta)"
    assert page.eval_on_selector("#plot-thresholds", visible) == [""] * 3
    page.select_option("#class", "dog")
    assert page.eval_on_selector("#plot-thresholds", visible) == ["dog"] * 3
    assert page.eval_on_selector("#plot-recall_precision", thick) == ["dog"]


def test_the_page_and_its_plots_follow_the_system_into_the_dark_and_back(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#plot-scores .legendtext')).fill"
    colours = {
        "light": ("rgb(250, 250, 248)", "rgb(28, 33, 38)"),
        "dark": ("rgb(21, 24, 27)", "rgb(229, 231, 233)"),
    }
    for scheme in ("light", "dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for _ in range(100):  # plots are drawn anew a moment later
            if (seen := (page.evaluate(ground), page.evaluate(ink))) == colours[scheme]:
                break
            page.wait_for_timeout(50)
        assert seen == colours[scheme]


def test_the_gallery_is_walked_through_by_keyboard(visit, report):
    page = visit(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.focus("#threshold")
    for _ in range(6):  # three boxes to tick, two choices, the first picture
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    seen = [page.inner_text("#viewer-name")]
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(page.inner_text("#viewer-name"))
    assert seen == [f"image_{i}.jpg" for i in (0, 1, 2, 0, 2)]
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    page.wait_for_selector("[href='#picture-3']:focus", state="attached")


def test_a_suspect_leads_to_its_picture_with_the_box_marked(visit, report):
    page = visit(report)
    assert page.locator("#suspects tbody a").count() == 1
    page.click("#suspects tbody a")
    page.wait_for_selector("#viewer[open]")
    assert page.inner_text("#viewer-name") == "image_1.jpg"
    assert page.locator("#viewer-scene .suspect").count() == 1
    assert page.locator("#viewer-list li").all_inner_texts() == [
        *(
            "suspected: detection without truth, cat, suspicion 0.93",
            "cat 0.80, wrong",
            "cat 0.56, wrong",
        )
    ]
    page.fill("#viewer-threshold", "0.7")
    assert page.locator("#viewer-scene .found:visible").count() == 1
    assert page.locator("#viewer-list li").count() == 2
    assert page.input_value("#threshold") == "0.7"
    page.go_back()
    page.wait_for_selector("#viewer:not([open])", state="attached")


def test_a_picture_in_the_address_is_opened_with_the_keyboard_in_it(visit, report):
    page = visit(report, fragment="#picture-2")
    assert page.locator("#viewer").is_visible()
    page.wait_for_selector("#viewer:focus-within", state="attached")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == "image_2.jpg"
    page.keyboard.press("Escape")
    assert page.locator("#viewer").is_hidden()
    page.wait_for_selector("[href='#picture-3']:focus", state="attached")


def test_a_table_that_is_too_wide_says_that_it_scrolls(page):
    sign = page.locator("#classes .wide").first
    sign.wait_for(state="hidden")
    page.set_viewport_size({"width": 390, "height": 900})
    sign.wait_for(state="visible")
    assert sign.inner_text() == "10 columns: scroll sideways for those on the right →"


def test_many_classes_with_long_hostile_names_do_not_break_the_page(visit, tmp_path):
    names = [f"{HOSTILE} of a rather long name {i} {'x' * 60}" for i in range(78)]
    names += ["constructor", "--ink"]
    parts = {"training": training(40), "comparison": comparison(), "suspects": [suspect()]}
    long = picture(name="folder/" * 40 + "a.jpg", note=HOSTILE)
    write_run_page(tmp_path / "index.html", content(classes=names, **parts), [long])
    page = visit(tmp_path / "index.html")
    for width in (1280, 390):
        resize(page, width, "#plot-scores")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ticks = page.locator("#plot-confusion .ytick text")
        assert ticks.count() == 81
        places = [ticks.nth(i).bounding_box()["y"] for i in (0, 1, 2, 40, 80)]
        tops = sorted(places)
        assert tops[1] - tops[0] >= 9


def test_a_report_of_nothing_works(visit, tmp_path):
    parts = {"truths": 0, "detections": 0, "intervals": None}
    write_run_page(tmp_path / "index.html", content(**parts), [])
    assert visit(tmp_path / "index.html").inner_text("h1").startswith("No AP")

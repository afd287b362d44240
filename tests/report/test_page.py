"""The page of the data check."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import jinja2
import numpy as np
import pytest

from detector.report import formatting
from detector.report.page import Thumbnail, class_balance, write_check_page
from detector.report.thumbnail import draw_thumbnail

HOSTILE = "<script>alert(1)</script>"
QUOTED = """a" onerror="alert(1)' x=y.jpg"""
VOID = {"meta", "img", "link", "base", "input", "br"}


def content(**parts):
    """What a check of two images found, without the parts that may be missing."""
    per_class = {"cat": 3, "dog": 1}
    split = {"images": 2, "boxes": 4, "ignored": 0, "without_boxes": 0, "per_class": per_class}
    return {
        "root": "pets",
        "format": "voc",
        "recognised": "VOC: ImageSets/Main lists train",
        "summary": {"errors": 0, "leakage": 0, "warnings": 0},
        "classes": ["cat", "dog"],
        "splits": {"train": split},
        "findings": [],
        "histograms": None,
        "model": None,
        "environment": {},
        "seconds": 1.0,
    } | parts


def finding(count=1, kind="degenerate box", **parts):
    items = [
        {"split": "train", "file": f"file_{i}.xml", "message": "no width"} for i in range(count)
    ]
    return {"kind": kind, "severity": "error", "count": count, "advice": "", "items": items} | parts


def thumbnail(marked, height=480, width=640, boxes=(), **parts):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    values = {"kind": "degenerate box", "name": "a.jpg", "message": "no width"} | parts
    return Thumbnail(
        **values,
        image=np.full((height, width, 3), 128, np.uint8),
        boxes=boxes,
        labels=np.ones(len(boxes), np.int64),
        marked=np.array(marked, np.float32).reshape(-1, 4),
    )


def fail(*_):
    raise OSError("no space left")


def write(folder, thumbnails=(), **parts):
    write_check_page(folder / "check.html", content(**parts), thumbnails)
    return (folder / "check.html").read_text(encoding="utf-8")


def picture(folder, shown):
    """The page's one picture, decoded."""
    page = write(folder, [shown], findings=[finding()])
    (code,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR_RGB)


def red(image):
    """Where an image is red, (h, w)."""
    r, g, b = np.moveaxis(image.astype(int), -1, 0)
    return (r > 170) & (g < 110) & (b < 110)


class Reader(HTMLParser):
    """Elements, attributes and text of a page; its elements must be closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


HISTOGRAM = {"edges": [0, 1, 2], "counts": [1, 3], "note": HOSTILE}
RECALL = {"range": HOSTILE, "boxes": 1, "recall_50": 0.5, "recall_70": None}
MODEL = {
    "image_size": 512,
    "lost": {"draws": 4, "boxes": 8, "by_resizing": 0.0, "by_augmentation": 0.125},
    "anchors": {
        "scales": [8.0],
        "ratios": [0.5, 1.0, 2.0],
        "strides": [4, 8],
        "recall_50": 0.97,
        "recall_70": 0.61,
        "by_size": [RECALL],
        "by_aspect": [],
        "suggestion": {
            "override": "model.anchor_scales=[4,8] model.anchor_ratios=[1]",
            "anchors_per_cell": 2,
            "recall_50": 0.99,
            "recall_70": 0.9,
        },
    },
}


def test_names_and_messages_never_become_markup(tmp_path):
    items = [{"split": HOSTILE, "file": QUOTED, "message": HOSTILE}]
    split = content()["splits"]["train"] | {"per_class": {HOSTILE: 2, QUOTED: 0}}
    page = write(
        tmp_path,
        [thumbnail([[1, 1, 9, 9]], kind=HOSTILE, name=QUOTED, message=QUOTED)],
        root=HOSTILE,
        recognised=HOSTILE,
        classes=[HOSTILE, QUOTED],
        splits={HOSTILE: split},
        findings=[finding(kind=HOSTILE, advice=HOSTILE, items=items)],
        histograms={HOSTILE: HISTOGRAM, QUOTED: HISTOGRAM},
        model=MODEL,
        environment={HOSTILE: HOSTILE},
    )
    read = Reader(page)
    assert "script" not in read.tags
    assert not any(name.startswith("on") for name, _ in read.attributes)
    assert ("alt", f"{QUOTED}: {QUOTED}") in read.attributes
    assert HOSTILE in "".join(read.text)


def test_nothing_is_loaded_from_outside_the_file(tmp_path):
    page = write(
        tmp_path,
        [thumbnail([[1, 1, 9, 9]])],
        findings=[finding()],
        summary={"errors": 1, "leakage": 0, "warnings": 0},
        histograms={"sides": HISTOGRAM},
        model=MODEL,
    )
    assert not re.search(r"https?:|url\(|@import|<link|<script|<base", page)
    links = [v for name, v in Reader(page).attributes if name in ("src", "href", "srcset")]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline';" in page


def test_an_offending_box_is_red_where_it_is(tmp_path):
    image = picture(tmp_path, thumbnail([[200, 100, 400, 300]], boxes=[[20, 20, 120, 120]]))
    assert image.shape == (240, 320, 3)
    ys, xs = np.nonzero(red(image))
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((100, 200, 50, 150), abs=2)
    assert red(image)[100, [100, 200]].all()
    assert not red(image)[100, 104:196].any()


def test_the_truth_is_drawn_and_is_not_red(tmp_path):
    image = picture(tmp_path, thumbnail([], boxes=[[200, 100, 400, 300]]))
    assert abs(image[100, 100].astype(int) - 128).max() > 40
    assert abs(image[100, 150].astype(int) - 128).max() < 10
    assert not red(image).any()


def test_a_truth_that_is_not_finite_is_not_drawn(tmp_path):
    image = picture(tmp_path, thumbnail([], boxes=[[100, 100, np.nan, 300]]))
    assert abs(image.astype(int) - 128).max() < 10


def colors_of(classes):
    """The colours in which one box of each class is drawn."""
    boxes = np.array([[20 * i, 10, 20 * i + 15, 25] for i in range(classes)], np.float32)
    labels = np.arange(1, classes + 1)
    shown = replace(thumbnail([], 320, 320), boxes=boxes, labels=labels)
    drawn = draw_thumbnail(shown, classes)
    return [tuple(drawn[10, 20 * i + 7].tolist()) for i in range(classes)]


def test_few_classes_have_colours_of_their_own_and_many_share_one(tmp_path):
    assert len(set(colors_of(6))) == 6
    assert len(set(colors_of(7))) == 1


def test_the_table_of_classes_is_the_legend_of_the_pictures(tmp_path):
    page = write(tmp_path, [thumbnail([])], findings=[finding()])
    cat, dog = ("#{:02x}{:02x}{:02x}".format(*color) for color in colors_of(2))
    assert re.search(f'fill="{cat}".*cat', page)
    assert re.search(f'fill="{dog}".*dog', page)
    names = [str(i) for i in range(7)]
    assert "swatch" not in write(tmp_path, [], findings=[finding()]).split("</style>")[1]
    page = write(tmp_path, [thumbnail([])], findings=[finding()], classes=names)
    assert "swatch" not in page.split("</style>")[1]


@pytest.mark.parametrize(
    ("box", "center"),
    [
        ((300, 200, 300, 200), (150, 100)),  # no width and no height
        ((300, 100, 300, 300), (150, 100)),  # no width
        ((-50, -50, -10, -10), (9, 9)),  # outside: the nearest corner
        ((700, 220, 900, 260), (310, 120)),  # outside, to the right
        ((np.inf, np.inf, np.inf, np.inf), (310, 230)),
        ((np.nan, 200, np.nan, 200), (9, 100)),
    ],
)
def test_a_box_that_cannot_be_seen_has_a_ring_inside_the_picture(tmp_path, box, center):
    seen = red(picture(tmp_path, thumbnail([box])))
    for dx, dy in ((9, 0), (-9, 0), (0, 9), (0, -9)):
        x, y = center[0] + dx, center[1] + dy
        assert seen[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any(), (dx, dy)


def test_a_box_with_swapped_corners_is_drawn_with_its_area(tmp_path):
    seen = red(picture(tmp_path, thumbnail([[400, 300, 200, 100]])))
    assert seen[100, [100, 200]].all()
    assert not seen[100, 110:190].any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (3000, 30)])
def test_any_image_fits_and_shows_its_mark(tmp_path, height, width):
    image = picture(tmp_path, thumbnail([[0, 0, 0, 0], [np.inf] * 4], height, width))
    assert max(image.shape) == 320
    assert red(image).any()


def test_a_thumbnail_stands_beside_the_finding_of_its_kind(tmp_path):
    findings = [finding(kind="first"), finding(kind="second"), finding(kind="third")]
    page = write(tmp_path, [thumbnail([], kind="second")], findings=findings)
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert ["<img" in article for article in articles] == [False, True, False]


def test_a_thumbnail_of_no_finding_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finding is called 'other'"):
        write(tmp_path, [thumbnail([], kind="other")], findings=[finding()])


def test_a_long_list_is_cut_and_says_so(tmp_path):
    page = write(tmp_path, findings=[finding(10_000)])
    assert page.count("<code>file_") == 50
    assert "and 9,950 more in check.json" in page
    assert len(page) < 50_000


def test_a_finding_may_have_neither_advice_nor_items(tmp_path):
    page = write(tmp_path, findings=[finding(advice=None, items=[])])
    (article,) = re.findall(r"<article.*?</article>", page, re.DOTALL)
    assert "<p" not in article
    assert "<details" not in article


def test_a_list_that_is_complete_does_not_promise_more(tmp_path):
    page = write(tmp_path, findings=[finding(50)])
    assert page.count("<code>file_") == 50
    assert "more in check.json" not in page


def test_rarer_classes_fold_away_after_the_most_frequent(tmp_path):
    names = [f"class_{i}" for i in range(80)]
    split = content()["splits"]["train"]
    split["per_class"] = {name: i for i, name in enumerate(names)}
    page = write(tmp_path, classes=names, splits={"train": split})
    shown, folded = page.split("60 rarer classes")
    assert [n for n in names if f"<bdi>{n}</bdi>" in shown] == names[60:]
    assert [n for n in names if f"<bdi>{n}</bdi>" in folded] == names[:60]
    assert folded.count('class="none"') == 1


@pytest.mark.parametrize("how", ["null", "absent"])
def test_absent_parts_are_left_out(tmp_path, how):
    parts = content()
    if how == "absent":
        for key in ("histograms", "model", "environment", "seconds", "recognised"):
            del parts[key]
    write_check_page(tmp_path / "check.html", parts, [])
    page = (tmp_path / "check.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["Splits and classes", "Findings"]
    Reader(page)


def test_unknown_numbers_are_dashes(tmp_path):
    split = dict.fromkeys(("boxes", "ignored", "without_boxes", "per_class"), None)
    lost = MODEL["lost"] | {"by_resizing": None}
    page = write(tmp_path, splits={"train": split | {"images": 2}}, model=MODEL | {"lost": lost})
    assert page.count(f"<td>{formatting.NONE}</td>") == 4 + 1
    assert f"<dd>{formatting.NONE}</dd>" in page


@pytest.mark.parametrize("missing", ["lost", "anchors"])
def test_absent_parts_of_the_model_are_left_out(tmp_path, missing):
    page = write(tmp_path, model=MODEL | {missing: None})
    assert ("Boxes lost" in page) == (missing != "lost")
    assert ("anchors" in page) == (missing != "anchors")


def test_a_suggestion_can_be_pasted_into_a_shell(tmp_path):
    text = "".join(Reader(write(tmp_path, model=MODEL)).text)
    assert "'model.anchor_scales=[4,8]' 'model.anchor_ratios=[1]'" in text


@pytest.mark.parametrize(
    ("errors", "leakage", "warnings", "verdict"),
    [
        (1, 0, 0, "1 error: training stops on it unless data.on_bad=skip"),
        (3, 1, 2, "3 errors: training stops on these unless data.on_bad=skip"),
        (0, 1, 2, "No errors, but the splits leak: scores will look better than they are"),
        (0, 0, 2, "No errors. 2 warnings to look at"),
        (0, 0, 0, "No errors, and nothing to warn about"),
    ],
)
def test_the_headline_is_the_verdict(tmp_path, errors, leakage, warnings, verdict):
    summary = {"errors": errors, "leakage": leakage, "warnings": warnings}
    (headline,) = re.findall("<h1>(.*?)</h1>", write(tmp_path, summary=summary), re.DOTALL)
    assert " ".join(re.sub("<.*?>", "", headline).split()) == verdict


def test_a_failure_leaves_the_older_page_and_nothing_else(tmp_path, monkeypatch):
    older = write(tmp_path)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, findings=[finding()])
    assert [p.name for p in tmp_path.iterdir()] == ["check.html"]
    assert (tmp_path / "check.html").read_text() == older


def test_a_page_that_cannot_be_rendered_writes_nothing(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="has no attribute 'message'"):
        write(tmp_path, findings=[finding(items=[{"split": "train", "file": "a.xml"}])])
    assert not list(tmp_path.iterdir())


def test_a_file_name_that_is_not_utf8_is_written_readably(tmp_path):
    items = [{"split": "train", "file": b"caf\xe9.jpg".decode("utf-8", "surrogateescape")}]
    items[0]["message"] = "no width"
    assert r"caf\udce9.jpg" in write(tmp_path, findings=[finding(items=items)])


def chart(folder, edges, counts):
    """The only histogram of a page."""
    page = write(folder, histograms={"sides": {"edges": edges, "counts": counts}})
    (drawn,) = re.findall("<figure>(.*?)</figure>", page, re.DOTALL)
    return drawn


def test_the_highest_bar_fills_the_chart_and_an_empty_bin_has_none(tmp_path):
    drawn = chart(tmp_path, [0, 10, 20, 30], [2, 0, 8])
    bars = re.findall(r"<i(.*?)>", drawn)
    assert bars == [
        ' style="height: 25.0%" title="0 to 10: 2"',
        "",
        ' style="height: 100.0%" title="20 to 30: 8"',
    ]


def test_a_histogram_says_in_words_what_it_shows(tmp_path):
    drawn = chart(tmp_path, [0, 10, 20, 30], [2, 0, 8])
    assert 'aria-label="sides: 10 counted from 0 to 30; most, 8, from 20 to 30"' in drawn


@pytest.mark.parametrize("bins", [1, 2, 5, 7, 11, 12, 13, 28, 40])
def test_both_ends_of_the_axis_are_labelled_and_the_labels_are_few(tmp_path, bins):
    drawn = chart(tmp_path, list(range(bins + 1)), [1] * bins)
    edges = drawn.partition('class="edges"')[2]
    labels = re.findall(r'<span style="left: ([\d.]+)%.*?">(\d+)<', edges)
    assert (labels[0], labels[-1]) == (("0.0", "0"), ("100", str(bins)))
    assert len({text for _, text in labels}) == len(labels) <= 8


def test_labels_are_equally_far_apart_where_that_is_possible(tmp_path):
    drawn = chart(tmp_path, list(range(33)), [1] * 32)
    edges = drawn.partition('class="edges"')[2]
    assert re.findall(r">(\d+)</span>", edges) == ["0", "8", "16", "24", "32"]


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_a_histogram_of_nothing_says_so(tmp_path, counts):
    drawn = chart(tmp_path, [0, 1, 2][: len(counts) + 1], counts)
    assert "Nothing was counted." in drawn
    assert "<i" not in drawn


def test_shares_are_of_a_split_and_their_bars_comparable_over_the_table():
    splits = {"train": {"per_class": {"a": 10, "b": 30}}, "val": {"per_class": {"a": 2, "b": 2}}}
    rows = class_balance(["a", "b"], splits)
    assert [(label, name) for label, name, _ in rows] == [(2, "b"), (1, "a")]
    assert [(c.boxes, c.share, c.bar) for c in rows[0][2]] == [
        (30, 0.75, 100),
        (2, 0.5, 100 * 2 / 3),
    ]
    assert [(c.boxes, c.share, c.bar) for c in rows[1][2]] == [
        (10, 0.25, 100 / 3),
        (2, 0.5, 100 * 2 / 3),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, formatting.NONE),
        (float("nan"), formatting.NONE),
        (0, "0%"),
        (1.0, "100%"),
        (0.00001, "<0.1%"),
        (0.99999, ">99.9%"),
        (0.013, "1.3%"),
    ],
)
def test_a_percentage_is_neither_none_nor_all_unless_it_is(value, expected):
    assert formatting.percent(value) == expected

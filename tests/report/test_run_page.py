"""The report of a trained or evaluated detector: what it says, and what holds it together."""

import base64
import gzip
import re

import cv2
import numpy as np
import pytest
from markupsafe import escape
from plotly.offline import get_plotlyjs
from run_content import (
    class_row,
    comparison,
    content,
    embedded,
    picture,
    section,
    suspect,
    training,
    write,
)
from test_page import HOSTILE, QUOTED, Reader

from detector.report import formatting
from detector.report.draw import Boxes
from detector.report.gallery import class_colors, describe, encode_pictures
from detector.report.run_page import _confused, _start, headline, write_run_page

BREAKING = "</script><!-- <script>"
DASH = formatting.NONE
NAN = float("nan")


def sections(page):
    return re.findall(r'<section id="(\w+)"', page)


def words(page):
    """What is read, scripts and styles left out."""
    bare = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub("<.*?>", " ", bare, flags=re.DOTALL).split())


def noise(count, height=600, width=800):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "AP50 41.0 (35.0 to 47.0) on 2 test images"),
        ({"intervals": None}, "AP50 41.0 on 2 test images"),
        ({"images": 1, "intervals": None}, "AP50 41.0 on 1 test image"),
        ({"truths": 0}, "No AP: there are no boxes to find in 2 test images"),
        ({"detections": 0}, "Nothing was detected on 2 test images"),
    ],
)
def test_the_headline_is_the_result(tmp_path, parts, expected):
    assert headline(content(**parts)) == expected
    page = write(tmp_path, **parts)
    assert f"<h1>{expected}</h1>" in page
    assert f"<title>{expected}" in page


def test_scores_stand_with_their_intervals_and_protocols(tmp_path):
    page = words(write(tmp_path))
    assert "mAP 30.0 to 50.0 40.0%" in page
    assert "AP75 42.0%" in page
    assert "AR, large boxes 51.0%" in page
    assert "95% intervals from 1,000 resamples" in page
    assert "As pycocotools does" in page
    assert "As in 2010" in page


def test_names_and_texts_never_become_markup(tmp_path):
    names = [HOSTILE, QUOTED, BREAKING]
    run = content(
        classes=names,
        **dict.fromkeys(("title", "folder", "config", "operating_point"), BREAKING),
        suspects=[suspect(file=QUOTED, **{"class": HOSTILE, "kind": BREAKING})],
        training=training() | {"monitor": HOSTILE},
        comparison=comparison() | dict.fromkeys(("a", "b", "sentence"), BREAKING),
        commands=[{"what": HOSTILE, "command": BREAKING}],
        environment={HOSTILE: QUOTED},
        data=content()["data"] | {"root": HOSTILE, "recognised": BREAKING},
    )
    plain = tmp_path / "plain"
    plain.mkdir()
    harmless = write(plain, [picture()], classes=("a", "b", "c"), suspects=[suspect()],
                     training=training(), comparison=comparison())  # fmt: skip
    shown = picture(name=QUOTED, note=BREAKING)
    write_run_page(tmp_path / "index.html", run, [shown])
    page = Reader((tmp_path / "index.html").read_text())
    assert page.tags.count("script") == Reader(harmless).tags.count("script") == 5
    assert {name for name, _ in page.attributes} == {n for n, _ in Reader(harmless).attributes}
    assert embedded((tmp_path / "index.html").read_text())["classes"] == names
    assert "".join(page.text).count(BREAKING) >= 8


def test_names_in_plots_are_text_and_not_plotlys_markup(tmp_path):
    figures = embedded(write(tmp_path, classes=("<b>&", "dog")))["figures"]
    assert figures["confusion"]["data"][0]["x"][0] == "&lt;b&gt;&amp; "
    assert figures["recall_precision"]["data"][0]["name"].startswith("&lt;b&gt;&amp;")


def test_file_names_that_are_not_utf8_are_written_readably(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    page = write(tmp_path, [picture(name=name)], suspects=[suspect(file=name, image=5)])
    assert embedded(page)["pictures"][0]["name"] == r"caf\udce9.jpg"
    assert section(page, "suspects").count(r"<code>caf\udce9.jpg</code>") == 1


@pytest.mark.parametrize("nothing", [None, NAN])
def test_undefined_numbers_are_dashes_and_null(tmp_path, nothing):
    row = class_row(**dict.fromkeys(("ap", "ap_50", "voc_ap_50", "precision"), nothing))
    page = write(tmp_path, classes=("cat",), per_class={"cat": row | {"ap_interval": None}},
                 coco=content()["coco"] | {"map_small": nothing})  # fmt: skip
    assert section(page, "classes").count(f'<td data-value="">{DASH}</td>') == 4
    assert f'<th scope="row">mAP, small boxes</th><td>{DASH}</td>' in page
    embedded(page)


def test_parts_that_are_not_there_are_left_out_with_their_links(tmp_path):
    bare = write(tmp_path)
    assert sections(bare) == [
        *("scores", "classes", "errors", "confidence", "suspects", "gallery", "reproduce")
    ]
    full = write(tmp_path, training=training(), comparison=comparison())
    assert sections(full)[:3] == ["comparison", "scores", "training"]
    for page in (bare, full):
        assert re.findall(r'<a href="#(\w+)">', page) == sections(page)
    assert "No pictures: none were asked for" in bare
    assert "None: no confident detection disagrees" in bare


def nothing_found(**parts):
    """A report of a detector that found nothing."""
    empty = {"precision": [None] * 3, "recall": [0.0] * 3, "f1": [None] * 3}
    return {
        "detections": 0,
        "curves": {"thresholds": [0.0, 0.5, 1.0], "all": empty, "classes": {}},
        "recall_precision": {"recall": [0.0, 0.5, 1.0], "classes": {}},
        "calibration": {"d_ece": NAN, "bins": []},
    } | parts


def test_a_detector_that_found_nothing_has_a_page_that_says_so(tmp_path):
    remark = "nothing was detected, so <all> scores are 0"
    page = write(tmp_path, [picture(scores=())], **nothing_found(), remarks=[remark])
    read = words(page)
    assert "Nothing was detected, so there is no curve." in read
    assert "Without detections there is no calibration." in read
    assert "Nothing was detected, so &lt;all&gt; scores are 0.</p>" in page
    assert 'value="0.5"' in section(page, "gallery")
    for name in ("thresholds", "recall_precision", "calibration"):
        assert embedded(page)["figures"][name] is None
        assert f'data-figure="{name}"' not in page


def test_a_split_without_boxes_has_a_page_that_says_so(tmp_path):
    run = content()
    sizes = [
        row | dict.fromkeys(("recall", "recall_any_score", "precision")) for row in run["sizes"]
    ]
    errors = {"ap_50": None, "types": [t | {"cost": None} for t in run["errors"]["types"]]}
    matrix = {"iou": 0.5, "labels": ["cat", "dog", "background"], "matrix": [[0] * 3] * 3}
    page = write(tmp_path, truths=0, coco=dict.fromkeys(run["coco"]), voc=dict.fromkeys(run["voc"]),
                 intervals=None, sizes=sizes, aspects=[], errors=errors, confusion=matrix,
                 **nothing_found())  # fmt: skip
    read = words(page)
    assert "Empty: there are neither boxes nor detections." in read
    assert "No cost is defined" in read
    assert set(embedded(page)["figures"].values()) == {None}


def test_a_single_class_has_neither_chooser_nor_confusions_but_a_matrix(tmp_path):
    one, two = write(tmp_path, classes=("tree",)), write(tmp_path)
    for text, there in (('<select id="class"', two), ("Most frequent confusions", two)):
        assert text in there
        assert text not in one
    assert embedded(one)["figures"]["confusion"]["data"][0]["x"] == ["tree ", "background "]


def test_a_suspect_is_linked_to_its_picture_if_that_is_in_the_gallery(tmp_path):
    suspects = [suspect(image=7), suspect(image=8, file="b.jpg")]
    page = write(tmp_path, [picture(3), picture(7)], suspects=suspects)
    assert '<a href="#picture-2"><code>a.jpg</code></a>' in page
    assert '<td class="words" data-value="b.jpg"><code>b.jpg</code></td>' in page
    marked = [shown["suspects"] for shown in embedded(page)["pictures"]]
    assert marked == [[], [[10, 10, 20, 20, "detection without truth", "cat", 0.93]]]


def test_two_models_are_compared_in_words_numbers_and_a_plot(tmp_path):
    page = write(tmp_path, comparison=comparison())
    compared = words(section(page, "comparison"))
    assert "B is better by 2.0 points." in compared
    assert "mAP 40.0% 42.0% +2.0 \N{MINUS SIGN}1.0 to 5.0" in compared
    (trace,) = embedded(page)["figures"]["differences"]["data"]
    assert trace["x"] == [0.02]
    assert (trace["error_x"]["arrayminus"], trace["error_x"]["array"]) == ([0.03], [0.03])


def test_the_settings_that_differ_between_two_models_are_listed(tmp_path):
    def listed(settings):
        compared = words(section(write(tmp_path, comparison=comparison(settings)), "comparison"))
        return compared.partition("Settings that differ")[2].strip()

    rows = [
        {"key": "optim.lr", "a": 0.001, "b": 2.5e-05},
        {"key": "finetune.phases.0.train", "a": ["head"], "b": None},
        {"key": "data.root", "a": HOSTILE, "b": "set b"},
    ]
    assert listed(rows) == (
        'Setting In A In B optim.lr 0.001 2.5e-05 finetune.phases.0.train ["head"] null '.replace(
            '"', "&#34;"
        )
        + f"data.root {escape(HOSTILE)} set b"
    )
    assert listed([]) == "None: both were trained with the same settings."
    assert listed(None) == ""  # files of detections have no settings


def test_the_most_frequent_confusions_come_first_and_the_background_is_none_of_them():
    matrix = [[5, 3, 0, 9], [0, 6, 4, 9], [1, 0, 9, 0], [9, 9, 9, 0]]
    pairs = _confused({"labels": ["a", "b", "c", "background"], "matrix": matrix})
    assert pairs == [("b", "c", 4, 4 / 19), ("a", "b", 3, 3 / 17), ("c", "a", 1, 0.1)]


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [([0.615], 0.615), ([0.9, 0.2, 0.4], 0.4), ([0.9, 0.2], 0.2), ([0.0], 0.05), ([], 0.5)],
)
def test_the_gallery_starts_at_the_median_of_the_classes_thresholds(thresholds, expected):
    rows = {str(i): class_row(threshold=t) for i, t in enumerate(thresholds)}
    assert _start({**rows, "absent": class_row(truths=0, threshold=0.99)}) == expected


def test_shapes_are_called_what_they_are_counted_by(tmp_path):
    # evaluation/strata.py has 3:1 for what is three times as high as wide.
    page = write(tmp_path)
    axis = embedded(page)["figures"]["aspects"]["layout"]["xaxis"]
    assert axis["title"]["text"] == "height : width"
    assert "Height : width Boxes Recall" in words(section(page, "classes"))


def test_without_a_data_set_there_is_no_table_of_its_splits(tmp_path):
    data = {"root": "truth.json", "recognised": "", "splits": {}, "left_out": 0}
    assert "Split Images Boxes" in words(section(write(tmp_path), "reproduce"))
    part = words(section(write(tmp_path, data=data), "reproduce"))
    assert part.startswith("Data and commands truth.json . ")
    assert "Split" not in part


def test_the_page_is_forbidden_everything_but_itself(tmp_path):
    page = write(tmp_path, [picture()], training=training(), comparison=comparison())
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy.split("; ")[:4] == [
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "img-src data:",
    ]
    targets = [v for name, v in Reader(page).attributes if name in ("src", "href", "action")]
    assert targets
    assert all(target.startswith(("#", "data:image/jpeg")) for target in targets)


def test_the_plotting_library_is_in_the_page_compressed(tmp_path):
    (packed,) = re.findall(r'id="plotly">(.*?)</script>', write(tmp_path))
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert len(packed) < 2.2e6


def test_every_control_has_a_name_and_every_header_that_sorts_says_how(tmp_path):
    page = write(tmp_path, [picture()], training=training())
    labelled = set(re.findall(r'<label for="([\w-]+)"', page))
    assert set(re.findall(r'<(?:input type="range"|select) id="([\w-]+)"', page)) <= labelled
    assert page.count('class="sort"') == page.count('aria-sort="none"') > 20
    assert '<a class="skip" href="#main">' in page


def test_commands_and_configuration_can_be_copied(tmp_path):
    read = section(write(tmp_path), "reproduce")
    assert "<code>python -m detector.evaluate</code></pre><button" in read
    assert "<code>seed: 0\n</code></pre><button" in read


def test_a_hundred_noisy_pictures_stay_below_15_mib(tmp_path):
    empty = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64))
    shown = [picture(i, image=image, ground_truth=empty) for i, image in enumerate(noise(40))]
    page = write(tmp_path, shown)
    assert (tmp_path / "index.html").stat().st_size < 15 * 2**20
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)"', page)
    assert len(codes) == 40
    assert len({size for _, *size in map(tuple, codes) for size in [tuple(size)]}) == 1
    assert sum(len(code) for code, *_ in codes) > 6 * 2**20  # no smaller than needed


def test_pictures_that_fit_keep_their_size_up_to_800_pixels_and_their_look():
    ramp = np.tile(np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None], (400, 1, 3))
    (large, *size), (small, *own) = encode_pictures([ramp, ramp[:50, :70]])
    assert size == [800, 200]
    assert own == [70, 50]
    for uri, shape in ((large, (200, 800, 3)), (small, (50, 70, 3))):
        code = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
        assert cv2.imdecode(code, cv2.IMREAD_COLOR).shape == shape
    code = np.frombuffer(base64.b64decode(large.partition(",")[2]), np.uint8)
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR_RGB).astype(int)
    assert abs(decoded - cv2.resize(ramp, (800, 200), interpolation=cv2.INTER_AREA)).max() < 8


def test_pictures_lose_quality_before_size_and_never_exceed_the_budget():
    images = noise(2, 200, 300)
    full = sum(len(uri) for uri, *_ in encode_pictures(images))
    for share, same_size in ((0.9, True), (0.3, False)):
        encoded = encode_pictures(images, int(share * full))
        assert sum(len(uri) for uri, *_ in encoded) <= share * full
        assert (encoded[0][1:] == (300, 200)) == same_size
    with pytest.raises(ValueError, match="2 pictures do not fit into 100 characters"):
        encode_pictures(images, 100)


def test_colour_stays_colour():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    ((uri, *_),) = encode_pictures([red])
    code = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    assert cv2.imdecode(code, cv2.IMREAD_COLOR_RGB)[10, 10].tolist() == [254, 0, 0]


def test_boxes_are_described_in_original_pixels_with_exact_scores():
    ground_truth = Boxes(
        np.array([[0, 0, 1e3, 9.26], [1, 1, 2, np.inf]]), np.array([2, 1]), ignore=np.array([1, 0])
    )
    found = Boxes(np.array([[1.04, 2, 3, 4]]), np.array([1]), np.array([0.57], np.float32))
    image = np.zeros((900, 1200, 3), np.uint8)
    told = describe(
        picture(
            image=image[::2, ::2],
            size=(900, 1200),
            ground_truth=ground_truth,
            predictions=found,
            outcomes=np.array([1]),
        )
    )
    assert (told["width"], told["height"]) == (1200, 900)
    assert told["truth"] == [[0, 0, 1000, 9.3, 2, 1, -1]]
    assert told["found"] == [[1, 2, 3, 4, 1, 0.57, 1]]


@pytest.mark.parametrize("count", [0, 1, 6, 7, 80])
def test_classes_have_colours_of_their_own(count):
    colors = class_colors(count)
    assert len(set(colors)) == len(colors) == count
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)


def test_a_failure_leaves_the_older_page_and_nothing_else(tmp_path, monkeypatch):
    older = write(tmp_path)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, title="other")
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == older


def test_long_tables_scroll_and_short_ones_do_not(tmp_path):
    few, some = write(tmp_path), write(tmp_path, classes=[f"class {i}" for i in range(80)])
    assert 'class="scroll tall"' not in few
    assert 'class="scroll tall" tabindex="0" role="region" aria-label="Scores by class"' in some


@pytest.mark.parametrize(
    ("write_it", "value", "expected"),
    [
        (formatting.points, 0.572, "57.2"),
        (formatting.points, 0.0001, "<0.1"),
        (formatting.points, None, DASH),
        (formatting.interval, (0.521, 0.619), "52.1 to 61.9"),
        (formatting.interval, (-0.01, 0.02), "\N{MINUS SIGN}1.0 to 2.0"),
        (formatting.interval, (NAN, 0.5), ""),
        (formatting.interval, None, ""),
        (formatting.signed, 0.021, "+2.1"),
        (formatting.signed, -0.003, "\N{MINUS SIGN}0.3"),
        (formatting.signed, NAN, DASH),
        (formatting.short, 2.5e-05, "2.5e-05"),
        (formatting.short, 7, "7"),
        (formatting.short, None, DASH),
        (formatting.duration, 12.34, "12.3 s"),
        (formatting.duration, 233.0, "3 min 53 s"),
        (formatting.duration, 7500, "2 h 5 min"),
        (formatting.duration, None, DASH),
    ],
)
def test_numbers_are_written_as_people_read_them(write_it, value, expected):
    assert write_it(value) == expected

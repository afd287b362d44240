"""Weights put into a network: which tensor goes where, what is refused, what is said of it."""

import re
from dataclasses import replace

import pytest
import timm
import torch
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)

from detector.core.errors import RequestError
from detector.models.faster_rcnn import build_faster_rcnn
from detector.models.options import STANDARD_ANCHORS, HeadOptions, ModelOptions
from detector.models.weights import sources
from detector.models.weights.files import Pretrained
from detector.models.weights.load import find_pretrained, load_pretrained

SMALL = ModelOptions(fpn_channels=8, head=HeadOptions(hidden=(16,)))
COARSE = replace(SMALL, levels=(8, 16, 32, 64))
PREDICTOR = "roi_heads.box_predictor."
COCO_V1 = FasterRCNN_ResNet50_FPN_Weights.COCO_V1


def small(classes=2, seed=0):
    torch.manual_seed(seed)
    return build_faster_rcnn("efficientnet_lite0", classes, options=SMALL)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def loaded(network, before):
    """The names of what is no longer as it was."""
    return {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}


def differing(one, other):
    """The names of what differs between two states, so that loading it can be seen."""
    return {name for name in one if not torch.equal(one[name], other[name])}


def trained(network):
    """The state of a network none of whose numbers is a fresh one's."""
    return {name: value + 1 for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def coco_state():
    """What torchvision's COCO file holds: old names, frozen norms; here with random numbers.

    The norms' variances are about as small as what eps adds to them.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    found = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    for name in [n for n in found if n.endswith("running_var")]:
        norm = name.removesuffix("running_var")
        variance = torch.empty_like(found[name]).uniform_(1e-6, 1e-4, generator=generator)
        found[name] = variance
        found[f"{norm}weight"] = variance.sqrt() * 0.5
        for part in ("bias", "running_mean"):
            found[norm + part] = 0.1 * torch.randn(variance.shape, generator=generator)
        del found[f"{norm}num_batches_tracked"]
    old = {re.sub(r"(blocks\.\d)\.0\.|(rpn\.head\.conv)\.0\.0\.", r"\1\2.", n): n for n in found}
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias"} < old.keys()
    return {name: found[new] for name, new in old.items()}


@pytest.mark.parametrize("by_path", [False, True])
def test_torchvisions_coco_detector_computes_the_same_in_our_network(
    torch_home, coco_state, by_path
):
    file = torch_home / COCO_V1.url.rsplit("/", 1)[-1]
    torch.save(coco_state, file)
    theirs = fasterrcnn_resnet50_fpn(weights=COCO_V1).double().eval()
    torch.manual_seed(0)
    ours = build_faster_rcnn("resnet50", 2).double().eval()
    before = state(ours)
    pretrained = find_pretrained(str(file) if by_path else "coco", "resnet50", ours)
    report = load_pretrained(ours, pretrained, ["disc", "square"])
    x, rois = torch.rand(1, 3, 64, 96).double(), torch.rand(3, 256, 7, 7).double()
    with torch.no_grad():
        expected, found = theirs.backbone(x), ours.backbone(x)
        assert expected.keys() == found.keys()
        pairs = [(expected[name], found[name]) for name in expected]
        heads = [network.rpn.head(list(expected.values())) for network in (theirs, ours)]
        for one, other in zip(*heads, strict=True):
            pairs += zip(one, other, strict=True)
        pairs.append((theirs.roi_heads.box_head(rois), ours.roi_heads.box_head(rois)))
    for one, other in pairs:
        assert one.abs().max() > 1e-3  # else nothing is compared
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9 * float(one.abs().max()))
    assert not any(name.startswith(PREDICTOR) for name in loaded(ours, before))
    assert report.groups["head"].names == ("roi_heads.box_predictor",)
    assert all(group.new == 0 for group in report.groups.values())
    assert report.left_out == {}


def test_a_network_whose_neck_has_norms_takes_torchvisions_second_version(monkeypatch):
    asked = []
    with torch.device("meta"):
        source = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
        head = HeadOptions(convs=(256,) * 4, conv_norm="batch", hidden=(1024,))
        options = ModelOptions(neck_norm="batch", rpn_convs=2, head=head)
        ours = build_faster_rcnn("resnet50", 2, options=options)
    monkeypatch.setattr(sources, "_from_torchvision", lambda *a: asked.append(a) or source)
    pretrained = find_pretrained("coco", "resnet50", ours)
    report = load_pretrained(ours, pretrained)
    assert asked == [(FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1, "coco")]
    assert pretrained.norm_eps is None  # its norms are like ours
    assert pretrained.anchors == STANDARD_ANCHORS
    assert all(group.new == 0 for group in report.groups.values())
    assert report.groups["head"].names == ("roi_heads.box_predictor",)
    assert report.left_out == {}


@pytest.mark.parametrize(
    ("classes", "kept"), [(("a", "b"), True), (("b", "a"), False), (None, False)]
)
def test_the_box_predictor_is_kept_for_the_same_classes_in_the_same_order(classes, kept):
    network = small()
    before, source = state(network), trained(network)
    report = load_pretrained(network, Pretrained("x", source, classes), ["a", "b"])
    expected = {n for n in source if kept or not n.startswith(PREDICTOR)}
    assert loaded(network, before) == expected
    assert all(torch.equal(network.state_dict()[name], source[name]) for name in expected)
    head = report.groups["head"]
    predictor = 16 * 3 + 3 + 16 * 12 + 12
    assert (head.replaced, head.names) == (
        (0, ()) if kept else (predictor, ("roi_heads.box_predictor",))
    )
    whole = sum(t.numel() for n, t in source.items() if not n.endswith("num_batches_tracked"))
    assert sum(g.loaded + g.replaced for g in report.groups.values()) == whole


@pytest.mark.parametrize(
    ("anchors", "kept"), [(STANDARD_ANCHORS, True), (None, True), (((8,), (0.5, 1, 3)), False)]
)
def test_the_rpns_outputs_are_kept_for_the_same_anchors(anchors, kept):
    network = small()
    before, source = state(network), trained(network)
    load_pretrained(network, Pretrained("x", source, ("a", "b"), anchors), ["a", "b"])
    left = {name for name in source if name.startswith(("rpn.head.cls", "rpn.head.bbox"))}
    assert len(left) == 4
    assert source.keys() - loaded(network, before) == (set() if kept else left)


@pytest.mark.parametrize("prefix", ["", "module.", "network.", "model.module.", "backbone."])
def test_a_classification_network_goes_into_the_backbone(prefix):
    source = trained(timm.create_model("tf_efficientnet_lite0", pretrained=False))
    network = small()
    before = state(network)
    report = load_pretrained(
        network, Pretrained("x", {f"{prefix}{name}": t for name, t in source.items()})
    )
    body = {name for name in before if name.startswith("backbone.body.")}
    assert loaded(network, before) == body
    for name in body:
        value = source[name.removeprefix("backbone.body.")]
        assert torch.equal(network.state_dict()[name], value)
    classifier = 1280 * 1000 + 1000
    expected = {"bn2": 4 * 1280, "classifier": classifier, "conv_head": 320 * 1280}
    assert report.left_out == {f"{prefix}{name}": n for name, n in expected.items()}
    assert report.groups["neck"].loaded == report.groups["neck"].replaced == 0


def test_a_tensor_of_another_shape_keeps_its_random_start_and_is_named():
    network = small()
    before, source = state(network), trained(network)
    stem = "backbone.body.conv_stem.weight"
    source[stem] = torch.ones(32, 4, 3, 3)
    del source["rpn.head.conv.0.0.bias"]
    report = load_pretrained(network, Pretrained("x", source, ("a", "b")), ["a", "b"])
    assert before.keys() - loaded(network, before) == {stem, "rpn.head.conv.0.0.bias"}
    assert report.groups["stem"].replaced == 32 * 3 * 3 * 3
    assert report.groups["stem"].names == ("backbone.body.conv_stem",)
    assert report.groups["head"].new == 8
    assert report.groups["head"].names == ("rpn.head.conv.0.0.bias",)
    assert report.left_out == {}


def test_a_layer_is_loaded_whole_or_not_at_all():
    network = small(classes=3)
    before = state(network)
    source = trained(network)
    source["rpn.head.conv.0.0.weight"] = torch.ones(8, 4, 3, 3)
    report = load_pretrained(network, Pretrained("x", source))
    kept = before.keys() - loaded(network, before)
    assert {n for n in kept if "rpn" in n} == {f"rpn.head.conv.0.0.{p}" for p in ("weight", "bias")}
    assert report.groups["head"].names == ("roi_heads.box_predictor", "rpn.head.conv")


@pytest.mark.parametrize("wrapped", [False, True])
def test_levels_of_a_pyramid_are_matched_by_their_strides(wrapped):
    # Levels of strides 8 to 64 compute the same without the finest one, in either direction.
    torch.manual_seed(1)
    whole = build_faster_rcnn("efficientnet_lite0", 2, options=SMALL).eval()
    coarse = build_faster_rcnn("efficientnet_lite0", 2, options=COARSE).eval()
    source = {f"module.{n}" if wrapped else n: t for n, t in whole.state_dict().items()}
    report = load_pretrained(coarse, Pretrained("x", source))
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected, found = whole.backbone(x), coarse.backbone(x)
    assert list(found) == ["0", "1", "2", "pool"]
    for name, other in {"0": "1", "1": "2", "2": "3", "pool": "pool"}.items():
        assert torch.equal(found[name], expected[other])
    assert report.groups["neck"].random == 0
    assert {name.removeprefix("module.") for name in report.left_out} == {
        "backbone.fpn.inner_blocks.0",
        "backbone.fpn.layer_blocks.0",
    }

    finer = build_faster_rcnn("efficientnet_lite0", 2, options=SMALL).eval()
    report = load_pretrained(finer, Pretrained("x", coarse.state_dict()))
    with torch.no_grad():
        again = finer.backbone(x)
    assert all(torch.equal(again[name], expected[name]) for name in ("1", "2", "3", "pool"))
    assert report.groups["neck"].names == (
        "backbone.fpn.inner_blocks.0",
        "backbone.fpn.layer_blocks.0",
    )


def test_less_than_half_of_a_network_is_refused_and_nothing_is_loaded():
    network = small()
    before, source = state(network), trained(network)
    # Of the backbone's 3 M numbers the last two blocks have 2.3 M.
    parts = {n: t for n, t in source.items() if not re.search(r"blocks\.[56]", n)}
    said = r"x: fits \d\d % of the backbone .* such as blocks.5.0.conv_pw.weight \(672, 112, 1, 1\)"
    with pytest.raises(RequestError, match=said):
        load_pretrained(network, Pretrained("x", parts))
    assert not loaded(network, before)
    load_pretrained(network, Pretrained("x", {n: t for n, t in source.items() if "s.6" not in n}))
    # The classification network's file is measured against the backbone alone.
    body = {n.removeprefix("backbone.body."): t for n, t in parts.items() if "body" in n}
    with pytest.raises(RequestError, match=r"x: fits \d\d % of the backbone .*, found c \(1,\)"):
        load_pretrained(small(), Pretrained("x", body | {"c": torch.ones(1)}))


def test_the_box_predictor_does_not_count_towards_the_half():
    network = small(classes=60_000)  # whose predictor has more numbers than all else
    load_pretrained(network, Pretrained("x", trained(small())))


def test_a_network_without_memory_finds_out_whether_a_file_fits():
    with torch.device("meta"):
        network = build_faster_rcnn("efficientnet_lite0", 1, options=SMALL)
    load_pretrained(network, Pretrained("x", trained(small()), norm_eps=0.0))
    with pytest.raises(RequestError, match="fits 0 %"):
        load_pretrained(network, Pretrained("x", {"c": torch.ones(1)}))


def test_loading_draws_no_random_numbers():
    network = small()
    before = torch.get_rng_state()
    load_pretrained(network, find_pretrained("imagenet", "efficientnet_lite0", network))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("choice", "backbone", "said"),
    [
        ("imagenet", "zfnet", "published for zfnet; choose model.weights=none or the path"),
        ("coco", "vgg16", "known for vgg16, only for resnet50; choose imagenet, none or a path"),
        ("coco", "timm/resnet50", "known for timm/resnet50, only for resnet50"),
    ],
)
def test_weights_that_nobody_has_published_are_refused(choice, backbone, said):
    with pytest.raises(RequestError, match=f"model.weights={choice}: none are {said}"):
        find_pretrained(choice, backbone, small())


def test_the_report_is_a_table():
    network = small()
    pretrained = find_pretrained("imagenet", "efficientnet_lite0", network)
    lines = load_pretrained(network, pretrained).lines()
    assert lines[0] == "model.weights=imagenet"
    assert lines[1].split() == ["group", "loaded", "replaced", "new"]
    assert lines[3].split() == ["layer1", "15,024", "-", "-"]
    assert lines[7].split()[:3] == ["neck", "-", "-"]
    assert len({line.index(line.split()[1]) + len(line.split()[1]) for line in lines[1:9]}) == 1
    assert lines[9] == "  left out of the file: bn2 5,120, classifier 1,281,000, conv_head 409,600"
    assert len(lines) == 10


def test_a_detector_over_another_backbone_is_refused():
    # Its neck and head fit, and are most of a small network.
    with torch.device("meta"):
        theirs, ours = build_faster_rcnn("resnet50", 2), build_faster_rcnn("efficientnet_lite0", 2)
    with pytest.raises(RequestError, match="fits 0 % of the backbone by name and shape"):
        load_pretrained(ours, Pretrained("file", theirs.state_dict()))


def test_names_that_are_wrapped_over_and_over_are_refused_at_once():
    wrapped = {"module." * 500 + "model." * (i % 300) + f"{i}": torch.zeros(1) for i in range(50)}
    with pytest.raises(RequestError, match="of the backbone by name and shape"):
        load_pretrained(small(), Pretrained("file", wrapped))


def test_weights_that_are_no_numbers_are_refused():
    network = small()
    before, source = state(network), trained(network)
    source["backbone.body.conv_stem.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(RequestError, match=r"conv_stem\.weight has values that are no"):
        load_pretrained(network, Pretrained("x", source))
    assert not loaded(network, before)

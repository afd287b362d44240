from detector.data.validation import issues as module
from detector.data.validation.issues import KINDS, Issues, Item


def test_all_are_counted_but_only_so_many_are_described(monkeypatch):
    monkeypatch.setattr(module, "NAMED", 3)
    described = []

    def describe(number):
        described.append(number)
        return Item("train", "a.xml", f"object {number}")

    issues = Issues()
    issues.add_many("tiny box", range(5), describe)
    more = Issues()
    more.add_many("tiny box", range(5, 7), describe)
    issues.update(more)
    (issue,) = issues
    assert issue.count == issues.count("warning") == 7
    assert [str(item) for item in issue.items] == [f"a.xml: object {i}" for i in range(3)]
    assert described == [0, 1, 2, 5, 6]


def test_kinds_come_in_the_order_of_their_severity():
    severities = [severity for severity, _ in KINDS.values()]
    order = ["error", "leakage", "warning"]
    assert severities == sorted(severities, key=order.index)
    issues = Issues()
    for kind in ("tiny box", "missing image", "picture in two splits", "box not finite"):
        issues.add(kind, Item("", "a", "b"))
    assert [f.kind for f in issues.of("error")] == ["missing image", "box not finite"]
    assert [f["severity"] for f in issues.plain()] == ["error", "error", "leakage", "warning"]

"""What a source does, as text: equal for equal logic, whatever the words and the layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.run_folder.code_digest import code_digest, reached_code

BASE = '''
def total(values, scale):
    """The sum."""
    result = 0
    for value in values:
        result += scale * value  # scaled
    return result
'''
SAME = {
    "another docstring": BASE.replace("The sum.", "All of them together."),
    "no comment": BASE.replace("  # scaled", ""),
    "another layout": BASE.replace("scale * value", "(scale\n            * value)"),
    "a renamed local": BASE.replace("result", "running_sum"),
    "a renamed loop variable": BASE.replace("value in", "entry in").replace("* value", "* entry"),
}
DIFFERENT = {
    "another operator": BASE.replace("+=", "-="),
    "another constant": BASE.replace("result = 0", "result = 1"),
    "a renamed parameter, which callers may name": BASE.replace("scale", "factor"),
    "a statement more": BASE.replace("    return", "    print(result)\n    return"),
    "a constant of the module": BASE + "\nUNUSED = 1\n",
    "swapped locals": BASE.replace("return result", "return value"),
}


def _digest(root: Path, **sources: str) -> str:
    for name, text in sources.items():
        path = root / "learner" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return code_digest(("learner.entry:run",), root)


ENTRY = "from learner.sums import total\ndef run():\n    return total([1, 2], 3)\n"


@pytest.mark.parametrize("change", SAME)
def test_words_layout_and_names_of_locals_change_nothing(tmp_path: Path, change: str) -> None:
    before = _digest(tmp_path / "before", entry=ENTRY, sums=BASE)
    assert _digest(tmp_path / "after", entry=ENTRY, sums=SAME[change]) == before


@pytest.mark.parametrize("change", DIFFERENT)
def test_logic_changes_the_digest(tmp_path: Path, change: str) -> None:
    before = _digest(tmp_path / "before", entry=ENTRY, sums=BASE)
    assert _digest(tmp_path / "after", entry=ENTRY, sums=DIFFERENT[change]) != before


NESTED = """
def run(rows):
    total = sum(row.size for row in rows)
    def inner(row, *, total=total):
        try:
            return [part * total for part in row if (size := len(part))] + [size]
        except ValueError as error:
            raise KeyError(str(error)) from error
    class Local:
        total = 1
        def shown(self):
            return total, self.total
    return [inner(row) for row in rows], Local
"""


def test_closures_comprehensions_and_nested_classes_keep_their_meaning_under_other_names(tmp_path: Path) -> None:
    before = _digest(tmp_path / "before", entry=NESTED)
    names = {
        "inner": "scaled",
        "Local": "Shown",
        "error": "problem",
        "part": "piece",
        "size :=": "width :=",
        "[size]": "[width]",
    }
    renamed = NESTED
    for old, new in names.items():
        renamed = renamed.replace(old, new)
    assert _digest(tmp_path / "renamed", entry=renamed) == before
    attribute = NESTED.replace("total = 1\n", "other = 1\n").replace("self.total", "self.other")
    assert _digest(tmp_path / "attribute", entry=attribute) != before, "an attribute's name is no local's"
    read = NESTED.replace("return total, self", "return rows, self")
    assert _digest(tmp_path / "read", entry=read) != before


def test_what_is_reached_goes_through_modules_constants_annotations_late_imports_and_texts(tmp_path: Path) -> None:
    sources = {
        "entry": "from learner import helpers\nfrom learner.shared import handed_on\n"
        "def run(x: helpers.Setting):\n    from learner.late import f\n    return handed_on(f(helpers.LIMIT)), 'learner.named:g'\n"
        "def unused():\n    from learner.never import h\n    return h()\n",
        "helpers": "LIMIT = 3\nclass Setting:\n    pass\ndef unused():\n    return 1\n",
        "shared": "from learner.origin import handed_on\n",
        "origin": "def handed_on(x):\n    return x\n",
        "late": "def f(x):\n    return x\n",
        "named": "def g():\n    return 1\n",
        "never": "def h():\n    return 1\n",
    }
    _digest(tmp_path, **sources)
    code = reached_code(("learner.entry:run",), tmp_path)
    assert code.definitions == {
        ("learner.entry", "run"),
        ("learner.helpers", "LIMIT"),
        ("learner.helpers", "Setting"),
        ("learner.origin", "handed_on"),
        ("learner.late", "f"),
        ("learner.named", "g"),
    }
    assert "learner.never" not in code.modules


def test_content_beside_reached_code_counts_and_content_of_other_packages_does_not(tmp_path: Path) -> None:
    text = "def run():\n    return 1\n"
    prompts, other = tmp_path / "learner" / "prompts", tmp_path / "actors"
    for folder in (prompts, other):
        folder.mkdir(parents=True)
        (folder / "prompt.txt").write_text("Is it safe?")
    before = _digest(tmp_path, entry=text)
    code_digest.cache_clear()
    reached_code.cache_clear()
    (other / "prompt.txt").write_text("Is it helpful?")
    assert _digest(tmp_path, entry=text) == before
    code_digest.cache_clear()
    (prompts / "prompt.txt").write_text("Is it harmful?")
    assert _digest(tmp_path, entry=text) != before


def test_an_entry_that_is_not_there_is_refused(tmp_path: Path) -> None:
    _digest(tmp_path, entry="def run():\n    return 1\n")
    for entry in ("learner.entry:walk", "learner.gone"):
        with pytest.raises(ValueError, match=f"no code {entry}"):
            code_digest((entry,), tmp_path)

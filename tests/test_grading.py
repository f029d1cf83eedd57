"""Which answer a text gives, and whether it is right."""

from __future__ import annotations

import pytest

from interp.grading import extract_answer, is_correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Tom has 12 apples. The answer is Jay.", "Jay"),
        ("The answer is 12. Wait. The answer is 13.", "13"),
        ("the answer equals 3!", "3"),
        (r"So \boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, \{2\}\right\}}", r"\left\{1, \{2\}\right\}"),
        (r"First \boxed{7}, then cut off: \boxed{\frac{1}", "7"),
        ("Final answer is 3.5.", "3.5"),
        ("No idea.", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("extracted", "gold", "right"),
    [
        ("Jay", "Jay", True),
        ("Tom", "Jay", False),
        ("12", "12", True),
        ("12", "2", False),
        (r"\frac{1}{2}", "0.5", True),
        (r"6 + 9i", "6+9i", True),
        (None, "1", False),
    ],
)
def test_correctness(extracted: str | None, gold: str, right: bool) -> None:
    assert is_correct(extracted, gold) is right

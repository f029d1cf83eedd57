"""Readable names, and words that are explained where they stand."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from interp.heads.ranking import HeadKind
from interp.heads.scores import HeadScore
from interp.patching.align import Role
from interp.runs.columns import declared
from interp.runs.glossary import GLOSSARY, Explainer
from interp.runs.names import readable, readable_text
from interp.text.prompts import Condition
from interp.text.trace import Segment


def test_no_column_and_no_value_is_shown_by_its_raw_name() -> None:
    columns = {column.name for table in declared().values() for column in table.columns}
    values = {str(one) for kind in (HeadKind, HeadScore, Role, Condition, Segment) for one in kind}
    for name in columns | values:
        shown = readable(name)
        assert "_" not in shown, name
        assert not {"fai", "waad", "rfh", "nld", "bos", "ld", "kl"} & set(shown.split()), name
    shown = {column: readable(column) for column in columns if column.startswith(("fai", "receiver_fai", "waad"))}
    assert len(set(shown.values())) == len(shown), "different columns have different names"


def test_names_in_sentences_are_replaced_and_words_of_models_are_not() -> None:
    assert readable_text("mass answer->end_think, top receiver_sentences heads") == (
        "mass answer->close tag, top receiver (by sentence) heads"
    )
    assert readable_text("mass answer->bos, all heads") == "mass answer->first token, all heads"
    assert readable_text("it wrote my_variable = z") == "it wrote my_variable = z"
    assert readable("A sentence with under_scores.") == "A sentence with under_scores."


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("NLD, the phrase's answer, layer 0", "phrase"),
        ("mass answer->reasoning beside an even head", "even head"),
        ("FAI peaks, shifted in a circle", "shifted in a circle"),
        ("Reasoning-Focus Heads walk", "RFH"),
        ("Receiver heads' peaks", "receiver head"),
        ("cut in the top 2 RFHs", "RFH"),
        ("FAI near by", "FAI"),
        ("mean WAAD, tokens", "WAAD"),
        ("NLD of clean activations", "NLD"),
        ("share of receiver-FAI peaks", "receiver head"),
        ("net overlap at high FAI", "net"),
        ("Jaccard overlap of content words, net: top 5", "net"),
        ("sets of heads of the same layers", "sets of heads"),
        ("a sentence without content put in", "sentence without content"),
        ("the same of an unrelated pair: erasing alone", "erasing"),
    ],
)
def test_the_papers_words_are_explained_where_they_stand(text: str, term: str) -> None:
    (one,) = (one for one in GLOSSARY if one.name == term)
    html = str(Explainer()(text))
    assert f'href="#{one.anchor}"' in html
    assert one.meaning in unescape(html)


def test_a_term_is_one_stop_for_keys_a_section() -> None:
    explain = Explainer()
    first, again = explain("NLD"), explain("NLD")
    assert first.startswith('<a class="term"')
    assert again.startswith('<span class="term"')
    assert explain.begin() == ""
    assert explain("NLD") == first


def test_parts_of_words_are_no_terms() -> None:
    assert Explainer()("massive networks, internet") == "massive networks, internet"


def test_every_term_has_an_address_of_its_own() -> None:
    assert len({term.anchor for term in GLOSSARY}) == len(GLOSSARY)
    for term in GLOSSARY:
        assert Explainer()(term.name).count(term.anchor) == 2


@given(st.text())
def test_marking_changes_no_text_and_lets_no_markup_in(text: str) -> None:
    html = Explainer()(text)
    assert isinstance(html, Markup)
    assert unescape(re.sub(r"</?(?:a|span)[^<>]*>", "", str(html))) == unescape(str(Markup.escape(text)))

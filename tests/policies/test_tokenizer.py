from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.policies.tokenizer import Tokenizer, pad

tokenize = Tokenizer()


def test_words_keep_their_order() -> None:
    red_first = tokenize("press red, then green")
    green_first = tokenize("press green, then red")
    assert red_first.shape == green_first.shape == (5, tokenize.max_grams)
    np.testing.assert_array_equal(red_first[[0, 4, 2, 3, 1]], green_first)
    assert (red_first != green_first).any()


def test_case_and_spacing_do_not_matter() -> None:
    np.testing.assert_array_equal(tokenize("Stack  the RED block!"), tokenize("stack the red block"))


def test_an_unseen_form_shares_pieces_with_a_seen_one() -> None:
    def overlap(a: str, b: str) -> float:
        first, second = set(tokenize.grams(a)), set(tokenize.grams(b))
        return len(first & second) / len(first | second)

    assert overlap("stack", "stacking") > 0.4
    assert overlap("stack", "bottle") < 0.1


def test_nothing_said_is_one_empty_word() -> None:
    assert tokenize("").shape == (1, tokenize.max_grams)
    assert not tokenize("?!").any()


@given(st.text(max_size=400))
def test_any_text_fits(text: str) -> None:
    ids = tokenize(text)
    assert 1 <= len(ids) <= tokenize.max_words
    assert ids.min() >= 0
    assert ids.max() < tokenize.buckets
    assert (ids[1:, 0] > 0).all()


def test_the_hash_is_the_same_everywhere() -> None:
    assert tokenize.grams("red")[:3] == [306, 369, 1780]


def test_padding_adds_empty_words() -> None:
    short, long = tokenize("lift"), tokenize("lift the tray")
    batch = pad([short, long])
    assert batch.shape == (2, 3, tokenize.max_grams)
    np.testing.assert_array_equal(batch[0, 0], short[0])
    assert not batch[0, 1:].any()


def test_encodings_are_shared_and_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        tokenize("lift")[0, 0] = 1

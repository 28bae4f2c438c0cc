"""The built-in texts by name: as long as asked, the same for the same seed, and a sentence for any other name."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_plugins.data.builtin import DEFAULT_CHARACTERS, builtin
from rnn_plugins.data.latex import latex_text
from rnn_plugins.errors import UserError


def test_latex_has_a_default_length_and_seed() -> None:
    assert "".join(builtin("latex")) == latex_text(DEFAULT_CHARACTERS, seed=0)


@given(characters=st.integers(1, 20_000))
def test_latex_is_as_long_as_asked(characters: int) -> None:
    assert "".join(builtin(f"latex:{characters}")) == latex_text(characters)


@given(characters=st.integers(1, 5000), seed=st.integers(0, 2**40))
def test_latex_of_a_seed(characters: int, seed: int) -> None:
    assert "".join(builtin(f"latex:{characters}:{seed}")) == latex_text(characters, seed)


def test_a_long_text_comes_in_small_pieces() -> None:
    pieces = itertools.islice(builtin(f"latex:{10**15}"), 200)
    assert max(len(piece) for piece in pieces) < 20_000


def test_hello_leaves_nothing_to_guess() -> None:
    text = "".join(builtin("hello"))
    assert text.startswith("hello")
    assert text == text[:6] * (len(text) // 6)
    # What two symbols determine, a network can predict with a loss near zero.
    followers = {text[at : at + 2]: set() for at in range(len(text) - 2)}
    for at in range(len(text) - 2):
        followers[text[at : at + 2]].add(text[at + 2])
    assert all(len(symbols) == 1 for symbols in followers.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "latx",
            "there is no built-in text 'latx'. Did you mean 'latex'? There are builtin:latex and builtin:hello",
        ),
        ("Hello", "there is no built-in text 'Hello'. Did you mean 'hello'? There are builtin:latex and builtin:hello"),
        ("", "there is no built-in text ''. There are builtin:latex and builtin:hello"),
        *(
            (
                name,
                f"'builtin:{name}' is not understood; it takes builtin:hello, builtin:latex, builtin:latex:CHARACTERS "
                "or builtin:latex:CHARACTERS:SEED, such as builtin:latex:500000",
            )
            for name in ["latex:many", "latex:", "latex:-1", "latex:1:2:3", "latex:1e5", "hello:9", "latex:٣"]
        ),
    ],
)
def test_other_names_get_a_sentence_at_once(name: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        builtin(name)
    assert str(raised.value) == message

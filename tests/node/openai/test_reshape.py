"""Where engines and OpenAI write the same thing differently."""

import base64
import struct

import pytest

from node.api.openai.reshape import legacy_logprobs, packed, unpacked, vector
from p2p.errors import EngineError

PACKED = base64.b64encode(struct.pack("<3f", 0.5, -0.25, 1.0)).decode()


def test_odds_become_four_lists() -> None:
    """Odds as llama.cpp writes them become the lists of OpenAI's completions."""
    tokens = [
        {"token": " a", "logprob": -0.5, "top_logprobs": [{"token": " a", "logprob": -0.5}]},
        {"token": "b", "logprob": -1, "top_logprobs": None},
    ]
    value = {"choices": [{"logprobs": {"content": tokens}}, {"logprobs": None}]}
    first, second = legacy_logprobs(value)["choices"]
    assert first["logprobs"] == {
        "tokens": [" a", "b"],
        "token_logprobs": [-0.5, -1],
        "top_logprobs": [{" a": -0.5}, {}],
        "text_offset": [0, 2],
    }
    assert second["logprobs"] is None


def test_odds_that_are_right_stay() -> None:
    """Odds in OpenAI's lists are left alone."""
    odds = {"tokens": ["a"], "token_logprobs": [-1], "top_logprobs": [], "text_offset": [0]}
    assert legacy_logprobs({"choices": [{"logprobs": odds}]}) == {"choices": [{"logprobs": odds}]}


@pytest.mark.parametrize("written", [[0.5, -0.25, 1.0], PACKED])
def test_embeddings_come_in_the_encoding_that_was_asked(written: object) -> None:
    """Whichever way the engine writes a vector, the client gets the one that it asked for."""
    assert packed({"data": [{"embedding": written}]})["data"][0]["embedding"] == PACKED
    assert unpacked({"data": [{"embedding": written}]})["data"][0]["embedding"] == [0.5, -0.25, 1.0]


@pytest.mark.parametrize(
    "data",
    [None, {}, [1], [{}], [{"embedding": None}], [{"embedding": ["x"]}], [{"embedding": [[1]]}]],
)
def test_what_is_no_embedding_is_an_error(data: object) -> None:
    """A vector that is none does not reach the client."""
    with pytest.raises(EngineError):
        unpacked({"data": data})


@pytest.mark.parametrize("written", ["AAA", "AAAAAAA=", "not base64!", "\N{SNOWMAN}", [10**400], 5])
def test_what_is_no_vector_is_an_error(written: object) -> None:
    """Bytes that are no floats, and numbers that are none, are refused."""
    with pytest.raises(EngineError):
        vector(written)

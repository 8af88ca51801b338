"""What is served, as Ollama lists it."""

from typing import Any

import pytest

from node.api.ollama.models import details, listed, running, short_count, shown, tagged
from tests.inference import served


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, ""),
        (999, "999"),
        (134_515_008, "134.52M"),
        (8_030_261_248, "8.03B"),
        (22_713_216, "22.71M"),
        (1000, "1.00K"),
    ],
)
def test_parameters_are_written_as_people_say_them(count: int, text: str) -> None:
    """Billions, millions, thousands; nothing where nobody knows."""
    assert short_count(count) == text


def test_a_name_has_a_tag() -> None:
    """A name without a tag gets the one that Ollama's clients expect."""
    assert tagged("alice/tiny") == "alice/tiny:latest"
    assert tagged("alice/tiny:q4") == "alice/tiny:q4"


def test_a_model_is_listed_with_its_digest() -> None:
    """The digest is the manifest's CID: what names the release everywhere else, too."""
    model = served()
    found = listed(model)
    assert found["name"] == found["model"] == "alice/tiny:latest"
    assert (found["digest"], found["size"]) == (str(model.manifest), model.size)
    assert details(model)["quantization_level"] == "Q4_1"
    assert details(served(architecture=""))["families"] == []


def test_a_loaded_model_says_until_when() -> None:
    """When it is unloaded if nobody asks, or that it stays."""
    assert running(served(until=1_700_000_000.0, memory=5))["expires_at"] == "2023-11-14T22:13:20Z"
    assert running(served(until=1_700_000_000.0, memory=5))["size"] == 5
    assert running(served())["expires_at"].startswith("2286")


@pytest.mark.parametrize(
    ("can", "said"),
    [
        ({"chat", "tools"}, ["completion", "tools"]),
        ({"completions"}, ["completion"]),
        ({"embeddings"}, ["embedding"]),
    ],
)
def test_a_model_shows_what_it_can(can: set[Any], said: list[str]) -> None:
    """Capabilities, licence, template and context, as its clients look for them."""
    found = shown(served(capabilities=frozenset(can), template="{{x}}"))
    assert found["capabilities"] == said
    assert found["model_info"]["llama.context_length"] == 2048
    assert (found["license"], found["template"]) == ("Apache-2.0", "{{x}}")

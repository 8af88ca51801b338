"""What several stories of the network begin with."""

from collections.abc import Iterator

import pytest

from tests.natlab import Lab, missing


@pytest.fixture(scope="session")
def possible() -> None:
    """Skip without what a lab needs."""
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def lab(possible: None) -> Iterator[Lab]:
    """An internet for one test."""
    with Lab() as made:
        yield made

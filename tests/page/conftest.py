"""A tab for each test, of a browser of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.page.chromium import Page, browser


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser() as running:
        yield await running.new_page()

"""Waiting for whichever of several events comes first."""

import trio


async def first_of(*events: trio.Event) -> None:
    """Return when any of the events is set."""

    async def until(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(until, event)

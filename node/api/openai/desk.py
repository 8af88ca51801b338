"""What the doors need of the rest of the node: models, accounts, receipts, a moderator.

Protocols and the data that they speak in; the real ones and the tests' fakes satisfy them.
"""

from typing import Protocol

from node.accounts import Account, Use
from node.inference import Inference, Served
from node.moderation import Moderation


class Accounts(Protocol):
    """Who may ask what, and what they have used."""

    async def identify(self, bearer: str) -> Account:
        """Return whose token ``bearer`` is ("": none came); ``BadToken`` if it is not good."""

    def admit(self, account: Account, model: Served) -> None:
        """Let a request in: ``Refused`` if that model is not theirs, ``OverLimit`` past a limit."""

    def allows(self, account: Account, model: Served) -> bool:
        """Say whether that model is theirs to ask."""

    async def record(self, account: Account, use: Use) -> None:
        """Write down what a request took."""


class Draft(Protocol):
    """A receipt while its answer goes out."""

    @property
    def id(self) -> str:
        """What it can be asked for by."""

    def feed(self, data: bytes) -> None:
        """Take in bytes of the answer as they are sent."""

    def finish(self, status: int, served_by: str) -> None:
        """Sign: all has been sent."""


class Receipts(Protocol):
    """Signed statements of which model answered what with what."""

    def begin(self, model: Served, endpoint: str, request: bytes) -> Draft:
        """Start the receipt of an answer to ``request``, the body as the client sent it."""

    def get(self, id: str) -> bytes | None:
        """Return a finished receipt, JSON; None if there is none by that name."""


class Desk(Protocol):
    """All that a door needs."""

    @property
    def inference(self) -> Inference:
        """Whoever answers for models."""

    @property
    def accounts(self) -> Accounts:
        """Who may ask."""

    @property
    def receipts(self) -> Receipts:
        """What is signed."""

    @property
    def moderation(self) -> Moderation | None:
        """Who is asked about prompts and answers, if anybody."""

"""The last chapter of the demo: a real model goes from one node to another, and answers there."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from node.asking import Conversation
from node.demo_chat import fetch_smollm2
from node.demo_people import Person, check

QUESTION: Final = "What is the capital of France? Answer in one sentence."
MANNERS: Final = "You are a helpful assistant."
LONGEST: Final = 40  # tokens


def serve_and_ask(
    folder: Path, alice: Person, bob: Person, say: Callable[[str], None], *, aloud: bool
) -> None:
    """Alice publishes SmolLM2, Bob fetches and serves it, and asks it something.

    ``aloud``: the answer is printed as it comes.
    """
    say("7. Now a real model: SmolLM2, 135 million parameters, Apache-2.0.")
    source = fetch_smollm2(folder / "smollm2", lambda text: say(f"   {text}"))
    published = alice.run("publish", str(source), "--as", "alice/smollm2")
    manifest = published["manifest"]
    bob.fetch(f"{published['publisher']}/smollm2")
    say("   Alice has published it, Bob has fetched it and checked every leaf.")

    say("8. Bob serves it. Any OpenAI or Ollama client could ask it now.")
    served = bob.run("serve", manifest, "--as", "smollm2", "--context", "1024")
    check(served["manifest"] == manifest, "what is served is what Alice published")
    say(
        f"   {served['engine']} answers at {served['url']}, with {_mb(served['memory'])} of memory."
    )
    say(f"   Bob asks: {QUESTION}")
    answer = _ask(bob, aloud=aloud)
    check(answer["manifest"] == manifest, "the answer names the model that gave it")
    check(bool(answer["answer"].strip()), "there is an answer")
    if not aloud:
        say(f"   {answer['answer']}")
    say(f"   The answer names its model: X-Model-Digest {answer['manifest']}")


def _ask(person: Person, *, aloud: bool) -> dict[str, Any]:
    knobs = {"temperature": 0, "max_tokens": LONGEST}
    talk = Conversation(person.door, "smollm2", MANNERS, knobs)
    if aloud:
        sys.stdout.write("   > ")
    for piece in talk.ask(QUESTION):
        if aloud:
            sys.stdout.write(piece.replace("\n", "\n     "))
            sys.stdout.flush()
    if aloud:
        sys.stdout.write("\n")
    return talk.last


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"

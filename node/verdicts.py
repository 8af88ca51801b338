"""``allod provenance`` and ``allod why``: a lineage, and what this node makes of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from node.holdings import find_release, spell_out
from node.messages import ProvenanceParams
from node.naming import NamingNode
from node.provenance import look
from p2p.cid import CID
from p2p.errors import NotFound

if TYPE_CHECKING:
    from node.gate import Gate
    from p2p.policy import Verdict

Json = dict[str, Any]


class JudgingNode(NamingNode, Protocol):
    """What a verdict needs of a node."""

    @property
    def gate(self) -> "Gate": ...


async def judged_provenance(params: ProvenanceParams, node: JudgingNode) -> Json:
    """Return the JSON object of ``allod provenance --json``.

    Every release of the lineage that is here is judged by itself, as if it were to be taken now.
    """
    ref = spell_out(params.ref, node.keyring, node.petnames())
    release = await find_release(node.store, node.keyring, ref)
    found = await look(node, release)
    for one in found["chain"]:
        if one["here"]:
            one["verdict"] = _shown(await node.gate.opinion(CID.parse(one["manifest"])))
    verdict = found["chain"][0]["verdict"]
    if verdict is None:
        raise NotFound(f"This store lost {release.manifest_cid} while it was looked at.")
    found |= {
        "verdict": "admitted" if verdict["admitted"] else "refused",
        "rule": verdict["rule"],
        "reason": verdict["reason"],
        "evidence": verdict["evidence"],
        "next": verdict["next"],
    }
    if params.save:
        from node.proofs import save_proofs

        found["saved"] = await save_proofs(release.manifest_cid, node.store, Path(params.save))
    return found


def _shown(verdict: "Verdict | None") -> Json | None:
    if verdict is None:
        return None
    return {
        "admitted": verdict.admitted,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "evidence": list(verdict.evidence),
        "next": verdict.next,
    }

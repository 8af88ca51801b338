"""A served release as the doors show it."""

from dataclasses import replace
from typing import Final

from node.engine.convert import supported
from node.engine.engines import choose
from node.inference import Capability, Served
from node.serving.loading import Loader, ServingNode
from node.serving.roster import Entry
from p2p.errors import NotFound

ELSEWHERE: Final[frozenset[Capability]] = frozenset(
    {
        "chat",
        "completions",
        "embeddings",
        "responses",
        "tools",
        "json_schema",
        "logprobs",
        "choices",
    }
)
"""What a server elsewhere may be able to do: it says no by itself."""


async def show(entry: Entry, node: ServingNode, loader: Loader) -> Served:
    """Return what is known of a release that is to be served.

    Its files are looked at unless it is answered for elsewhere. ``NotFound``, ``Refused``,
    ``NoEngine``.
    """
    release = await node.store.release(entry.manifest)
    if release is None:
        raise NotFound(
            f"This store does not hold {entry.name}.",
            next=f"`allod fetch {entry.manifest}` brings it.",
        )
    aliases = [str(entry.manifest), f"{release.publisher}/{release.name}", *entry.aliases]
    if "/" in entry.name and "@" not in entry.name:
        aliases.append(f"{entry.name}@{release.version}")
    served = Served(
        name=entry.name,
        aliases=tuple(dict.fromkeys(one for one in aliases if one != entry.name)),
        manifest=entry.manifest,
        publisher=release.publisher,
        created=int(release.added),
        size=release.size,
        capabilities=ELSEWHERE,
        context=entry.context,
        license=release.license,
        shared=entry.share,
        via_peers=entry.via_peers,
    )
    if entry.upstream:
        return replace(served, state="ready", engine=entry.upstream)
    if entry.remote or (not release.complete and entry.via_peers):
        return replace(served, state="remote")
    material = await loader.material(entry)
    weights = material.weights
    wanted = entry.engine or node.config.serve.engine
    engine = choose(weights, wanted, convertible=supported(weights))
    plan = loader.plan(entry, weights, material.folder)
    return replace(
        served,
        created=material.created,
        size=weights.size,
        capabilities=engine.capabilities(weights),
        context=plan.context,
        architecture=weights.architecture,
        format=weights.format,
        quantization=weights.quantization,
        parameters=weights.parameters,
        template=material.template,
        engine=engine.name,
        memory=plan.estimate,
    )

"""Licences: what an SPDX expression asks, and whether a release may be made from another.

    expressions   SPDX expressions: reading, one spelling, the choices that OR leaves
    families      what kind of licence each is, and what it obliges to
    findings      what does not fit between a release and what it was made from

It reads names of licences, not their texts, and is no legal advice: it finds the contradictions
that anybody could have seen. A licence that it does not know is called unknown, never harmless.

Pure. Specifications: SPDX 3.0 licence list and licence expressions; the categories of the licences
that it lists are those of the licence-expression library.
"""

from p2p.licenses.expressions import check_expression, spdx_id
from p2p.licenses.families import FAMILIES, OBLIGATIONS, Family, Terms, read_terms
from p2p.licenses.findings import Finding, findings

__all__ = [
    "FAMILIES",
    "OBLIGATIONS",
    "Family",
    "Finding",
    "Terms",
    "check_expression",
    "findings",
    "read_terms",
    "spdx_id",
]

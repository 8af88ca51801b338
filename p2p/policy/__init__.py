"""What a node lets in, keeps and passes on, decided by its owner's policy.

    deny        deny lists, in our notation and in Kubo's
    formats     what kind of file a name stands for
    pickles     telling a pickle by its bytes
    contents    what a file is by its bytes; brings much, so who needs it imports it then
    web         which web servers may be asked
    model       a policy, as data
    keys        every key that a policy can have
    reader      policy.toml, read strictly
    evidence    what is known about a release when a policy is asked
    votes       how many different ones have spoken
    terms       whether a rule lets a licence in
    judge       the verdict

Pure: gathering the evidence, and acting on a verdict, is the node's work.
Specification: docs/reference/policy.md.
"""

from p2p.policy.deny import Denied, DenyList, read_deny_list, write_entry
from p2p.policy.evidence import Evidence, Facts, File, Finding, Verdict
from p2p.policy.formats import format_of
from p2p.policy.judge import denied, judge, judge_release, refused_files
from p2p.policy.keys import KEYS
from p2p.policy.model import Community, Need, Party, Policy, Rule, Subscription
from p2p.policy.reader import check_petname, check_publisher, read_policy
from p2p.policy.web import Web

__all__ = [
    "KEYS",
    "Community",
    "Denied",
    "DenyList",
    "Evidence",
    "Facts",
    "File",
    "Finding",
    "Need",
    "Party",
    "Policy",
    "Rule",
    "Subscription",
    "Verdict",
    "Web",
    "check_petname",
    "check_publisher",
    "denied",
    "format_of",
    "judge",
    "judge_release",
    "read_deny_list",
    "read_policy",
    "refused_files",
    "write_entry",
]

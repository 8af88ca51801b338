"""What a node tells of itself to who watches it: numbers, in Prometheus's text format.

    table      every metric by name, with its labels and its meaning; docs/reference/metrics.md
    text       samples of them, and how they are written
    counts     what nothing else in the node counts: HTTP requests, lines of the log
    scraping   where every number lies, read when somebody asks

Nothing here is a secret, and nothing names anybody: labels are kinds, states, statuses and error
codes from lists that are known beforehand, never a peer, an address, a publisher, a release, a
token, or a word of a prompt. The names of served models are the one exception; who may not list
the models gets their sum.
"""

from node.metrics.counts import HttpCounts, LogCounts, counting_logs
from node.metrics.scraping import scrape
from node.metrics.table import METRICS, Metric
from node.metrics.text import Scrape

__all__ = [
    "METRICS",
    "HttpCounts",
    "LogCounts",
    "Metric",
    "Scrape",
    "counting_logs",
    "scrape",
]

"""The node as a service: systemd on Linux, launchd on macOS, and a container.

    unit          pure: what a service manager is told; systemd's unit, launchd's property list
    plan          which file that is on this machine, and the commands that make it known
    installing    writing it, removing it, asking how it is
    notify        what the running node tells systemd: that it serves, that it lives, that it ends

``Containerfile`` and ``compose.yaml`` lie beside. Nothing here becomes root, or starts anything as
root, unless root asked for it; a service of the whole machine runs as an ordinary user.
"""

from node.service.installing import install, service_state, uninstall
from node.service.notify import Manager
from node.service.plan import Plan, make_plan

__all__ = ["Manager", "Plan", "install", "make_plan", "service_state", "uninstall"]

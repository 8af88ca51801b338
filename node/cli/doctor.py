"""Is everything as it should be: doctor."""

from typing import Any

import click

from node.cli.run import Run, verb
from node.messages import DoctorParams
from p2p.errors import ConfigError, NoNode


@verb(example="allod doctor")
@click.option("--fix", is_flag=True,
              help="Put right what is safe: modes of files, and missing folders.")  # fmt: skip
def doctor(run: Run, fix: bool) -> int:
    """Look at everything once, and say what is wrong and how to mend it.

    Nothing is asked on the network. The exit code is 0 where there is no problem, else 1.
    """
    found = _examine(run, DoctorParams(fix))
    shown = [one for one in found["checks"] if not run.quiet or one["level"] != "ok"]
    width = max((len(one["name"]) for one in shown), default=0)
    lines = []
    for one in shown:
        lines.append(f"{one['level']:8} {one['name']:{width}}  {one['found']}")
        if one["fix"]:
            lines.append(f"{'':8} {'':{width}}  -> {one['fix']}")
    return run.show(found, lines)


def _examine(run: Run, params: DoctorParams) -> dict[str, Any]:
    """Have it done by the running node, here where none answers; a wrong config.toml is a finding.

    The file is not needed to find the node, and the examination reads it itself.
    """
    try:
        run.config()
        read_file = True
    except ConfigError:
        read_file = False
    try:
        return run.call("doctor", params, read_file=read_file)
    except NoNode as exc:
        found = run.call("doctor", params, here_only=True, read_file=read_file)
        from node.doctor import Finding
        from node.doctor.examination import report

        checks = [Finding(**one) for one in found["checks"]]
        silent = Finding("node", "problem", exc.message, exc.next)
        return report([silent, *checks], running=False)

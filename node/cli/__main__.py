"""``python -m node.cli``: the command line where the ``allod`` script is not on the path."""

import sys

from node.cli import main

sys.exit(main())

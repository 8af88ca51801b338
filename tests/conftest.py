"""What holds for all tests."""

import os

# The tests start many hundred processes. Where the surroundings say that bytecode is not kept,
# as container images often do, each would compile all of its libraries anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

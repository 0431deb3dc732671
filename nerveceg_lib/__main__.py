"""Says what the old command `python -m nerveceg_lib COMMAND` is called now."""

import shlex
import sys

command = shlex.join(sys.argv[1:])
print(f"error: `python -m nerveceg_lib {command}` is now called `python -m nerveceg_tools {command}`", file=sys.stderr)
sys.exit(2)

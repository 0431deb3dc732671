"""`python -m nerveceg_tools COMMAND`."""

import sys

from nerveceg_tools.cli import main

sys.exit(main())

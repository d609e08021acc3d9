"""``python -m tests.mutation``: see ``--help``."""

import sys

from tests.mutation.command import main

if __name__ == "__main__":
    sys.exit(main())

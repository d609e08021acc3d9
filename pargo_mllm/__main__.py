"""``python -m pargo_mllm`` is ``pargo``."""

import sys

from pargo_mllm.cli import main

if __name__ == "__main__":
    sys.exit(main())

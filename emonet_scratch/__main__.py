"""`python -m emonet_scratch` is `emonet`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Train EmoNet: `python examples/train_afew.py` on synthetic data, `--data PATH/TO/AFEW` on the real one.

The arguments are those of `emonet train`; see `--help`.
"""

import sys

from emonet_scratch.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

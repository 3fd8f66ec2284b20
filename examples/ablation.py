"""Which choice matters? Train the audio network of the preset `small` again and again, each time with one field changed.

`python examples/ablation.py` takes a minute or two; without --data it writes a synthetic data set first.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from emonet_scratch.data import synthetic
from emonet_scratch.errors import EmonetError
from emonet_scratch.files import print_anything
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.training import Settings, run

CHANGES = [{}, {"lr": 1e-6}, {"optimizer": "sgd"}, {"schedule": "constant"}, {"clip_norm": None}, {"dropout": 0.5},
           {"relu_on_logits": True}, {"audio_layers": (32,)}, {"lda_shrinkage": 1e-4}]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", help="a data set in AFEW's layout")
parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs")
parser.add_argument("--clips-per-class", type=int, nargs=3, default=(40, 20, 1), help="size of the synthetic data set")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
options = parser.parse_args()
print_anything()

data = options.data
if data is None:
    data = options.out / ("data-" + "-".join(map(str, options.clips_per_class)))
    options.out.mkdir(parents=True, exist_ok=True)
    synthetic.write(data, tuple(options.clips_per_class), seed=0, exist_ok=True)

print(f"{'change':26}{'accuracy':>9}{'from':>8}{'to':>8}{'loss':>8}")
for change in CHANGES:
    config = EmoNetConfig.preset("small").replace(**{"epochs": options.epochs} | change)
    name = ", ".join(f"{field}={value}" for field, value in change.items()) or "none"
    try:
        results = [run(Settings((str(data),), config, ("audio",), seed, device="cpu"), options.out / f"{name}-seed{seed}",
                       log=lambda line: None)["audio"] for seed in range(options.seeds)]
    except EmonetError as error:                                              # such as: another process is at it
        sys.exit(f"ablation: {error}")
    accuracies = [result["accuracy"] for result in results]
    print(f"{name:26}{np.mean(accuracies):9.3f}{min(accuracies):8.3f}{max(accuracies):8.3f}"
          f"{np.mean([result['loss'] for result in results]):8.3f}", flush=True)
print(f"{'chance':26}{results[0]['chance']:9.3f}\n{'majority class':26}{results[0]['majority']:9.3f}")

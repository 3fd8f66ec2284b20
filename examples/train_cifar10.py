"""Train ResNet-20 on CIFAR-10: `python examples/train_cifar10.py --data cifar-10-python.tar.gz`.

--data takes the archives as published, unpacked or not, an image folder, or a packed .npz (see data/cifar10.py). The weights
end in OUT/resnet.safetensors, with a card of how they were made.
"""

import argparse
import dataclasses
import datetime
import sys
from pathlib import Path

from emonet_scratch import dispatch
from emonet_scratch.backend import choose_device
from emonet_scratch.data.cifar10 import read_cifar10
from emonet_scratch.errors import DataError, EmonetError
from emonet_scratch.files import owned, print_anything, shown
from emonet_scratch.training.images import ImageTrainer, Recipe
from emonet_scratch.training.metrics import chance_and_majority
from emonet_scratch.training.report import curves_figure, save_figure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", required=True, help="CIFAR-10 in any form")
parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="folder of the run")
parser.add_argument("--resume", action="store_true", help="go on where the run in OUT stopped")
parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K")
parser.add_argument("--precision", choices=dispatch.PRECISIONS, help="of products in the kernels of a GPU")
parser.add_argument("--limit", type=int, metavar="N", help="the first N images of both splits only, for a trial")
for field in dataclasses.fields(Recipe):
    parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default,
                        help=f"(default: {field.default})")
options = parser.parse_args()
print_anything()

try:
    device, why = choose_device(options.device)
    precision = dispatch.use_precision(options.precision, device)
    print(why)
    train, test = ([a[:options.limit] for a in read_cifar10(options.data, split)] for split in ("train", "test"))
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    facts = {"data": f"CIFAR-10 ({Path(options.data).name})", "command": " ".join(["python", *sys.argv]),
             "date": datetime.date.today().isoformat(), "device": device, "precision": precision}
    with owned(options.out):
        if not options.resume and (options.out / "last.safetensors").exists():
            raise DataError(f"{str(options.out)!r} holds a run: --resume goes on with it, another --out starts anew")
        trainer = ImageTrainer(tuple(train), tuple(test), options.out, recipe, device=device, facts=facts)
        last = trainer.fit(options.resume)
        save_figure(options.out / "curves.png", curves_figure, {"resnet": trainer.rows}, *chance_and_majority(test[1]))
except (EmonetError, OSError, ValueError) as error:
    sys.exit(f"train_cifar10: {error}")
print(f"test accuracy {last['accuracy']:.4f}, loss {last['loss']:.4f}, of ten views {trainer.averaged['accuracy']:.4f}; "
      f"weights: {shown(options.out / 'resnet.safetensors')}")

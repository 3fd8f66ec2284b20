"""The command line of the examples that train a ResNet on images: examples/train_cifar10.py, examples/train_faces.py."""

import argparse
import dataclasses
import datetime
import sys
from collections.abc import Callable
from pathlib import Path

from .. import dispatch
from ..backend import choose_device
from ..errors import DataError, EmonetError
from ..files import owned, print_anything, shown
from .images import Images, ImageTrainer, Recipe, likeliest
from .metrics import chance_and_majority
from .report import curves_figure, save_figure


def teach(doc: str, name: str, read: Callable[[str, str], Images], recipe: Recipe, what: str) -> ImageTrainer:
    """Parse the arguments of the example `name`, train by `recipe` but for what they change, report; exit where it fails.

    doc: text of its help; read: (path, "train" or "test") -> images and labels; what: the data, in words.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help=f"{what} in any form")
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on where the run in OUT stopped")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K")
    parser.add_argument("--precision", choices=dispatch.PRECISIONS, help="of the factors of products in kernels")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of both splits only, for a trial")
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(value), default=value, help=f"(default: {value})")
    options = parser.parse_args()
    print_anything()
    try:
        device, why = choose_device(options.device)
        precision = dispatch.use_precision(options.precision, device)
        print(why)
        train, test = (tuple(a[:options.limit] for a in read(options.data, split)) for split in ("train", "test"))
        recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
        facts = {"data": f"{what} ({Path(options.data).name})", "command": " ".join(["python", *sys.argv]),
                 "date": datetime.date.today().isoformat(), "device": device, "precision": precision}
        with owned(options.out):
            if not options.resume and (options.out / "last.safetensors").exists():
                raise DataError(f"{str(options.out)!r} holds a run: --resume goes on with it, another --out starts anew")
            trainer = ImageTrainer(train, test, options.out, recipe, device=device, facts=facts)
            last = trainer.fit(options.resume)
            save_figure(options.out / "curves.png", curves_figure, {"resnet": trainer.rows},
                        *chance_and_majority(likeliest(test[1])))
    except (EmonetError, OSError, ValueError) as error:
        sys.exit(f"train_{name}: {error}")
    print(f"test accuracy {last['accuracy']:.4f}, loss {last['loss']:.4f}, of ten views {trainer.averaged['accuracy']:.4f}; "
          f"weights: {shown(options.out / 'resnet.safetensors')}")
    return trainer

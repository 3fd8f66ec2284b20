"""The command that hands a network on."""

import argparse
from pathlib import Path

from ..errors import DataError
from ..files import owned_file, say, shown
from ..training import load_model
from ..training.answer import SHIPPED
from .options import path_of


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `emonet export`."""
    parser.add_argument("checkpoint", type=path_of,
                        help="a checkpoint, the folder of a run, or, of the weights that come along, fused or voices")
    parser.add_argument("--out", type=path_of, required=True, metavar="FILE", help="what to write, such as model.onnx")
    parser.add_argument("--fold", action="store_true", help="batch norm becomes part of the filters before it")


def export(options: argparse.Namespace) -> None:
    """Write a trained network, with all that stands before and behind it, as one ONNX graph (extra onnx)."""
    from ..export.onnx import export as write_graph
    target, shipped = Path(options.out), SHIPPED.get(options.checkpoint)
    if options.checkpoint == "faces":
        raise DataError("faces is a network of single pictures, which fused has in it: export fused, or voices")
    model = load_model(shipped or options.checkpoint)
    card = shipped.with_suffix(".md").read_text(encoding="utf-8") if shipped else ""
    with owned_file(target):
        if target.exists():
            raise DataError(f"{str(target)!r} exists: give another name with --out")
        graph = write_graph(model, target, options.fold, card).graph
    told = (f"{one.name} ({', '.join(d.dim_param or str(d.dim_value) for d in one.type.tensor_type.shape.dim)})"
            for one in (*graph.input, *graph.output))
    say(f"{len(graph.node)} nodes: {shown(target)}\n{', '.join(told)}; classes {', '.join(model.classes)}")

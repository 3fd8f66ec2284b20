"""What Hypothesis draws: bytes that are changed where they lie, and behind what protects them.

Entries of archives get their right sums, a header its right length, a checkpoint is written anew around other values.
"""

import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from emonet_scratch.cli import main as emonet
from emonet_scratch.data.cifar10 import read_cifar10
from emonet_scratch.data.clips import collect
from emonet_scratch.data.opensmile import read_arff, read_csv
from emonet_scratch.data.video import FrameCache
from emonet_scratch.files import write_tensors
from emonet_scratch.weights import LEGACY_MAGIC, LEGACY_PROTOCOL
from tests.fuzz.child import answer
from tests.fuzz.honest import SEARCH

# ---- bytes ----

EXTREMES = (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = st.one_of(st.integers(-2, 70), st.sampled_from(EXTREMES))
#: What stands in for a value of JSON, as text: `json` writes neither of the last two.
LEAVES = ["null", "-1", "0", "1", "1.5", "1e999", "NaN", str(10**30), str(2**62), '"x"', '""', "true", "[]", "{}", "[[1]]",
          '"\\u001b[31m"', '"\\ud800"', '{"a": 1}', "[" * 2000 + "]" * 2000, "9" * 5000]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The bytes with up to four places changed."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at, n = draw(st.integers(0, len(data))), draw(st.sampled_from([1, 2, 4, 8, 64, 1000]))
        kind = draw(st.sampled_from(["byte", "number", "number", "cut", "drop", "double", "zero", "noise", "text"]))
        if kind == "byte":
            data[at:at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            form = draw(st.sampled_from(["<H", "<I", "<Q", ">H", ">I", ">Q"]))
            size = struct.calcsize(form)
            data[at:at + size] = struct.pack(form, draw(st.sampled_from(EXTREMES)) % 256**size)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at:at + n]
        elif kind == "double":
            data[at:at] = data[at:at + n]
        elif kind == "zero":
            data[at:at + n] = bytes(n)
        elif kind == "noise":
            data[at:at + n] = np.random.default_rng(draw(st.integers(0, 99))).bytes(n)
        else:
            data[at:at] = draw(st.sampled_from([b"\n", b"\0", b"\x1b]0;x\7", b"\xff\xfe", b"'", b'"', b"{", b"[" * 3000]))
    return bytes(data)


# ---- pickles ----

NAMES = ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
         "torch._utils _rebuild_parameter", "torch FloatStorage", "torch BFloat16Storage", "torch.storage UntypedStorage",
         "torch Size", "torch uint16", "torch float8_e5m2", "numpy ndarray", "numpy dtype", "_codecs encode",
         "numpy.core.multiarray _reconstruct", "os system", "builtins eval", "torch nn"]


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


@st.composite
def tensors(draw) -> bytes:
    """The opcodes of one tensor, as torch.save has them, with numbers that may not fit."""
    def ints(values: list[int]) -> bytes:
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"
    count = draw(st.one_of(st.just(6), NUMBERS))
    size = draw(st.one_of(st.just([2, 3]), st.lists(NUMBERS, max_size=4)))
    stride = draw(st.one_of(st.just([3, 1]), st.lists(NUMBERS, min_size=len(size), max_size=len(size))))
    kind = draw(st.sampled_from(["FloatStorage", "LongStorage", "UntypedStorage"]))
    storage = b"(" + _text("storage") + f"ctorch\n{kind}\n".encode() + _text(draw(st.sampled_from("01"))) + _text("cpu")
    storage += pickle.dumps(count, 2)[2:-1] + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + pickle.dumps(draw(st.one_of(st.just(0), NUMBERS)), 2)[2:-1]
            + ints(size) + ints(stride) + b"\x89" + b"ccollections\nOrderedDict\n)RtR")


OPCODES = st.one_of(
    st.sampled_from([b"(", b"t", b"\x85", b"\x86", b"\x87", b"l", b"d", b"]", b"}", b")", b"a", b"e", b"s", b"u", b"R", b"b",
                     b"\x81", b"Q", b"0", b"1", b"2", b"N", b"\x88", b"\x94", b"\x8f", b"\x90", b"\x91", b"\x93", b"K\5"]),
    st.sampled_from(NAMES).map(lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from(EXTREMES).map(lambda n: b"r" + struct.pack("<I", n % 2**32)),                # LONG_BINPUT
    st.integers(0, 3).map(lambda n: b"h" + bytes([n])),                                         # BINGET
    st.integers(0, 3).map(lambda n: b"q" + bytes([n])),                                         # BINPUT
    st.sampled_from(EXTREMES).map(lambda n: b"\x8b" + struct.pack("<I", n % 2**32) + b"\1" * 9),  # LONG4
    st.sampled_from(EXTREMES).map(lambda n: b"\x8d" + struct.pack("<Q", n % 2**64) + b"abc"),   # BINUNICODE8
    st.sampled_from(EXTREMES).map(lambda n: b"\x8e" + struct.pack("<Q", n % 2**64) + b"abc"),   # BINBYTES8
    st.sampled_from(EXTREMES).map(lambda n: b"\x95" + struct.pack("<Q", n % 2**64)),            # FRAME
    st.sampled_from(EXTREMES).map(lambda n: b"I" + str(n * 10**9).encode() + b"\n"),
    st.sampled_from(["weight", "conv1.weight", "data", "labels", ""]).map(_text))


@st.composite
def programs(draw) -> bytes:
    """A pickle: opcodes in any order, some many times, tensors among them; or a dictionary of tensors, or one changed."""
    if draw(st.booleans()):
        often = st.sampled_from([1, 1, 1, 1, 2, 50, 20_000])
        parts = draw(st.lists(st.tuples(st.one_of(OPCODES, tensors()), often), max_size=12))
        return b"\x80\2" + b"".join(op * (times if len(op) < 30 else min(times, 50)) for op, times in parts) + b"."
    known = st.sampled_from(["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "linear.weight"])
    names = draw(st.lists(known, max_size=4))
    whole = b"\x80\2}(" + b"".join(_text(name) + draw(tensors()) for name in names) + b"u."
    return draw(damaged(whole)) if draw(st.booleans()) else whole


def legacy(program: bytes, keys: list[str], storages: bytes) -> bytes:
    """What torch.save wrote before version 1.6."""
    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True, "type_sizes": {}}
    return b"".join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, system)) + program \
        + pickle.dumps(keys, 2) + storages


#: One tensor, as PyTorch before 1.6 wrote it.
TORCH = legacy(b"\x80\2}(" + _text("conv1.weight") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + _text("storage")
               + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\6tQK\0K\2K\3\x86K\3K\1\x86\x89"
               + b"ccollections\nOrderedDict\n)RtRu.", ["0"], struct.pack("<q", 6) + bytes(24))


@st.composite
def archives(draw, entries: dict[str, bytes]) -> bytes:
    """A zip file of these entries with right sums: some missing, twice, compressed, or behind another declared size."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")                                       # of names that are there twice
        for name, content in entries.items():
            for _ in range(draw(st.sampled_from([1, 1, 1, 1, 1, 0, 2]))):
                archive.writestr(zipfile.ZipInfo(name), content, draw(st.sampled_from([0, 0, 0, 8])))
    whole = out.getvalue()
    return draw(damaged(whole)) if draw(st.integers(0, 4)) == 0 else whole


# ---- kinds of input: each draws files by name, and has the work that reads them ----

class Case:
    """Files and what is to be done with them; `special` makes one of them no regular file."""

    def __init__(self, kind: str, files: dict[str, bytes], work: Callable[[], int], special: str = "") -> None:
        self.kind, self.files, self.work, self.special = kind, files, work, special

    def __repr__(self) -> str:
        return self.kind

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.special:
            path = folder / next(iter(self.files))
            path.unlink()
            if self.special == "pipe":
                os.mkfifo(path)
            elif self.special == "folder":
                path.mkdir()
            elif self.special == "holes":
                with open(path, "wb") as file:
                    file.write(next(iter(self.files.values())))
                    file.truncate(3 * 2**30)
            elif self.special != "nothing":
                path.symlink_to({"device": "/dev/zero", "loop": path.name}[self.special])


SPECIAL = st.sampled_from(["pipe", "folder", "holes", "device", "loop", "nothing"])


def torch_zip(entries: dict[str, bytes]) -> dict[str, bytes]:
    return {f"archive/{name}": content for name, content in entries.items()}


@st.composite
def weights(draw, base: dict[str, bytes]) -> Case:
    """Files of weights of all kinds, for import-weights."""
    kind = draw(st.sampled_from(["legacy", "zip", "safetensors", "bytes"]))
    if kind == "legacy":
        storages = st.sampled_from([b"", struct.pack("<q", 6) + bytes(24), struct.pack("<q", 2**62) + bytes(24)])
        content = legacy(draw(programs()), draw(st.lists(st.sampled_from("01"), max_size=2)), draw(storages))
    elif kind == "zip":
        content = draw(archives(torch_zip({
            "data.pkl": draw(programs()), "byteorder": draw(st.sampled_from([b"little", b"big", b"x" * 10**5])),
            "data/0": bytes(draw(st.sampled_from([24, 48, 0, 10**6]))), "data/1": bytes(24)})))
    elif kind == "safetensors":
        content = draw(safetensors())
    else:
        content = draw(damaged(draw(st.sampled_from([TORCH, base["trunk.safetensors"]]))))
    return Case(f"weights: {kind}", {"w.pt": content}, lambda: emonet(["import-weights", "w.pt", "--out", "o.safetensors"]))


@st.composite
def safetensors(draw) -> bytes:
    """A header of tensors that may overlap, reach beyond the end, or be of no type, with its length."""
    names = st.sampled_from(["features.conv.W", "dense.W", "conv1.weight", "a", "__metadata__", "\x1b[2J"])
    entry = st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "BF16", "F64", "U8", "F8_E5M2", "X", 1]),
                                   "shape": st.lists(NUMBERS, max_size=4),
                                   "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3)})
    head = json.dumps(draw(st.dictionaries(names, entry, max_size=4))).encode()
    head = draw(st.one_of(st.just(head), damaged(head)))
    length = draw(st.one_of(st.just(len(head)), st.sampled_from(EXTREMES)))
    return struct.pack("<Q", length % 2**64) + head + bytes(draw(st.sampled_from([0, 8, 24, 1000])))


@st.composite
def pictures(draw) -> bytes:
    """A picture as its name says, or of a format that asks for programs, or with a size of its own."""
    form = draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"]))
    size = draw(st.sampled_from([32, 32, 31, 3000]))
    out = io.BytesIO()
    Image.new("RGB", (size, size)).save(out, form)
    if draw(st.integers(0, 3)) == 0:
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    return draw(damaged(out.getvalue())) if draw(st.booleans()) else out.getvalue()


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """A .npy file, with another shape in its header."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array) | (
        {} if shape is None else {"shape": shape}))
    return out.getvalue() + array.tobytes()


@st.composite
def packs(draw) -> Case:
    """CIFAR-10 in all its forms, and packs of pictures."""
    kind = draw(st.sampled_from(["npz", "tar", "pickle", "folder"]))
    if kind == "npz":
        jpegs = draw(st.lists(pictures(), max_size=3))
        offsets = np.cumsum([0, *map(len, jpegs)])
        if draw(st.booleans()) and len(offsets) > 1:
            offsets[draw(st.integers(0, len(offsets) - 1))] = draw(st.sampled_from([-1, 0, 2**40, 5]))
        labels = np.array(draw(st.lists(st.one_of(st.integers(0, 9), st.sampled_from([-5, 99, np.nan, 2**62])),
                                        min_size=len(jpegs), max_size=len(jpegs))))
        shape = draw(st.sampled_from([None, None, None, (10**10,), (3, 3), (2**62, 4)]))
        parts = {"test_jpeg": np.frombuffer(b"".join(jpegs), np.uint8), "test_offsets": offsets, "test_labels": labels}
        content, name = draw(archives({f"{part}.npy": npy(a, shape) for part, a in parts.items()})), "p.npz"
    elif kind == "folder":
        return Case("packs: folder", {"cifar/test/airplane/a.png": draw(pictures())},
                    lambda: answer(lambda: read_cifar10("cifar", "test")))
    else:
        batch = draw(programs()) if kind == "pickle" else draw(damaged(pickle.dumps(
            {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3]}, 2)))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for entry in ["test_batch", "../../escaped"]:
                info = tarfile.TarInfo(f"cifar-10-batches-py/{entry}")
                info.size = len(batch)
                others = [tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
                info.type = draw(st.sampled_from([tarfile.REGTYPE] * 5 + others))
                tar.addfile(info, io.BytesIO(batch))
        raw = draw(damaged(out.getvalue())) if draw(st.integers(0, 3)) == 0 else out.getvalue()
        content, name = gzip.compress(raw, 1, mtime=0), "p.tar.gz"
    return Case(f"packs: {kind}", {name: content}, lambda: answer(lambda: read_cifar10(name, "test")))


ARFF = ["@relation r", "@attribute name string", "@attribute f1 numeric", "@attribute 'f 2' real",
        "@attribute class {a,'b c'}", "@attribute x", "@data", "@DATA", "'a',1,2,a", "b,?,1e999,'b c'", "b,1_0,nan,x",
        "{0 a, 1 2}", "% comment", "", "'open", '"x""y",1,2,a', "\\'", "name;frameTime;f1", "a;0.0;1", "a,b,c,class",
        "x" * 100_000, "1," * 50_000, "'" * 30_000, "@attribute " + "x" * 50_000, "\x1b[31m,1,2,a", "\0", "\ufeff"]


@st.composite
def tables(draw) -> Case:
    """Feature files: lines of ARFF and CSV in any order, some many times, or an honest file with changes."""
    name, read = draw(st.sampled_from([("t.arff", read_arff), ("t.csv", read_csv)]))
    if draw(st.booleans()):
        lines = draw(st.lists(st.tuples(st.sampled_from(ARFF), st.sampled_from([1, 1, 1, 1, 300])), max_size=10))
        content = "\n".join(line for line, times in lines for _ in range(times)).encode()
    else:
        honest = "\n".join([*ARFF[:5], "@data", "'a',1,2,a", "'b',3,4,'b c'", ""]).encode()
        content = draw(damaged(honest if name == "t.arff" else b"name;frameTime;f1;f2\n'a';0;1;2\n'b';0;3;4\n"))
    return Case("tables", {name: content}, lambda: answer(lambda: read(name)))


CELLS = ["a.wav", "b.wav", "sub/c.wav", "./a.wav", "../case/b.wav", "sub", ".", "..", "/", "gone.wav", "", " ", "Angry",
         "sad", "joy", "Грусть", "e\u0301", "é", "train", "Val", "test", "dev", "train_val", "ann", "v.arff", "t.csv",
         "path", "label", "\x1b[31m", "\0", "\x85", "\u2028", "\ufeff", "x" * 300, "x/" * 3000, "y" * 200_000, '"', '"a',
         '"a"b', '"a, b"', '"a\nb"', "a,b", "'", "{label}", "=1+1", "-", "*", "~"]
CHANGES = ["joy=sad", "-joy", "joy=, -", "-Angry, joy=Грусть", "a=b=c", "=", "é=x, e\u0301=y", "\x1b=\0", "x" * 5000]


@st.composite
def clip_tables(draw) -> Case:
    """clips.csv: an honest one with other cells, columns and rows, of any encoding and ends of lines, or with damage."""
    head = ["path", "label", "split", "group", "features"]
    rows = [["a.wav", "joy", "train", "ann", "v.arff"], ["b.wav", "sad", "val", "bob", ""], ["sub/c.wav", "joy", *"   "]]
    usual = st.sampled_from([1] * 20 + [0, 5])
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from([*rows * 3, head]))
        at = draw(st.integers(0, max(0, len(row) - 1)))
        row[at:at + draw(usual)] = [draw(st.sampled_from(CELLS))] * draw(usual)
    rows = draw(st.permutations([head[:], *rows])) if draw(st.integers(0, 20)) == 7 else [head[:], *rows]
    order = draw(st.permutations(range(5)))
    separator, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\r", "\n \n"]))
    text = end.join(separator.join(row[k] for k in order if k < len(row)) for row in rows) + end
    text *= draw(st.sampled_from([1] * 10 + [2, 300]))
    content = text.encode(draw(st.sampled_from(["utf-8"] * 10 + ["utf-8-sig"] * 3 + ["cp1252", "utf-16"])), "replace")
    content = draw(damaged(content)) if draw(st.integers(0, 2)) == 0 else content
    files = {"t.csv": content, "a.wav": b"x", "b.wav": b"x", "sub/c.wav": b"x", "v.arff": "\n".join(ARFF[:7]).encode()}
    changes = draw(st.sampled_from(CHANGES)) if draw(st.integers(0, 2)) == 0 else ""
    if draw(st.booleans()):
        return Case("tables of clips: doctor", files, lambda: emonet(["doctor", "t.csv", f"--labels={changes}"]))
    return Case("tables of clips: collect", files, lambda: answer(lambda: collect(["t.csv"], changes)))


def leaves(text: bytes) -> list[tuple[int, int]]:
    """Where the values of a JSON text lie."""
    value = rb'"(?:[^"\\]|\\.)*"|-?[\d.]+(?:e[+-]?\d+)?|true|false|null|\[\]|\{\}'
    return [match.span(1) for match in re.finditer(rb'[:\[,]\s*(' + value + rb')(?=\s*[,\]}])', text)]


@st.composite
def json_changed(draw, text: bytes) -> bytes:
    """A JSON text with other values in up to three places; or with changes anywhere."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged(text))
    for _ in range(draw(st.integers(1, 3))):
        start, end = draw(st.sampled_from(leaves(text) or [(0, len(text))]))
        text = text[:start] + draw(st.sampled_from(LEAVES)).encode() + text[end:]
    return text


@st.composite
def states(draw, base: dict[str, bytes]) -> Case:
    """A run that was interrupted, with damage: it is gone on with, predicts, or is compared."""
    files = {name: content for name, content in base.items() if name.startswith(("run/", "data/"))}
    name = draw(st.sampled_from(["run/config.json", "run/audio/metrics.jsonl", "run/audio/last.safetensors"]))
    work = draw(st.sampled_from([["train", "--resume", "run", "--device", "cpu"], ["predict", "--checkpoint", "run/audio",
                                 "--features", "data", "data/Test_AFEW/000000001.avi", "--device", "cpu"]]))
    if name.endswith(".safetensors") and draw(st.booleans()):
        arrays, meta = base["arrays"], draw(json_changed(base["meta"]))
        with tempfile.TemporaryDirectory() as folder:
            write_tensors(Path(folder) / "x", arrays, {"emonet": meta.decode("utf-8", "replace")})
            content = (Path(folder) / "x").read_bytes()
    else:
        change = damaged if name.endswith(".safetensors") else json_changed
        content = draw(change(files[name]))
    return Case(f"states: {Path(name).name} to {work[0]}", {name: content} | {n: c for n, c in files.items() if n != name},
                lambda: emonet(work))


@st.composite
def journals(draw, base: dict[str, bytes]) -> Case:
    """What a stopped extraction, or a study, left."""
    if draw(st.booleans()):
        content = draw(st.one_of(json_changed(base["partial"]), st.just(base["partial"] + bytes(99)), st.just(b"my notes")))
        return Case("journals: features", {"v.csv.partial": content, "a.wav": base["a.wav"]},
                    lambda: emonet(["features", "a.wav", "--out", "v.csv", "--extractor", "emonet-1", "--workers", "1"]))
    content = draw(json_changed(base["search/study.journal"]))
    files = {name: c for name, c in base.items() if name.startswith("data/")}
    return Case("journals: study", {"search/study.journal": content} | files, lambda: emonet([*SEARCH, "--device", "cpu"]))


@st.composite
def clips(draw, base: dict[str, bytes]) -> Case:
    """Clips and sounds, to predict, or to be examined."""
    name = draw(st.sampled_from(["a.avi", "a.mp4", "a.mkv", "a.wav"]))
    content = draw(damaged(base[name]))
    if draw(st.booleans()):
        return Case("clips: features", {name: content}, lambda: emonet(
            ["features", name, "--out", "v.csv", "--extractor", "emonet-1", "--workers", "1"]))
    return Case("clips: doctor", {f"d/Train/Happy/{name}": content}, lambda: emonet(["doctor", "d"]))


@st.composite
def cached(draw, base: dict[str, bytes]) -> Case:
    """Entries of the frame cache, with the sum of what is in them."""
    array = np.zeros((2, 4, 4, 3), np.uint8)
    shape = draw(st.sampled_from([None, (10**9, 4, 4, 3), (1, 1, 1, 1), (2**62,), (-1,)]))
    kind = draw(st.sampled_from(["u1", "f8", "O", "M8[s]", "U5"]))
    whole = npy(np.zeros((2, 4, 4, 3), "u1" if kind == "O" else kind), shape)
    whole = whole.replace(b"|u1", b"|O ") if kind == "O" else whole
    whole = draw(damaged(whole)) if draw(st.booleans()) else whole
    content = whole + zlib.crc32(whole).to_bytes(4, "little")

    def read() -> None:
        cache = FrameCache("c")
        found = cache.load("k", (4, 4, 3))
        if found is not None and found[:1].shape[1:] != (4, 4, 3):
            raise TypeError(f"another shape than was asked for: {found.shape}")
        cache.keep("k", array)[0].sum()
    return Case("cached", {"c/k.npy": content}, lambda: answer(read))


def cases(base: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """Any case."""
    kinds = [weights(base), packs(), tables(), clip_tables(), states(base), journals(base), clips(base), cached(base)]

    @st.composite
    def one(draw) -> Case:
        case = draw(st.sampled_from(kinds).flatmap(lambda kind: kind))
        if draw(st.integers(0, 30)) == 7:
            case.special = draw(SPECIAL)
            case.kind += f", {case.special}"
        return case
    return one()

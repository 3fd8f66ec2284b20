"""Files of weights: both kinds that torch.save writes, written here byte by byte, damaged ones, and malicious ones."""

import collections
import io
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from emonet_scratch.files import read_tensors
from emonet_scratch.models import ResNet
from emonet_scratch.weights import LEGACY_MAGIC, LEGACY_PROTOCOL, WeightsError, read_weights


class Storage:
    """What a pickler sees of a tensor's memory: its kind, its name in the file, and its numbers."""

    def __init__(self, kind, key, numbers):
        self.kind, self.key, self.numbers = kind, key, numbers


class Named:
    """Pickled as a call of module.name(*arguments), whatever that is."""

    def __init__(self, module, name, *arguments, state=None):
        self.call = module, name, arguments, state

    def __reduce__(self):
        module, name, arguments, state = self.call
        return (reference(module, name), arguments, state)[:3 if state is not None else 2]


def reference(module, name):
    """Something that pickle writes as module.name."""
    function = types.FunctionType((lambda *a: None).__code__, {}, name)
    function.__module__, function.__qualname__ = module, name
    parent = sys.modules.setdefault(module, types.ModuleType(module))
    if not hasattr(parent, name):
        setattr(parent, name, function)
    return getattr(parent, name)


@pytest.fixture(autouse=True)
def _no_stub_stays(monkeypatch):
    for module in ("torch", "torch._utils", "torch.storage"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))


def tensor(storage, size, stride, offset=0):
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, size, stride, False, collections.OrderedDict())


def pickled(value, protocol=2):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", reference(getattr(obj, "module", "torch"), obj.kind), obj.key, "cpu", len(obj.numbers))
            return None
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def zipped(path, value, storages=(), compression=zipfile.ZIP_STORED, order=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(value))
        archive.writestr("net/byteorder", order)
        for s in storages:
            archive.writestr(f"net/data/{s.key}", s.numbers.astype(s.numbers.dtype.newbyteorder(
                "<" if order == b"little" else ">")).tobytes())


def legacy(path, value, storages=()):
    with open(path, "wb") as file:
        for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}):
            file.write(pickle.dumps(part, 2))
        file.write(pickled(value))
        file.write(pickle.dumps([s.key for s in storages], 2))
        for s in storages:
            file.write(len(s.numbers).to_bytes(8, "little") + s.numbers.tobytes())


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("kind, dtype", [("FloatStorage", "f4"), ("DoubleStorage", "f8"), ("HalfStorage", "f2"),
                                         ("LongStorage", "i8"), ("ByteStorage", "u1"), ("BoolStorage", "?")])
def test_tensors_of_every_kind_and_stride(tmp_path, write, kind, dtype):
    numbers = (np.arange(24) % 7).astype(dtype)
    s, path = Storage(kind, "0", numbers), tmp_path / "w.pt"
    write(path, {"epoch": 3, "state_dict": collections.OrderedDict(
        a=tensor(s, (2, 3), (3, 1), 6), t=tensor(s, (3, 2), (1, 3)), scalar=tensor(s, (), (), 5),
        none=tensor(s, (0, 4), (4, 1)),
        p=Named("torch._utils", "_rebuild_parameter", tensor(s, (24,), (1,)), True, collections.OrderedDict()))}, [s])
    w = read_weights(path)
    assert sorted(w) == ["state_dict.a", "state_dict.none", "state_dict.p", "state_dict.scalar", "state_dict.t"]
    np.testing.assert_array_equal(w["state_dict.a"], numbers[6:12].reshape(2, 3))
    np.testing.assert_array_equal(w["state_dict.t"], numbers[:6].reshape(2, 3).T)
    assert w["state_dict.scalar"] == numbers[5] and w["state_dict.none"].shape == (0, 4)
    assert all(a.dtype == dtype for a in w.values())


def test_bfloat16_and_the_other_byte_order(tmp_path):
    s = Storage("BFloat16Storage", "0", np.array([0x3F80, 0xC040], np.uint16))
    for write in (zipped, legacy):
        write(tmp_path / "b.pt", {"b": tensor(s, (2,), (1,))}, [s])
        np.testing.assert_array_equal(read_weights(tmp_path / "b.pt")["b"], np.float32([1, -3]))
    f = Storage("FloatStorage", "0", np.float32([1, 2, 3]))
    zipped(tmp_path / "big.pt", {"f": tensor(f, (3,), (1,))}, [f], order=b"big")
    np.testing.assert_array_equal(read_weights(tmp_path / "big.pt")["f"], f.numbers)


def test_safetensors(tmp_path):
    save_file({"a": np.float32([1, 2])}, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(read_weights(tmp_path / "w.safetensors")["a"], [1, 2])


S = Storage("FloatStorage", "0", np.zeros(4, np.float32))
ATTACKS = {
    "os.system": Named("posix", "system", "touch owned"),
    "eval": Named("builtins", "eval", "open('owned', 'w')"),
    "exec": Named("builtins", "exec", "open('owned', 'w')"),
    "getattr": Named("builtins", "getattr", "x", "format"),
    "import": Named("builtins", "__import__", "os"),
    "popen": Named("subprocess", "Popen", ["touch", "owned"]),
    "a module of ours": Named("emonet_scratch.files", "write_whole", "owned", b"x"),
    "torch.load": Named("torch", "load", "other.pt"),
    "hidden in a tensor": tensor(Named("posix", "system", "touch owned"), (1,), (1,)),
    "numpy": Named("numpy", "load", "owned.npy"),
    "attributes of a call": Named("torch._utils", "_rebuild_parameter", Named("torch", "Size", [1]), state={"x": 1}),
    "beyond the storage": tensor(S, (5,), (1,)),
    "before the storage": tensor(S, (2,), (1,), -1),
    "backwards": tensor(S, (2,), (-1,), 3),
    "a stride that leaves it": tensor(S, (2, 2), (3, 1)),
    "expanded a thousand times": tensor(S, (1 << 30,), (0,)),
    "sizes that are no numbers": tensor(S, ("2",), (1,)),
    "a tensor of no storage": tensor("text", (1,), (1,)),
}


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_no_tensor_is_refused_and_not_run(tmp_path, monkeypatch, write, attack):
    monkeypatch.chdir(tmp_path)
    write("bad.pt", {"state_dict": {"w": ATTACKS[attack]}}, [S])
    with pytest.raises(WeightsError, match=r"^'bad\.pt' holds no weights that can be read: ") as caught:
        read_weights("bad.pt")
    assert "\n" not in str(caught.value) and os.listdir() == ["bad.pt"]


def test_a_file_cannot_change_what_the_next_one_meets(tmp_path):
    """BUILD sets attributes on what find_class gave; that must die with the file."""
    evil = collections.OrderedDict(a=1)
    evil.__dict__["update"] = "gone"
    legacy(tmp_path / "evil.pt", {"x": evil, "w": tensor(S, (4,), (1,))}, [S])
    assert list(read_weights(tmp_path / "evil.pt")) == ["w"]
    legacy(tmp_path / "good.pt", {"w": tensor(S, (4,), (1,))}, [S])
    assert list(read_weights(tmp_path / "good.pt")) == ["w"]


def test_compressed_short_and_foreign_storages_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    zipped(path, {"w": tensor(S, (4,), (1,))}, [S], zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="net/byteorder is compressed, or of more than 16 bytes"):
        read_weights(path)
    zipped(path, {"w": tensor(S, (4,), (1,))}, [Storage("FloatStorage", "0", S.numbers[:3])])
    with pytest.raises(WeightsError, match="storage 0 has 12 bytes, expected 4 numbers of FloatStorage"):
        read_weights(path)
    zipped(path, {"w": tensor(S, (4,), (1,))})
    with pytest.raises(WeightsError, match="net/data/0"):
        read_weights(path)


def test_every_damaged_file_is_one_line(tmp_path):
    good = tmp_path / "good.pt"
    for write in (zipped, legacy):
        write(good, {"w": tensor(S, (4,), (1,))}, [S])
        content = good.read_bytes()
        for cut in range(0, len(content), 7):
            (tmp_path / "cut.pt").write_bytes(content[:cut])
            with pytest.raises(WeightsError, match=r"cut\.pt") as caught:
                read_weights(tmp_path / "cut.pt")
            assert "\n" not in str(caught.value)
    for foreign in (b"no weights", pickle.dumps([1, 2]), b"PK\x03\x04"):
        good.write_bytes(foreign)
        with pytest.raises(WeightsError, match="holds no weights that can be read"):
            read_weights(good)
    os.mkfifo(tmp_path / "pipe.pt")
    good.write_bytes(b"")
    for path, reason in [("missing.pt", "no such file"), (".", "a regular file, got a directory"), ("good.pt", "is empty"),
                         ("pipe.pt", "a regular file, got a device or pipe")]:
        with pytest.raises(WeightsError, match=reason):
            read_weights(tmp_path / path)


TORCH_NAMES = [("features.", ""), ("stage", "layer"), ("body.", ""), ("gamma", "weight"), ("beta", "bias"),
               ("shortcut.conv", "downsample.0"), ("shortcut.bn", "downsample.1"), ("dense.W", "fc.weight"),
               ("dense.b", "fc.bias"), (".W", ".weight")]


def as_torch(model):
    state = {}
    for name, a in model.state_dict().items():
        for ours, theirs in TORCH_NAMES:
            name = name.replace(ours, theirs)
        if name in ("conv.weight",) or name.startswith("bn."):
            name = name.replace("conv.", "conv1.").replace("bn.", "bn1.")
        state[name] = np.ascontiguousarray(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T)
    return state


@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module."])
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_a_resnet_comes_back(tmp_path, prefix, shortcut):
    model = ResNet(14, num_classes=7, width=8, shortcut=shortcut, rng=np.random.default_rng(0)).eval()
    state = as_torch(model) | {"bn1.num_batches_tracked": np.int64(5)}
    save_file({prefix + name: np.asarray(a) for name, a in state.items()}, tmp_path / "w.safetensors")
    other = ResNet.from_torch(tmp_path / "w.safetensors").eval()
    x = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(other.forward(x)[0], model.forward(x)[0])


def test_another_network_is_refused(tmp_path):
    path, state = tmp_path / "w.safetensors", as_torch(ResNet(8))
    for change, reason in [
            ({"layer4.0.conv1.weight": np.zeros((3, 3, 3, 3), np.float32)}, "layer4.0.conv1.weight is no part of a CIFAR"),
            ({"fc.weight": None}, "it has no classifier"), ({"conv1.weight": None}, "is no part of a CIFAR ResNet"),
            ({"fc.bias": None}, "fits no ResNet-8: .*dense.b"),
            ({"layer2.0.bn1.weight": np.zeros(5, np.float32)}, "fits no ResNet-8: .*shape")]:
        save_file({k: v for k, v in (state | change).items() if v is not None}, path)
        with pytest.raises(WeightsError, match=reason):
            ResNet.from_torch(path)


def test_the_published_resnet20(real_data):
    """Krizhevsky's first 932 test images: as many right, and the same logits, as the weights gave in PyTorch."""
    folder = real_data / "cifar10"
    images = np.load(folder / "cifar10_test_lossless_first.npz")
    expected = np.load(folder / "torch_ref_logits_lossless932.npz")["logits"]
    x = (images["images"] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    logits, _ = ResNet.from_torch(folder / "resnet20-12fca82f.th").eval().forward(x.astype(np.float32))
    assert (logits.argmax(axis=1) == images["labels"]).sum() == 854
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def safetensors(path, **tensors):
    """A safetensors file of (type, shape, bytes) by name, written byte by byte."""
    head, body = {"__metadata__": {"by": "hand"}}, b""
    for name, (kind, shape, raw) in tensors.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_bfloat16_of_safetensors_is_float32(tmp_path):
    """1, -2.5, 3, the smallest subnormal, -inf and a NaN by their 16 bits (IEEE 754 binary32, upper half)."""
    raw = np.array([0x3F80, 0xC020, 0x4040, 0x0001, 0xFF80, 0x7FC0], "<u2").tobytes()
    path = safetensors(tmp_path / "x.safetensors", a=("BF16", [2, 3], raw), b=("F32", [1], np.float32([7]).tobytes()),
                       empty=("BF16", [0, 4], b""), one=("BF16", [], raw[:2]))
    found = read_weights(path)
    np.testing.assert_array_equal(found["a"], np.array([[1, -2.5, 3], [2.0**-133, -np.inf, np.nan]], np.float32))
    assert found["one"] == 1 and found["empty"].shape == (0, 4) and found["b"].tolist() == [7]
    assert {a.dtype for a in found.values()} == {np.dtype(np.float32)} and read_tensors(path)[1] == {"by": "hand"}


@pytest.mark.parametrize(("kind", "dtype"), [
    ("F64", "f8"), ("F32", "f4"), ("F16", "f2"), ("I64", "i8"), ("I32", "i4"), ("I16", "i2"), ("I8", "i1"), ("U64", "u8"),
    ("U32", "u4"), ("U16", "u2"), ("U8", "u1"), ("BOOL", "?")])
def test_every_type_of_safetensors_that_numpy_has(tmp_path, kind, dtype):
    values = np.array([0, 1, 1], dtype)
    found = read_weights(safetensors(tmp_path / "x.safetensors", a=(kind, [3], values.tobytes())))["a"]
    assert found.dtype == values.dtype and found.tolist() == values.tolist()


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_a_type_that_numpy_lacks_is_named_with_its_tensor(tmp_path, kind):
    path = safetensors(tmp_path / "x.safetensors", fine=("F32", [1], bytes(4)), odd=(kind, [1], b"8"))
    with pytest.raises(WeightsError, match=rf"x\.safetensors.*tensor 'odd' is of type {kind}.*save it as float32"):
        read_weights(path)


@pytest.mark.parametrize("write", [zipped, legacy])
def test_types_without_a_storage_of_their_own(tmp_path, write):
    """uint16 to uint64 are views of bytes; complex numbers have storages; of float8 NumPy knows nothing."""
    wide = np.array([1, 2**40], "u8")
    bytes_ = Storage("UntypedStorage", "0", wide.view("u1"))
    bytes_.module = "torch.storage"
    z = np.array([1 + 2j, 3j], "c8")
    value = {"u": untyped(bytes_, (2,), (1,), "uint64"), "z": tensor(Storage("ComplexFloatStorage", "1", z), (2,), (1,))}
    write(tmp_path / "x.pt", value, [bytes_, Storage("ComplexFloatStorage", "1", z)])
    found = read_weights(tmp_path / "x.pt")
    assert found["u"].tolist() == [1, 2**40] and found["z"].tolist() == [1 + 2j, 3j]
    write(tmp_path / "y.pt", {"f": untyped(bytes_, (16,), (1,), "float8_e4m3fn")}, [bytes_])
    with pytest.raises(WeightsError, match=r"y\.pt.*numbers of type float8_e4m3fn, which NumPy does not have"):
        read_weights(tmp_path / "y.pt")
    for odd in ("O", 7):
        write(tmp_path / "z.pt", {"f": untyped(bytes_, (2,), (1,), odd)}, [bytes_])
        with pytest.raises(WeightsError):
            read_weights(tmp_path / "z.pt")


def untyped(storage, size, stride, dtype):
    dtype = reference("torch", dtype) if isinstance(dtype, str) and len(dtype) > 1 else dtype
    hooks = collections.OrderedDict()
    return Named("torch._utils", "_rebuild_tensor_v3", storage, 0, size, stride, False, hooks, dtype, None)


def legacy_object(path, code):
    """A legacy file with this program in the object's place."""
    head = b"".join(pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}))
    path.write_bytes(head + code + b"\x80\x02]q\x00.")


BIG = b"\x80\x02](" + b"N" * 5000 + b"eq\x00"                                   # a list of 5,000 under memo 0
HOSTILE = {
    "a key of nested tuples": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a key of 2^40 references": b"\x80\x02})" + b"2\x86" * 40 + b"Ns.",
    "keys that collide": b"\x80\x02}\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x1f\x00Ns.",
    "dictionaries that are nested too deeply": b"\x80\x02" + b"}U\x01a" * 1500 + b"N" + b"s" * 1500 + b".",
    "a dictionary that contains itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "2^40 references": b"\x80\x02}q\x00" + b"".join(b"}(U\x01ah%cU\x01bh%cuq%c" % (k, k, k + 1) for k in range(40)) + b".",
    "a memo of 2^32": b"\x80\x02}r\xff\xff\xff\xff.",
    "a long integer": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"1" * 50 + b".",
    "gigabytes declared": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",
    "too many operations": b"\x80\x02" + b"N0" * 2**19 + b"N.",
    "a long list, copied again and again": BIG + b"(ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R0" * 2000 + b".",
    "a class": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_cannot_take_time_or_memory(tmp_path, name):
    legacy_object(tmp_path / "x.pt", HOSTILE[name])
    if name == "a memo of 2^32":
        assert read_weights(tmp_path / "x.pt") == {}
        return
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / "x.pt")
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_a_storage_that_never_comes_is_no_tensor(tmp_path):
    legacy(tmp_path / "x.pt", {"w": tensor(S, (4,), (1,))})
    with pytest.raises(WeightsError, match="storage 0 is not in it"):
        read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_storage_is_read_once(tmp_path, write):
    s = Storage("FloatStorage", "0", np.arange(1000, dtype=np.float32))
    write(tmp_path / "x.pt", {f"v{k}": tensor(s, (1000 - k,), (1,), k) for k in range(100)}, [s])
    found = read_weights(tmp_path / "x.pt")
    assert len(found) == 100 and all(np.shares_memory(a, found["v0"]) for a in found.values())


def test_storages_are_no_larger_than_the_file(tmp_path):
    s = Storage("FloatStorage", "0", np.empty(10**9, np.uint8)[:0].view(np.float32))
    class Long:
        def __len__(self):
            return 2**40
    s.numbers = Long()
    legacy(tmp_path / "x.pt", {"w": tensor(s, (4,), (1,))})
    with pytest.raises(WeightsError, match="more numbers than the file has bytes for"):
        read_weights(tmp_path / "x.pt")


def test_what_is_declared_is_compared_with_what_is_there(tmp_path):
    """Width 3,000 and 10,000 blocks of tensors without numbers; holes; views that one storage lends to all."""
    path, state = tmp_path / "w.safetensors", as_torch(ResNet(8))
    wide = {name: np.zeros((*a.shape[:-1], 0), np.float32) for name, a in state.items()}
    wide |= {"conv1.weight": np.zeros((3000, 3, 3, 3), np.float32), "fc.weight": np.zeros((10, 0), np.float32)}
    save_file(wide, path)
    with pytest.raises(WeightsError, match="declares is larger than what it holds"):
        ResNet.from_torch(path)
    save_file(state | {f"layer1.{k}.conv1.weight": np.zeros((0,), np.float32) for k in range(10_000)}, path)
    with pytest.raises(WeightsError, match="declares is larger than what it holds"):
        ResNet.from_torch(path)
    safetensors(path, a=("F32", [2**27], b""))
    with pytest.raises(WeightsError, match="damaged, or no safetensors file"):
        read_weights(path)
    os.truncate(path, 2**29)
    with pytest.raises(WeightsError, match="are holes"):
        read_weights(path)
    os.truncate(path, 2**29 + 1)
    with pytest.raises(WeightsError, match="expected at most 536,870,912 bytes"):
        read_weights(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path, bad):
    state = as_torch(ResNet(8))
    state["layer2.0.conv1.weight"].flat[3] = bad
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'layer2\.0\.conv1\.weight' holds numbers that are not finite"):
        ResNet.from_torch(tmp_path / "w.safetensors")

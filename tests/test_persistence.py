"""save and load: exact, atomic, without pickle, and clear about files that are something else."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from forks import exit_code, fork

import fastbp
from fastbp import MLP, persistence
from fastbp.replacing import replacing

pytestmark = pytest.mark.usefixtures("backend")

VERSION_1 = Path(__file__).parent / "files" / "version_1.npz"  # which held all parameters as one vector

X = np.random.default_rng(0).normal(size=(20, 3))
LABELS = np.arange(20) % 2


@pytest.fixture
def saved(tmp_path):
    """A file and the network in it."""
    net = MLP([3, 5, 2], activation="tanh", dtype="float64", seed=7, init="he")
    net.fit(X, LABELS, epochs=2, progress=False)
    path = tmp_path / "net.npz"
    net.save(path)
    return path, net


def rewrite(path, change=lambda header: None, **arrays):
    """Change the header of a saved network, and replace arrays."""
    with np.load(path, allow_pickle=True) as archive:
        kept = dict(archive)
    header = json.loads(str(kept["header"]))
    change(header)
    kept["header"] = np.array(json.dumps(header))
    with open(path, "wb") as file:
        np.savez(file, **(kept | arrays))


@pytest.mark.parametrize("name", ["net", "net.npz", "net.safetensors", "NET.SAFETENSORS"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "poisson_deviance"])
def test_the_round_trip_is_exact(tmp_path, dtype, loss, name):
    net = MLP([3, 5, 4, 2], activation="gelu", loss=loss, dtype=dtype, seed=7, init="glorot")
    net.parameters[::3] = np.random.default_rng(1).normal(size=net.parameters[::3].shape)
    net.parameters[:3] = [np.nan, -np.inf, np.finfo(dtype).smallest_subnormal]
    net.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]  # the name as it is, and nothing else
    loaded = MLP.load(str(tmp_path / name))
    assert repr(loaded) == repr(net) and loaded.init == "glorot"
    assert loaded.parameters.tobytes() == net.parameters.tobytes()
    assert loaded.parameters.ctypes.data % 64 == 0


def test_training_goes_on_as_it_would_have(saved):
    path, net = saved
    loaded = MLP.load(path)
    assert (loaded.forward(X) == net.forward(X)).all()
    ours = net.fit(X, LABELS, epochs=3, batch_size=4, progress=False)
    assert loaded.fit(X, LABELS, epochs=3, batch_size=4, progress=False).loss == ours.loss
    assert (loaded.parameters == net.parameters).all()


def test_the_file_is_plain_arrays(saved):
    path, net = saved
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive) == ["biases.0", "biases.1", "header", "weights.0", "weights.1"]
        header = json.loads(str(archive["header"]))
        for layer in range(2):
            assert (archive[f"weights.{layer}"] == net.weights[layer]).all()
            assert (archive[f"biases.{layer}"] == net.biases[layer]).all()
    assert header["format"] == "fastbp.MLP" and header["format_version"] == 2
    assert header["fastbp_version"] == fastbp.__version__
    assert header["config"]["layer_sizes"] == [3, 5, 2] and header["config"]["activation"] == "tanh"
    assert "n_threads" not in header["config"]


def test_a_file_of_version_1():
    loaded = MLP.load(VERSION_1)
    assert (loaded.parameters == np.arange(26) / 8).all() and loaded.dtype == np.float32
    assert loaded.layer_sizes == (3, 4, 2) and loaded.activation == "tanh" and loaded.init == "he"
    with np.load(VERSION_1) as archive:
        state = json.loads(str(archive["header"]))["config"]["generator"]
    assert loaded._generator.bit_generator.state == state


def test_a_file_of_the_other_byte_order(saved):
    path, net = saved
    rewrite(path, **{"weights.0": net.weights[0].astype(net.dtype.newbyteorder("S"))})
    assert (MLP.load(path).parameters == net.parameters).all()


@pytest.mark.parametrize("fault", ["half of it", "not on the disk"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_saving_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch, suffix, fault):
    net = MLP([3, 5, 2], seed=7)
    path = tmp_path / f"net{suffix}"
    net.save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    def half(file, *_):
        file.write(b"half of it")
        fail()

    if fault == "half of it":
        monkeypatch.setattr(persistence, "_put_npz", half)
        monkeypatch.setattr(persistence, "_put_safetensors", half)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        net.save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from fastbp.replacing import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="locks that end with a process")
def test_what_a_killed_writer_left_is_removed(tmp_path):
    """By the next that writes the same file; not what is another's, or of one that is still writing."""
    root = Path(fastbp.__file__).parents[1]
    path, net = tmp_path / "net.npz", MLP([3, 2], seed=0)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, path], cwd=root, check=False, timeout=60)
    (left,) = tmp_path.iterdir()  # the second removed that of the first
    assert left.read_bytes() == b"half of it"
    others = [tmp_path / name for name in (".0123456789abcdef.tmp", f"{left.name}.npz", left.name.upper())]
    for other in others:
        other.write_bytes(b"mine")
    folder, link = (
        left.with_name(f"{left.name[:9]}{'0' * 16}.tmp"),
        left.with_name(f"{left.name[:9]}{'1' * 16}.tmp"),
    )
    folder.mkdir()
    link.symlink_to(others[0])
    net.save(tmp_path / "other.npz")
    assert left.exists()
    with replacing(path) as slow:
        assert not left.exists()
        (writing,) = {*tmp_path.glob(".*.tmp")} - {others[0], folder, link}
        net.save(path)
        assert writing.exists()
        slow.write(b"whole")
    assert path.read_bytes() == b"whole" and not writing.exists()
    assert all(other.read_bytes() == b"mine" for other in others) and folder.is_dir() and link.is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="file modes and links of POSIX")
def test_saving_to_a_link_and_with_the_ordinary_mode(saved, tmp_path):
    path, net = saved
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    link = tmp_path / "link"
    link.symlink_to(path)
    net.parameters[:] = 1
    net.save(link)
    assert link.is_symlink() and (MLP.load(path).parameters == 1).all()


def as_an_ordinary_user(check):
    """Whether check() holds; in a process that has given up its rights if this one has all of them, as root does."""
    if os.geteuid() != 0:
        return check()

    def checked():
        os.setgid(65534)
        os.setuid(65534)
        return check()

    return exit_code(fork(checked)) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="users and permissions of POSIX")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("protected", ["file", "folder", "file and folder", "nothing"])
def test_what_is_write_protected_stays(protected):
    net = MLP([3, 2], seed=0, n_threads=1)
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to other users
        path = Path(folder) / "net.npz"
        net.save(path)
        before = path.read_bytes()
        path.chmod(0o444 if "file" in protected else 0o666)
        Path(folder).chmod(0o555 if "folder" in protected else 0o777)
        net.parameters[:] = 1

        def refused():
            try:
                net.save(path)
            except PermissionError as error:
                return error.filename == os.fspath(path) and os.listdir(folder) == ["net.npz"]
            return False

        assert as_an_ordinary_user(refused) == (protected != "nothing")
        Path(folder).chmod(0o777)
        assert (path.read_bytes() == before) == (protected != "nothing")


# Files that are something else ------------------------------------------------------------------------------


def refused(path, *parts):
    with pytest.raises(ValueError, match=r"^path: ") as caught:
        MLP.load(path)
    for part in (repr(os.fspath(path)), "expected ", *parts):
        assert part in str(caught.value)
    return str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        MLP.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        MLP([3, 2]).save(tmp_path / "no such folder" / "net")


def test_other_files(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (os.fspath(tmp_path / "sprung"),)

    path = tmp_path / "file"
    for content in (b"", b"some text", b"PK\x03\x04 and no more", pickle.dumps(Trap())):
        path.write_bytes(content)
        refused(path, "something else, or a damaged file")
    np.save(path.with_suffix(".npy"), X)
    refused(path.with_suffix(".npy"), "something else")
    np.savez(path, header=np.array(Trap(), dtype=object), parameters=X)
    refused(path.with_suffix(".npz"), "something else")
    np.savez(path, images=X)
    refused(path.with_suffix(".npz"), "something else")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header", "{}")
    refused(path, "something else")
    assert not (tmp_path / "sprung").exists()


def test_damaged_files(saved):
    path, _ = saved
    content = path.read_bytes()
    for length in (10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "something else, or a damaged file")
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1  # in the parameters: the checksum of the archive finds it
    path.write_bytes(flipped)
    refused(path, "something else, or a damaged file", "CRC")


def test_a_newer_format(saved):
    path, _ = saved
    rewrite(path, lambda header: header.update(format_version=3, fastbp_version="9.9"))
    message = refused(path, "format version 3")
    assert "(fastbp '9.9'), expected at most 2; a newer fastbp reads it" in message


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda header: header.update(format="other"), "something else ('other')"),
        (lambda header: header.pop("format"), "something else (None)"),
        (lambda header: header.update(format_version="2"), "a damaged header"),
        (lambda header: header.update(format_version=0), "a damaged header"),
        (lambda header: header.update(config=[]), "a damaged header"),
        (lambda header: header["config"].pop("activation"), "activation"),
        (lambda header: header["config"].pop("generator"), "generator"),
        (lambda header: header["config"].update(more=1), "a network of a newer fastbp, with more"),
        (lambda header: header["config"].update(n_threads=1), "n_threads"),
        (lambda header: header["config"].update(generator=3), "a damaged network"),
        (lambda header: header["config"].update(generator={"bit_generator": "MT19937"}), "a damaged network"),
        (lambda header: header["config"].update(loss="mse"), "loss: got 'mse', expected one of softmax"),
        (lambda header: header["config"].update(layer_sizes=[3, -1]), "layer_sizes: got -1"),
        (lambda header: header["config"].update(layer_sizes="32"), "layer_sizes: got str"),
        (lambda header: header["config"].update(layer_sizes=[3, 2]), "dropout: got 1 of them, expected 0"),
        (
            lambda header: header["config"].update(layer_sizes=[2**28, 2**28], dropout=[]),
            "weights.0, weights.1, biases.0, biases.1, expected weights.0, biases.0",
        ),
        (
            lambda header: header["config"].update(layer_sizes=[2**28, 2**28, 2]),
            "weights.0: got float64 (3, 5), expected float64 (268435456, 268435456)",
        ),
        (lambda header: header["config"].update(dtype="float32"), "expected float32 (3, 5)"),
        (lambda header: header["config"].update(dtype="object"), "dtype: got object"),
    ],
)
def test_damaged_headers(saved, change, part):
    path, _ = saved
    rewrite(path, change)
    refused(path, part)


@pytest.mark.parametrize("bias", [np.zeros(4), np.zeros((5, 1)), np.zeros(5, int), np.zeros(5, "f4")])
def test_arrays_that_do_not_fit(saved, bias):
    path, _ = saved
    rewrite(path, **{"biases.0": bias})
    refused(path, f"biases.0: got {bias.dtype} {bias.shape}, expected float64 (5,)")


@pytest.mark.parametrize("parameters", [np.zeros(25, "f4"), np.zeros((26, 1), "f4"), np.zeros(26)])
def test_parameters_of_version_1_that_do_not_fit(tmp_path, parameters):
    path = tmp_path / "net.npz"
    path.write_bytes(VERSION_1.read_bytes())
    rewrite(path, parameters=parameters)
    refused(path, f"parameters: got {parameters.dtype} {parameters.shape}, expected float32 (26,)")


@pytest.mark.parametrize("more", ["parameters", "weights.2", "weights.01"])
def test_arrays_that_belong_to_no_layer(saved, more):
    path, _ = saved
    rewrite(path, **{more: np.zeros(32)})
    refused(path, more)


@pytest.mark.parametrize(
    "use", [MLP.load, MLP([2, 1]).save, fastbp.callbacks.CSVLog, fastbp.callbacks.Checkpoint]
)
def test_what_is_no_name_of_a_file(use):
    """A number would be a file that is open already."""
    for value in (3, None, np.nan):
        with pytest.raises(
            TypeError, match=f"^path: got {type(value).__name__}, expected the name of a file"
        ):
            use(value)
    with pytest.raises(
        ValueError, match=r"^path: got 'a\\x00b', expected the name of a file, which has no null"
    ):
        use("a\0b")

"""save and load: exact, atomic, without pickle, and clear about files that are something else."""

from __future__ import annotations

import json
import os
import pickle
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import MLP

pytestmark = pytest.mark.usefixtures("backend")

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


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "poisson_deviance"])
def test_the_round_trip_is_exact(tmp_path, dtype, loss):
    net = MLP([3, 5, 4, 2], activation="gelu", loss=loss, dtype=dtype, seed=7, init="glorot")
    net.parameters[::3] = np.random.default_rng(1).normal(size=net.parameters[::3].shape)
    net.parameters[:3] = [np.nan, -np.inf, np.finfo(dtype).smallest_subnormal]
    net.save(tmp_path / "net")
    assert [file.name for file in tmp_path.iterdir()] == ["net"]  # the name as it is, and nothing else
    loaded = MLP.load(str(tmp_path / "net"))
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
        assert sorted(archive) == ["header", "parameters"]
        header = json.loads(str(archive["header"]))
        assert (archive["parameters"] == net.parameters).all()
    assert header["format"] == "fastbp.MLP" and header["format_version"] == 1
    assert header["fastbp_version"] == fastbp.__version__
    assert header["config"]["layer_sizes"] == [3, 5, 2] and header["config"]["activation"] == "tanh"
    assert "n_threads" not in header["config"]


def test_a_file_of_the_other_byte_order(saved):
    path, net = saved
    rewrite(path, parameters=net.parameters.astype(net.dtype.newbyteorder("S")))
    assert (MLP.load(path).parameters == net.parameters).all()


def test_saving_replaces_the_whole_file_or_nothing(saved, monkeypatch):
    path, net = saved
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="disk full"):
        net.save(path)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ["net.npz"]


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
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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
    rewrite(path, lambda header: header.update(format_version=2, fastbp_version="9.9"))
    message = refused(path, "format version 2")
    assert "(fastbp '9.9'), expected 1; a newer fastbp reads it" in message


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda header: header.update(format="other"), "an archive of something else"),
        (lambda header: header.update(config=[]), "a damaged header"),
        (lambda header: header["config"].pop("activation"), "activation"),
        (lambda header: header["config"].pop("generator"), "generator"),
        (lambda header: header["config"].update(more=1), "more"),
        (lambda header: header["config"].update(n_threads=1), "n_threads"),
        (lambda header: header["config"].update(generator=3), "a damaged network"),
        (lambda header: header["config"].update(generator={"bit_generator": "MT19937"}), "a damaged network"),
        (lambda header: header["config"].update(loss="mse"), "loss: got 'mse', expected one of softmax"),
        (lambda header: header["config"].update(layer_sizes=[3, -1]), "layer_sizes: got -1"),
        (lambda header: header["config"].update(layer_sizes="32"), "layer_sizes: got str"),
        (
            lambda header: header["config"].update(layer_sizes=[2**28, 2**28]),
            "parameters: got float64 (32,), expected",
        ),
        (lambda header: header["config"].update(dtype="float32"), "expected float32 (32,)"),
        (lambda header: header["config"].update(dtype="object"), "dtype: got object"),
    ],
)
def test_damaged_headers(saved, change, part):
    path, _ = saved
    rewrite(path, change)
    refused(path, part)


@pytest.mark.parametrize("parameters", [np.zeros(31), np.zeros((32, 1)), np.zeros(32, int), np.array("text")])
def test_parameters_that_do_not_fit(saved, parameters):
    path, _ = saved
    rewrite(path, parameters=parameters)
    refused(path, f"parameters: got {parameters.dtype} {parameters.shape}, expected float64 (32,)")

"""No harmful file passes as clean, harmless ones do, and the process that asks outlives whatever it asks about."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ml_registry_pipelines.compliance.artifact_security.allowed import FRAMEWORKS, framework_of
from ml_registry_pipelines.compliance.artifact_security.findings import FileScan, FileVerdict
from ml_registry_pipelines.compliance.artifact_security.guard import Limits, Scanner
from ml_registry_pipelines.compliance.artifact_security.pickles import walk
from ml_registry_pipelines.compliance.artifact_security.reading import Bomb, Budget, unpacked
from ml_registry_pipelines.compliance.artifact_security.scanning import Scan
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken
from tests.compliance.artifacts.harmful import SYSTEM, containers, npy, old, pickles, short, zipped
from tests.examples import examples

if TYPE_CHECKING:
    import onnx

CLEAN, FLAGGED, REFUSED = FileVerdict
X = np.random.default_rng(0).random((40, 4))
Y = (X[:, 0] > 0.5).astype(int)


@pytest.fixture(scope="module")
def scanner() -> Iterator[Scanner]:
    with Scanner(Limits(seconds=60)) as scanner:
        yield scanner


def test_no_harmful_pickle_is_clean_by_any_name_and_none_of_them_runs(scanner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdicts = {}
    for number, (kind, data) in enumerate(pickles()):
        for name in ("m.pkl", "m.joblib", "m.pt", "pytorch_model.bin", "m"):
            path = tmp_path / f"{number}-{name}"
            path.write_bytes(data)
            verdicts[kind, name] = scanner.scan(path, name=name)
    assert len({kind for kind, _ in verdicts}) >= 55
    # A text that no loader by its name takes for a pickle, and that calls nothing if one did.
    assert verdicts.pop(("persistent id, protocol 0", "m")).formats == ("text",)
    assert {key: scan.findings for key, scan in verdicts.items() if scan.verdict is CLEAN} == {}
    assert not list(tmp_path.rglob("PWNED"))
    called = [
        scan for (kind, _), scan in verdicts.items() if "persistent" not in kind and "buffer" not in kind
    ]
    assert Counter(scan.verdict for scan in called)[REFUSED] <= 8  # those that lie about their length


@pytest.mark.parametrize(
    ("kind", "name", "data"), list(containers()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_nothing_harmful_that_is_packed_or_written_into_a_file_is_clean(scanner, tmp_path, kind, name, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    scan = scanner.scan(path, name=name)
    assert scan.verdict is not CLEAN
    assert scan.findings
    assert "AKIAQYLPMN5HHHFPZAM2" not in repr(scan)


def test_benign_files_of_real_libraries_are_clean(scanner, tmp_path):
    import onnx
    import scipy.sparse
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    line = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    boosted = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    for protocol in range(6):
        (tmp_path / f"forest{protocol}.pkl").write_bytes(pickle.dumps(forest, protocol=protocol))
    (tmp_path / "pipeline.pkl").write_bytes(pickle.dumps(line))
    (tmp_path / "boosted.sav").write_bytes(pickle.dumps(boosted))
    joblib.dump(forest, tmp_path / "forest.joblib")
    joblib.dump({"names": np.array(["a", None], dtype=object), "of": line}, tmp_path / "objects.joblib")
    encoder = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(
        np.array([["a"], ["b"]] * 20, dtype=object), Y
    )
    joblib.dump(encoder, tmp_path / "encoder.joblib")
    for compressor in ("zlib", "gzip", "bz2", "xz", "lzma"):
        joblib.dump(line, tmp_path / f"line-{compressor}.joblib", compress=(compressor, 3))
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], dtype=object))
    np.savez(tmp_path / "a.npz", X, Y)
    np.savez_compressed(tmp_path / "b.npz", a=X, b=np.zeros(3, dtype=[("x", "f8"), ("y", "U3")]))
    (tmp_path / "sparse.pkl").write_bytes(pickle.dumps(scipy.sparse.csr_matrix(X)))
    (tmp_path / "plain.pkl").write_bytes(
        pickle.dumps([OrderedDict(a=1), {1, 2}, frozenset("ab"), 1j, b"x" * 9000])
    )
    save_file({"w": X, "b": Y}, tmp_path / "m.safetensors", metadata={"format": "np"})
    onnx.save(_onnx(), tmp_path / "m.onnx")
    (tmp_path / "README.md").write_text("config of\nthe model\nclass\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"password": None, "pad_token": "[PAD]", "hidden_size": 64})
    )
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' ~ m.content | trim }}{% endfor %}{{ bos_token }}"
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    layer: dict[str, object] = {
        "class_name": "Dense",
        "module": "keras.layers",
        "registered_name": None,
        "config": {},
    }
    keras = {"class_name": "Sequential", "module": "keras", "config": {"layers": [layer]}}
    (tmp_path / "m.keras").write_bytes(
        zipped({"config.json": json.dumps(keras).encode(), "metadata.json": b"{}"})
    )
    (tmp_path / "torch.pt").write_bytes(_torch())
    scans = {path.name: scanner.scan(path) for path in sorted(tmp_path.iterdir())}
    assert len(scans) >= 25
    assert {name: scan.findings for name, scan in scans.items() if scan.verdict is not CLEAN} == {}
    assert scans["forest.joblib"].formats == ("pickle", "scikit-learn", "joblib", "numpy")
    assert "pickle" in scans["torch.pt"].formats


def _onnx(domain: str = "") -> onnx.ModelProto:
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["x", "w"], ["y"], domain=domain)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([node], "g", [value[0]], [value[1]], [weight])
    return helper.make_model(graph)


def _torch() -> bytes:
    """What PyTorch 2 writes for `{"w": tensor of two floats}`."""
    tensor = (
        b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
        b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x02tq\x07QK\x00K\x02\x85q\x08"
        b"K\x01\x85q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
    )
    return zipped({"archive/data.pkl": tensor, "archive/version": b"3\n", "archive/data/0": b"\0" * 8})


def test_onnx_may_neither_leave_its_folder_nor_bring_operators_of_its_own(scanner, tmp_path):
    from onnx import TensorProto, helper

    custom = _onnx(domain="com.example")
    custom.opset_import.append(helper.make_opsetid("com.example", 1))
    outside, inside = _onnx(), _onnx()
    for model, location in ((outside, "../../etc/passwd"), (inside, "weights.bin")):
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    broken = _onnx()
    broken.graph.node[0].op_type = "NoSuchOperator"
    said = {}
    for name, model in (("custom", custom), ("outside", outside), ("inside", inside), ("broken", broken)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        said[name] = scanner.scan(path)
    assert [s.verdict for s in said.values()] == [FLAGGED, FLAGGED, CLEAN, REFUSED]
    assert "com.example" in said["custom"].findings[0].text
    assert said["outside"].findings[0].check.value == "S11"
    assert said["inside"].notes == ("external data: weights.bin",)


def test_a_scan_that_lacks_memory_or_time_refuses_and_the_next_one_goes_on(tmp_path):
    (tmp_path / "b.pkl").write_bytes(SYSTEM)
    large, endless = tmp_path / "large.h5", tmp_path / "endless.json"
    with large.open("wb") as out:
        out.write(b"\x89HDF\r\n\x1a\n")
        out.truncate(200 << 20)
    endless.write_bytes(
        b'{"a": "' + b"x" * (8 << 20) + b'"}'
    )  # Looking for secrets in it takes many seconds.
    with Scanner(Limits(memory=200 << 20, seconds=60)) as scanner:
        assert scanner.scan(large).findings[0].text == "it needs more memory than a scan may use"
        assert scanner.scan(tmp_path / "b.pkl").verdict is FLAGGED
        scanner.limits = Limits(seconds=0.3)
        late = scanner.scan(endless)
        assert (late.verdict, late.findings[0].text) == (REFUSED, "the scan took longer than 0.3 seconds")
        scanner.limits = Limits(seconds=60)
        assert scanner.scan(tmp_path / "b.pkl").verdict is FLAGGED


def test_a_scan_that_is_made_to_run_write_or_connect_ends_itself_and_is_refused(tmp_path):
    from ml_registry_pipelines.compliance.artifact_security import child

    for attempt in (
        "import os; os.system('touch PWNED')",
        "open('PWNED', 'w')",
        "import subprocess; subprocess.run(['touch', 'PWNED'])",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import pickle; pickle.loads(b'cos\\nsystem\\n(S\"touch PWNED\"\\ntR.')",
        "import os; os.fork()",
    ):
        watch = f"from {child.__name__} import _Watch; w = _Watch(); sys.addaudithook(w); w.on = True"
        run = [sys.executable, "-c", f"import sys; {watch}\n{attempt}"]
        done = subprocess.run(run, cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)
        assert done.returncode == 97
    assert not list(tmp_path.iterdir())


def test_a_scanner_whose_process_is_killed_or_talks_nonsense_refuses(tmp_path, monkeypatch):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(1))
    with Scanner() as scanner:
        assert scanner.scan(path).verdict is CLEAN
        assert scanner._child is not None
        scanner._child.kill()
        scanner._child.wait()
        assert scanner.scan(path).verdict is REFUSED
        assert scanner.scan(path).verdict is CLEAN
        monkeypatch.setattr(scanner, "_line", lambda child: b'{"findings": "[]"}')
        assert scanner.scan(path).verdict is REFUSED
        monkeypatch.setattr(scanner, "_line", lambda child: b"hello")
        assert scanner.scan(path).verdict is REFUSED


@cache
def benign() -> tuple[bytes, ...]:
    from sklearn.linear_model import LogisticRegression

    return (
        pickle.dumps(LogisticRegression().fit(X, Y)),
        zipped({"archive/data.pkl": pickle.dumps({"a": 1}), "archive/version": b"3"}),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([None])),
    )


@settings(max_examples=examples(400), deadline=None)
@given(data=st.data())
def test_no_bytes_whatsoever_run_or_stop_a_scan(data, scanner, tmp_path_factory):
    """Random bytes, and harmless files with some bytes changed, cut out, doubled or made another file's."""
    base = data.draw(st.sampled_from(benign()))
    changed = bytearray(data.draw(st.one_of(st.binary(max_size=400), st.just(base))))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        piece = data.draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([SYSTEM, b"cos\nsystem\n", b"R", b"\x93", b"."]))
        )
        changed[at : at + data.draw(st.integers(0, 8))] = piece
    path = tmp_path_factory.mktemp("any") / "m.pkl"
    path.write_bytes(changed)
    scan = scanner.scan(path)
    assert isinstance(scan, FileScan)
    assert not any("scan was ended" in f.text or "crashed" in f.text for f in scan.findings)


PIECES = [
    *(short(text) for text in ("os", "system", "numpy", "dtype", "collections", "OrderedDict")),
    *(old("os", "system"), old("collections", "OrderedDict"), b"ios\nsystem\n", b"\x80\x02", b"\x80\x04"),
    *(b"h\x00", b"h\x01", b"h\x02", b"q\x00", b"q\x01", b"K\x01", b"."),
    *(bytes([code]) for code in b"(012)]}easubtdloRN\x81\x85\x86\x87\x8f\x90\x91\x93\x94"),
]


@settings(max_examples=examples(4000), deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join))
def test_the_walk_sees_every_global_that_an_unpickler_would_import_or_refuses_the_stream(data):
    found: list[tuple[str, str]] = []

    class Inert(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> object:
            found.append((module, name))
            return OrderedDict if name == "OrderedDict" else lambda *a, **k: None

    with suppress(Exception):
        Inert(io.BytesIO(data)).load()
    seen = walk(io.BytesIO(data), joblib=False)
    assert seen.broken or set(found) <= seen.globals.keys()
    assert seen.broken or seen.bad or all(framework_of(*pair) for pair in found)


def test_the_list_of_allowed_globals_holds_nothing_that_calls_imports_or_opens():
    forbidden = {
        "getattr",
        "eval",
        "exec",
        "open",
        "__import__",
        "partial",
        "load",
        "loads",
        "system",
        "attrgetter",
    }
    names = {name for modules in FRAMEWORKS.values() for text in modules.values() for name in text.split()}
    assert not names & forbidden
    modules = {module.partition(".")[0] for modules in FRAMEWORKS.values() for module in modules}
    assert modules == {
        "__builtin__", "_codecs", "builtins", "collections", "copy_reg", "copyreg", "datetime", "decimal", "fractions",
        "joblib", "numpy", "scipy", "sklearn", "torch",
    }  # fmt: skip
    assert framework_of("os", "system") is None


def test_a_bomb_is_met_before_it_is_large():
    import gzip

    packed = gzip.compress(b"\0" * (34 << 20))
    budget = Budget()
    with pytest.raises(Bomb):
        unpacked(io.BytesIO(packed), "gzip", budget, packed_size=len(packed))
    assert budget.most - budget.left <= 33 << 20
    with pytest.raises(Broken, match="MiB"):
        unpacked(io.BytesIO(gzip.compress(os.urandom(3 << 20))), "gzip", Budget(1 << 20), packed_size=3 << 20)


def test_a_comment_that_asks_to_overlook_a_secret_is_not_heeded(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("key: AKIAQYLPMN5HHHFPZAM2  # pragma: allowlist secret\n")
    scan = Scan()
    scan.file(path, path.name)
    assert [f.text for f in scan.findings] == ["AWS Access Key in line 1"]

"""Programs that ExecuTorch loads: listed, shared, traced, and refused in one line."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.devtools import Inspector
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

import zeropoint
from tests.e2e.models import Activations, Linears, Weights
from tests.e2e.running import export, lower, rows_of
from zeropoint.runtime.devices import devices
from zeropoint.runtime.library import library_path
from zeropoint.runtime.player import counters, load_flags, picks_of, programs, read_tensor


@pytest.fixture(scope="module")
def pte() -> bytes:
    zeropoint.register()
    module = Linears(64, Activations(), (Weights(n=24, group_size=32, bias=True),))
    return lower(export(module, rows_of(64, 4), max_sizes={0: 16}))[0]


def test_the_backend_is_registered_once() -> None:
    zeropoint.register()
    zeropoint.register()
    assert len(devices()) >= 1
    assert Runtime.get().backend_registry.registered_backend_names.count("ZeropointBackend") == 1


def test_two_loads_of_one_file_share_constants_and_nothing_else(pte: bytes) -> None:
    before = {item.id for item in programs()}
    start = counters()
    first, second = (portable_lib._load_for_executorch_from_buffer(pte) for _ in range(2))
    x = rows_of(64, 3)
    assert torch.equal(first.forward([x])[0], second.forward([x])[0])  # the first call loads the method
    used = counters()
    assert used["constants_uploaded"] - start["constants_uploaded"] == 3  # w, w_scale, bias
    assert used["constants_shared"] - start["constants_shared"] == 3
    live = [item for item in programs() if item.id not in before]
    assert [item.method for item in live] == ["forward", "forward"]
    assert [pick.kernel for pick in picks_of(live[0].id)][-1] == "linear_dq8ca"
    del first, second
    assert {item.id for item in programs()} == before


def test_weights_may_lie_in_a_ptd(pte: bytes, tmp_path: Path) -> None:
    """The same bytes from both runtimes; without the .ptd a clear refusal; and nothing to verify against."""
    module = Linears(64, Activations(), (Weights(n=24, group_size=32, bias=True),))
    partitioner = zeropoint.ZeropointPartitioner(zeropoint.CompileOptions(weights_file="weights"))
    edge = to_edge_transform_and_lower(export(module, rows_of(64, 4), max_sizes={0: 16}), partitioner=[partitioner])
    program = edge.to_executorch()
    path, data, x = tmp_path / "linear.pte", tmp_path / "weights.ptd", rows_of(64, 3)
    path.write_bytes(program.buffer)
    program.write_tensor_data_to_file(tmp_path)
    assert path.stat().st_size < len(pte) <= path.stat().st_size + data.stat().st_size
    assert not zeropoint.inspect(path).constants
    wanted = portable_lib._load_for_executorch_from_buffer(pte).forward([x])[0]
    loaded = Runtime.get().load_program(path, data_path=data)
    assert torch.equal(loaded.load_method("forward").execute([x])[0], wanted)
    np.save(tmp_path / "x.npy", x.numpy())
    command = [library_path().with_name("zeropoint-run"), path, "--input", tmp_path / "x.npy", "--output", tmp_path]
    done = subprocess.run([*map(str, command), "--data", str(data)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "output_0.npy").tobytes() == wanted.numpy().tobytes()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is a .ptd missing?" in done.stderr
    with pytest.raises(zeropoint.RuntimeFailure, match=r"is a .ptd missing\?"):
        zeropoint.verify(path, [x])


def test_intermediate_tensors_can_be_kept_and_read(pte: bytes) -> None:
    module = portable_lib._load_for_executorch_from_buffer(pte)
    x = rows_of(64, 3)
    with load_flags(keep_all=True):
        module.forward([x])
    assert torch.equal(torch.from_numpy(read_tensor(programs()[-1].id, 0)), x)


def test_each_kernel_call_is_an_event_of_the_trace(pte: bytes, tmp_path: Path) -> None:
    module = portable_lib._load_for_executorch_from_buffer(pte, enable_etdump=True)
    module.forward([rows_of(64, 3)])
    calls = picks_of(programs()[-1].id)
    trace, buffers = tmp_path / "trace.etdp", tmp_path / "buffers.bin"
    module.write_etdump_result_to_file(str(trace), str(buffers))
    events = [e for block in Inspector(etdump_path=str(trace)).event_blocks for e in block.events if e.is_delegated_op]
    assert [event.name for event in events] == [str(pick.call) for pick in calls]
    for event, pick in zip(events, calls, strict=True):
        assert pick.time_ns is not None
        assert event.perf_data.raw[0] == pytest.approx(pick.time_ns / 1e6, abs=1e-5)


def test_a_refusal_is_logged_in_whole(
    pte: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZEROPOINT_DEVICE", "no such device")
    with pytest.raises(RuntimeError):
        portable_lib._load_for_executorch_from_buffer(pte).forward([rows_of(64, 3)])
    assert "ZEROPOINT_DEVICE=no such device: no such usable device; devices: 0: " in capfd.readouterr().err


def test_a_refusal_is_a_sentence_of_its_thread(pte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ExecuTorch raises has a number; another thread's error is its own."""
    monkeypatch.setenv("ZEROPOINT_DEVICE", "no such device")
    with pytest.raises(RuntimeError, match="0x"):
        portable_lib._load_for_executorch_from_buffer(pte).forward([rows_of(64, 3)])
    assert zeropoint.last_error().startswith("ZEROPOINT_DEVICE=no such device: no such usable device; devices: 0: ")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(zeropoint.last_error).result() == ""
    assert zeropoint.last_error().startswith("ZEROPOINT_DEVICE=")


def test_a_long_refusal_is_raised_whole(pte: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a log line of ExecuTorch."""
    (tmp_path / "linear.pte").write_bytes(pte)
    facts = ", ".join(devices()[0].facts)
    monkeypatch.setenv("ZEROPOINT_DISABLE", "no_such_fact")
    with pytest.raises(zeropoint.RuntimeFailure, match="ZEROPOINT_DISABLE: no fact no_such_fact") as caught:
        zeropoint.verify(tmp_path / "linear.pte")
    assert len(facts) > 300
    assert str(caught.value).endswith(f"facts: {facts}")


def test_an_input_beyond_the_exported_range_is_refused(pte: bytes) -> None:
    module = portable_lib._load_for_executorch_from_buffer(pte)
    with pytest.raises(RuntimeError):
        module.forward([rows_of(64, 17)])
    assert module.forward([rows_of(64, 16)])[0].shape == (16, 24)

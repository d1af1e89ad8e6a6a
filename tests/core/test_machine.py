"""What a process may use, from the files in which systems say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpace.core import machine


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/app/worker\n"}
V1 = {"proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"proc/self/cgroup": "nonsense\n"}, float("inf")),
        (V2, float("inf")),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "max 100000\n"}, float("inf")),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "150000 100000\n"}, 1.5),
        # The tightest of a group and those around it counts.
        (
            V2
            | {
                "sys/fs/cgroup/app/worker/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/app/cpu.max": "50000 100000\n",
            },
            0.5,
        ),
        (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),  # a container's own view
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "0 0\n"}, float("inf")),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "-1\n",  # none
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            },
            float("inf"),
        ),
    ],
)
def test_quota(files: dict[str, str], quota: float, tmp_path: Path) -> None:
    assert machine.processor_quota(written(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "threads"), [("10000", 1), ("150000", 2), ("240000", 2), ("900000", 4)])
def test_threads_follow_the_quota_and_the_cpu_set(
    quota: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    root = written(tmp_path, V2 | {"sys/fs/cgroup/app/worker/cpu.max": f"{quota} 100000"})
    for cpu in range(5):  # two of them are one core
        package, core = 0, min(cpu, 3)
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        written(root, {f"{folder}/physical_package_id": str(package), f"{folder}/core_id": str(core)})
    assert machine.physical_cores(root) == 4
    assert machine.default_threads(root) == threads
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7}, raising=False)  # no topology known
    assert machine.default_threads(root) == 1


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 0),
        ({"proc/meminfo": "MemTotal: 9 kB\n"}, 0),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8 kB\n"}, 8192),
        (
            V2
            | {
                "proc/meminfo": "MemAvailable:    8 kB\n",
                "sys/fs/cgroup/app/memory.max": "5000\n",
                "sys/fs/cgroup/app/memory.current": "1000\n",
                "sys/fs/cgroup/app/worker/memory.max": "max\n",
            },
            4000,
        ),
        (
            V1
            | {
                "proc/meminfo": "MemAvailable:    8 kB\n",
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "100\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1000\n",
            },
            0,
        ),
    ],
)
def test_memory(files: dict[str, str], available: int, tmp_path: Path) -> None:
    assert machine.available_bytes(written(tmp_path, files)) == available


def test_huge_pages(tmp_path: Path) -> None:
    assert not machine.grants_huge_pages(tmp_path)
    for text, granted in (("always [madvise] never", True), ("always madvise [never]", False)):
        written(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": text})
        assert machine.grants_huge_pages(tmp_path) == granted


def test_a_processor_is_known_by_its_kind_not_by_its_clock(tmp_path: Path) -> None:
    def key(model: str, clock: str) -> str:
        text = f"processor : 0\nmodel name : {model}\ncpu MHz : {clock}\n\nprocessor : 1\n"
        return machine.processor_key(written(tmp_path, {"proc/cpuinfo": text}))

    assert key("A", "2000") == key("A", "3000.5") != key("B", "2000")
    assert machine.processor_key(tmp_path / "absent") != key("A", "2000")

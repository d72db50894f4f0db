"""A database as ``nsys export --type sqlite`` writes it: tables, columns and enumerations of release 2024.6."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tonnage.units import MiB

PROCESS = (1 << 48) | (1234 << 24)
THREAD = PROCESS | 1234
SCHEMA = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
  globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER);
CREATE TABLE CUDA_CALLCHAINS (id INTEGER NOT NULL, symbol INTEGER NOT NULL, module INTEGER NOT NULL, unresolved
  INTEGER, originalIP INTEGER, stackDepth INTEGER NOT NULL, PRIMARY KEY (id, stackDepth));
CREATE TABLE CUDA_GPU_MEMORY_USAGE_EVENTS (start INTEGER NOT NULL, globalPid INTEGER NOT NULL,
  deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, address INTEGER NOT NULL, pc INTEGER NOT NULL,
  bytes INTEGER NOT NULL, memKind INTEGER NOT NULL, memoryOperationType INTEGER NOT NULL, name TEXT,
  correlationId INTEGER, streamId INTEGER,
  localMemoryPoolAddress INTEGER, localMemoryPoolReleaseThreshold INTEGER, localMemoryPoolSize INTEGER,
  localMemoryPoolUtilizedSize INTEGER, importedMemoryPoolAddress INTEGER, importedMemoryPoolProcessId INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
  category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER,
  domainId INTEGER);
CREATE TABLE ENUM_CUDA_MEM_KIND (id INTEGER NOT NULL PRIMARY KEY, name TEXT, label TEXT);
INSERT INTO ENUM_CUDA_MEM_KIND VALUES (1, 'CUDA_MEMOPR_MEMORY_KIND_PINNED', 'Pinned');
INSERT INTO ENUM_CUDA_MEM_KIND VALUES (2, 'CUDA_MEMOPR_MEMORY_KIND_DEVICE', 'Device');
INSERT INTO ENUM_CUDA_MEM_KIND VALUES (5, 'CUDA_MEMOPR_MEMORY_KIND_DEVICE_STATIC', 'Device Static');
"""
STRINGS = ("cudaMalloc_v3020", "cudaFree_v3020", "ncclCommInitRank", "ProcessGroupNCCL::broadcast", "forward",
           "cudaHostAlloc_v3020")  # fmt: skip
DEVICE, PINNED, STATIC = 2, 1, 5
EVENTS = (
    # time, address, bytes, kind, operation, correlation, device
    (100, 0x7F0000000000, 20 * MiB, DEVICE, 0, 1, 0),
    (200, 0x7F0010000000, 2 * MiB, DEVICE, 0, 2, 0),
    (250, 0x7000, 64 * MiB, PINNED, 0, 3, 0),
    (300, 0x7F0020000000, 512 * MiB, DEVICE, 0, 4, 0),
    (400, 0x7F0010000000, 2 * MiB, DEVICE, 1, 5, 0),
    (500, 0x7F0030000000, 4096, STATIC, 0, 0, 0),
    (550, 0x7F0040000000, 6 * MiB, DEVICE, 1, 0, 0),
)


def written(path: Path, events: tuple[tuple[int, ...], ...] = EVENTS, more: str = "") -> str:
    """A process that takes two segments, pinned memory and a large segment within NVTX ranges."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", enumerate(STRINGS, 1))
        for time, address, size, kind, operation, correlation, device in events:
            db.execute(
                "INSERT INTO CUDA_GPU_MEMORY_USAGE_EVENTS (start, globalPid, deviceId, contextId, address, pc, bytes,"
                " memKind, memoryOperationType, correlationId) VALUES (?, ?, ?, 1, ?, 0, ?, ?, ?, ?)",
                (time, PROCESS, device, address, size, kind, operation, correlation or None),
            )
            if correlation:
                name = 6 if kind == PINNED else 2 if operation else 1
                row = (time - 5, time + 5, THREAD, correlation, name, correlation)
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, 0, ?, ?, ?, 0, ?)", row)
        db.executemany("INSERT INTO CUDA_CALLCHAINS VALUES (2, ?, 0, 0, 0, ?)", [(3, 0), (4, 1)])
        db.execute(
            "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES (50, 220, 59, 'load', ?)",
            (THREAD,),
        )
        db.execute(
            "INSERT INTO NVTX_EVENTS (start, end, eventType, textId, globalTid) VALUES (280, 450, 59, 5, ?)", (THREAD,)
        )
        db.executescript(more)
        db.commit()
    return str(path)

"""Background processes: started in a session of their own, known by pid and start time, ended as a group.

A pid alone is not an identity: after a reboot, or on a busy machine, the number belongs to another
process. Each record therefore holds the boot and the clock tick at which its process started, and
a process that does not match is never signalled.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from relume.errors import BrokenFileError, ServiceError
from relume.files import check_space, write_json
from relume.reading import read_as, reading

KILL_SECONDS = 5.0
FREE_MEGABYTES = 16.0  # for logs, records and databases; a server without them ends with a traceback in no log
_T = TypeVar("_T")
_PORT_RACES = 3  # to lose before a start counts as failed
# From which Linux gives none to an outgoing connection, which could take it before the server listens.
_PORTS = range(20_000, 30_000)
SILENT_SECONDS = 20.0  # after which a process that does not answer counts as hung
_MARK = "RELUME_RECORD"  # in the environment of what is started, its children included: the path of its record

# Popen objects of processes started by this interpreter, by start mark: without a wait their end leaves a zombie.
_children: dict[str, subprocess.Popen] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """What is written down about one background process.

    Attributes:
        name: Short name, also the stem of the record's and the log's file names.
        pid: Process id, and the id of its session and process group.
        started: Boot id and start tick of the process, so that a recycled pid is not taken for it.
        command: The command line.
        address: Where it listens, such as `http://127.0.0.1:5000`, or None.
        log: File that its output goes to.
    """

    name: str
    pid: int
    started: str
    command: tuple[str, ...]
    address: str | None
    log: str


def start_process(
    name: str,
    command: Sequence[str],
    *,
    folder: Path,
    ready: Callable[[], bool],
    timeout: float,
    address: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    secret: str | None = None,
) -> ProcessRecord:
    """Starts `command` in the background and waits until it is ready.

    What a process of that name left behind when it died, such as a child that still holds its port or database, is
    ended first.

    Args:
        name: Short name of the process.
        command: Program and arguments.
        folder: Where `<name>.json` and `<name>.log` go.
        ready: Asked several times a second; True ends the wait, if the process lives and it is this process, and not
            another program, that listens at the address.
        timeout: Seconds to wait for `ready`.
        address: Address to record.
        env: The whole environment of the process; this process's own when None.
        cwd: Its working folder.
        secret: A part of the command that other users of the machine must not see; see `_hide`.

    Returns:
        The record, also written to `folder`. A process of that name that runs already is left alone, unless it does not
        answer any more: then it is ended and started anew.

    Raises:
        ServiceError: It ended or did not get ready in time; nothing of it is left running.
        StorageError: The disk has no room for what it writes; nothing was started.
    """
    running = running_process(folder, name)
    if running and still_answers(ready, alive=lambda: _alive(running)):
        return running
    stop_process(folder, name, grace=3.0)
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, FREE_MEGABYTES)
    log = folder / f"{name}.log"
    with open(log, "ab") as output:
        try:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**(os.environ if env is None else env), **mark(folder, name)},
                cwd=cwd,
            )
        except OSError as error:
            raise ServiceError(
                f"{name} did not start", where=command[0], why=error, next_step="run `relume doctor`"
            ) from None
    shown = [word.replace(secret, "***") for word in command] if secret else command
    record = record_process(name, child, folder=folder, command=shown, address=address, log=log)
    try:
        _wait_ready(record, child, ready, timeout)
        if secret:
            _hide(child.pid, secret)
    except BaseException:
        stop_process(folder, name, grace=3.0)
        raise
    return record


def still_answers(ready: Callable[[], bool], *, alive: Callable[[], bool]) -> bool:
    """Whether a process that ran before answers, for which a busy one has some seconds; no longer than it lives."""
    end = time.monotonic() + SILENT_SECONDS
    while alive():
        if ready():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return False


def record_process(
    name: str,
    child: subprocess.Popen,
    *,
    folder: Path,
    command: Sequence[str],
    log: Path,
    address: str | None = None,
) -> ProcessRecord:
    """Writes down a process that leads a session of its own, so that `stop_process` can end it later.

    Its environment holds `mark(folder, name)`. One that cannot be written down, such as on a full disk, is ended.

    Args:
        name: Short name of the process.
        child: The process, started with `start_new_session=True`.
        folder: Where `<name>.json` goes.
        command: Program and arguments.
        log: File that its output goes to.
        address: Where it listens, or None.

    Returns:
        The record, as written.
    """
    record = ProcessRecord(
        name=name,
        pid=child.pid,
        started=start_mark(child.pid) or "",
        command=tuple(command),
        address=address,
        log=str(log),
    )
    try:
        write_json(folder / f"{name}.json", dataclasses.asdict(record))
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    _children[record.started] = child
    return record


def _wait_ready(record: ProcessRecord, child: subprocess.Popen, ready: Callable[[], bool], timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        answered = ready()
        if (code := child.poll()) is not None:
            why = f"it ended with exit code {code}: {last_line(record.log)}"
        elif answered and (record.address is None or _listens(record)):
            return
        elif time.monotonic() > end:
            other = f"; another program answers at {record.address}" if answered else ""
            why = f"it was not ready after {timeout:.0f} s{other}: {last_line(record.log)}"
        else:
            time.sleep(0.1)
            continue
        raise ServiceError(f"{record.name} did not start", why=why, next_step=f"read {record.log}")


def _listens(record: ProcessRecord) -> bool:
    """Whether the port of the record's address is one of its own session."""
    port = int(str(record.address).rpartition(":")[2])
    for process in _session(record):
        try:
            sockets = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets):
            return True
    return False


def _hide(pid: int, secret: str) -> None:
    """Overwrites a secret in the command line of a child, which every user of the machine can read.

    The program has read its arguments by now. Where the kernel does not let a parent write there, the secret stays.
    """
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # of the arguments in its memory
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret.encode(), b"*" * len(secret)))


def running_process(folder: Path, name: str) -> ProcessRecord | None:
    """The record of the process called `name` if that very process is alive, else None.

    Raises:
        BrokenFileError: Its record cannot be read; `stop_process` ends it nonetheless.
    """
    record = recorded_process(folder, name)
    return record if record is not None and _alive(record) else None


def stop_process(folder: Path, name: str, *, grace: float = 10.0) -> bool:
    """Ends the process called `name` with everything that it started, and removes its record.

    What was started is known by its session and by a mark in its environment, which stays where a process begins a
    session of its own, and where the record cannot be read or was never written.

    Args:
        folder: Where its record is.
        name: Its short name.
        grace: Seconds between SIGTERM and SIGKILL.

    Returns:
        Whether anything was running.
    """
    record = None
    with contextlib.suppress(BrokenFileError):
        record = recorded_process(folder, name)
    look = partial(_started, record, mark(folder, name))
    members = look()
    _signal(members, signal.SIGTERM)
    _signal(members, signal.SIGCONT)  # one that is stopped takes the other signal only then
    if not _gone(look, grace):
        _signal(look(), signal.SIGKILL)
        _gone(look, KILL_SECONDS)
    if record and (child := _children.pop(record.started, None)):
        child.poll()
    remove_record(folder / f"{name}.json")
    return bool(members)


def free_port(preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 that nothing listens on: `preferred` if it is free, else any."""
    drawn = random.SystemRandom().sample(_PORTS, 20)
    for port in (*([preferred] if preferred else []), *drawn, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServiceError("There is no free port on 127.0.0.1", next_step="end some of the programs that listen on one")


def on_free_ports(preferred: Sequence[int | None], start: Callable[..., _T]) -> _T:
    """Starts a server on free ports of 127.0.0.1, and on others when another program took one before it could listen.

    Args:
        preferred: For each port the one to take if it is free; None for any.
        start: Is given the ports. A failed one leaves nothing running.

    Returns:
        What `start` returned.

    Raises:
        ServiceError: It did not start although its ports stayed free, or lost three races for them.
    """
    for attempt in range(_PORT_RACES):
        ports: list[int] = []
        for port in preferred:
            while (found := free_port(port)) in ports:
                port = None
            ports.append(found)
        try:
            return start(*ports)
        except ServiceError:
            if attempt + 1 == _PORT_RACES or all(free_port(port) == port for port in ports):
                raise
    raise AssertionError("the last attempt returns or raises")


def answers(url: str, *, timeout: float = 1.0) -> bool:
    """Whether an HTTP server answers a GET with 200 within some seconds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status == 200
    except OSError:
        return False


def last_line(log: str | Path) -> str:
    """The last line of a log that is not blank, or `no output`."""
    path = Path(log)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def recorded_process(folder: Path, name: str) -> ProcessRecord | None:
    """The record of the process called `name`, which may have ended, or None.

    Raises:
        BrokenFileError: The record is damaged.
    """
    path = folder / f"{name}.json"
    if not os.path.lexists(path):
        return None
    record = read_as(ProcessRecord, path, next_step=f"run `relume down`, which ends {name} nonetheless")
    with reading(path, next_step=f"run `relume down`, which ends {name} nonetheless"):
        if record.pid < 2:
            raise ValueError(f"{record.pid} is no process that was started")
    return record


def start_mark(pid: int) -> str | None:
    """Boot id and start tick of a living process, or None if there is none."""
    try:
        # The name in parentheses may hold spaces; the fields after it start with the state (field 3).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        # A zombie is dead only when its threads are: they may outlive the first one for some time.
        if fields[0] == "Z" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot}:{fields[19]}"


def seconds_alive(pid: int) -> float:
    """Age of a process by its start tick, which no step of the clock changes; 0 when there is none."""
    mark = start_mark(pid)
    ticks = int(mark.rpartition(":")[2]) if mark else None
    if ticks is None:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _alive(record: ProcessRecord) -> bool:
    if child := _children.get(record.started):
        child.poll()
    return start_mark(record.pid) == record.started


def _session(record: ProcessRecord) -> list[psutil.Process]:
    """The living processes of the record's session.

    While a session has members its id is not given to a new process; so if the leader is gone and
    the number is free, what carries that session id is still ours.
    """
    if not _alive(record) and start_mark(record.pid) is not None:
        return []  # the number belongs to another process now
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == record.pid and start_mark(process.pid) is not None:
                members.append(process)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return members


def mark(folder: Path, name: str) -> dict[str, str]:
    """What the environment of the process called `name` says, and that of all it starts: the path of its record."""
    return {_MARK: str((folder / f"{name}.json").absolute())}


def _started(record: ProcessRecord | None, mark: Mapping[str, str]) -> list[psutil.Process]:
    """The living processes of the record's session, and those that carry its mark."""
    members = _session(record) if record else []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if mark.items() <= process.environ().items() and start_mark(process.pid) is not None:
                members.append(process)
    return [process for process in set(members) if process.pid != os.getpid()]


def remove_record(path: Path) -> None:
    """Removes a record, or the folder that somebody put in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _gone(look: Callable[[], list[psutil.Process]], seconds: float) -> bool:
    """Waits until `look` finds nothing: a blocking wait would hang on a thread."""
    end = time.monotonic() + seconds
    while look():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil compares the creation time first
        except psutil.NoSuchProcess:
            continue

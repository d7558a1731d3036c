"""Run code that a model wrote against assertions, shut off from the machine by bubblewrap.

With bubblewrap (`bwrap`, https://github.com/containers/bubblewrap) the code has no network, no process but its own, and
of the files those of the interpreter and the system's programs, read-only. Where it is not there no such code is run,
unless the user says so with `HF_ALLOW_CODE_EVAL=1`, as for Hugging Face's evaluate.

Either way it runs in a process of its own, without the user's environment, its processor time, memory and wall time are
limited, and the interpreter refuses what such code should not need: files, sockets, further imports, processes,
threads. That catches accidents and the ordinary misbehaviour of generated code. It shuts nobody out: what aims at the
interpreter gets past it, and then bubblewrap, or nothing, stands between the code and the machine.

Nor does it stop a cheat: code and tests share one interpreter, so code can read the tests, or return an object that
equals everything. What it does not get by printing, exiting or looking around is the token by which success is told.
"""

import importlib.util
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import wait

from tuningvec.errors import TuningVecError

_RUNNER = """
import __future__, abc, array, ast, base64, bisect, builtins, calendar, cmath, collections.abc, contextlib, copy
import dataclasses, datetime, decimal, difflib, encodings.rot_13, enum, fractions, functools, hashlib, heapq, inspect
import io, itertools, json, math, numbers, operator, os, pprint, queue, random, re, secrets, statistics, string, struct
import sys, textwrap, threading, time, timeit, traceback, types, typing, unicodedata, warnings, weakref
import _strptime  # datetime imports it on use
import posix, resource, signal
from contextlib import suppress

if sys.version_info >= (3, 12):
    import _pylong  # large integers import it on use

report = os.dup(1)
os.dup2(2, 1)  # what the code prints goes where its errors go, to nowhere
task = json.load(sys.stdin)

if os.getuid() == 0:
    with suppress(OSError):  # a container may forbid it
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)  # root is not bound by RLIMIT_NPROC, nobody is

signal.alarm(task["cpu"] + 1)  # ends a sleeper whose parent was killed
for limit, soft, hard in (
    (resource.RLIMIT_CPU, task["cpu"], task["cpu"] + 1),
    (resource.RLIMIT_AS, task["bytes"], task["bytes"]),
    (resource.RLIMIT_FSIZE, 0, 0),
    (resource.RLIMIT_CORE, 0, 0),
    (resource.RLIMIT_NPROC, 0, 0),
    (resource.RLIMIT_NOFILE, 0, 0),
):
    with suppress(ValueError, OSError):  # a lower limit already holds, or (macOS, RLIMIT_AS) the platform refuses
        resource.setrlimit(limit, (soft, hard))


def refuse(event, args):
    if event == "import":
        raise ModuleNotFoundError(f"No module named {args[0]!r} in the sandbox", name=args[0])
    if event.startswith((
        "ctypes.", "fcntl.", "gc.", "mmap.", "open", "os.", "pty.", "resource.", "shutil.", "signal.", "socket.",
        "sqlite3.", "subprocess.", "sys.setprofile", "sys.settrace", "syslog.",
    )):
        raise PermissionError(f"{event} is refused in the sandbox")


for name in ("mkfifo", "mknod"):  # they raise no event and need no descriptor
    for module in (os, posix):
        if hasattr(module, name):
            delattr(module, name)
sys.addaudithook(refuse)
del refuse
os.write(report, b"r")  # ready: the parent's clock starts

# One program: once it runs, there is no loop over the tests that it could cut short.
parts = [task["code"], *task["tests"]]
program = compile(ast.Module([line for part in parts for line in ast.parse(part).body], []), "<code>", "exec")
space = sys.modules["solution"] = types.ModuleType("solution")  # dataclasses look their module up
# While the program runs, the token lies on the interpreter's stack only: no name, frame or container leads to it.
os.write(report, task.pop("token").encode() + (exec(program, vars(space)) or b""))
"""


CONSENT = "HF_ALLOW_CODE_EVAL"
SEEN = ("/usr", "/lib", "/lib64", "/bin")  # folders that a program needs to start


def lacking() -> str | None:
    """What keeps code that models write from being run here, to follow the words "this machine"; None if nothing."""
    if os.environ.get(CONSENT) == "1" or _shut_off():
        return None
    return (
        "has no bubblewrap that works (`bwrap`), which shuts off code that models write; install it, or set "
        f"`{CONSENT}=1` to have that code run without"
    )


@cache
def _shut_off() -> tuple[str, ...]:
    """The command that shuts off the program named after it; empty where bubblewrap is absent or may not do it."""
    if (program := shutil.which("bwrap")) is None:
        return ()
    command = [program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.getuid() == 0:  # root needs no namespace of users, and becomes nobody, whom limits bind, before the code runs
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user"]
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    command += [word for seen in SEEN for word in ("--ro-bind-try", seen, seen)]
    command += ["--ro-bind", sys.base_prefix, sys.base_prefix, "--tmpfs", "/tmp", "--chdir", "/tmp"]
    tried = subprocess.run([*command, _python(), "-I", "-S", "-c", "pass"], capture_output=True, check=False)
    return () if tried.returncode else tuple(command)


def _python() -> str:
    return os.path.realpath(sys.executable)  # that of a virtual environment is a link into base_prefix


def passes(code: str, tests: Sequence[str], seconds: float = 2.0, megabytes: int = 512) -> bool:
    """Whether `code` runs and every one of `tests` (Python statements such as `assert add_2(3) == 5`) holds.

    `seconds` are of wall time, from when the interpreter is ready; `megabytes` are of address space, of which the
    interpreter itself takes about 40. The code's `__name__` is "solution", so its `if __name__ == "__main__":` is
    skipped; it may import the modules of the standard library that `_RUNNER` imports and no others. An error, an exit
    and an exceeded limit all count as failure.

    Raises `TuningVecError` where code may not be run (`lacking`), for no tests, for limits that are not positive, where
    the platform has no limits to set (Windows) and where the interpreter does not start.
    """
    _check(tests, seconds, megabytes)
    if lack := lacking():
        raise TuningVecError(f"this machine {lack}")
    token = secrets.token_hex(16)
    cpu = math.ceil(seconds) + 1  # the interpreter's start counts too
    task = {"code": code, "tests": list(tests), "token": token, "cpu": cpu, "bytes": megabytes * 2**20}
    with _interpreter() as child:
        with suppress(BrokenPipeError), child.stdin as pipe:
            pipe.write(json.dumps(task).encode())
        report = child.stdout.fileno()
        if not os.read(report, 1):
            raise TuningVecError(
                f"{sys.executable} ended before the code could run: check that `{sys.executable} -I -S -c pass` works, "
                f"or give it more than {megabytes} megabytes"
            )
        return bool(wait([report], seconds)) and os.read(report, 64) == token.encode()


def _check(tests: Sequence[str], seconds: float, megabytes: int) -> None:
    if isinstance(tests, str) or not tests:
        raise TuningVecError("tests: give a list of at least one statement; without any, all code would pass")
    if not 0 < seconds < math.inf or megabytes <= 0:
        raise TuningVecError(f"seconds = {seconds}, megabytes = {megabytes}: give positive, finite limits")
    if importlib.util.find_spec("resource") is None:
        raise TuningVecError("this platform cannot limit a process: use Linux or macOS (or WSL)")


@contextmanager
def _interpreter() -> Iterator[subprocess.Popen[bytes]]:
    """A bare interpreter with an empty folder and a session of its own, all of which are gone afterwards."""
    command = [*_shut_off(), _python(), "-I", "-S", "-c", _RUNNER]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with (
        tempfile.TemporaryDirectory(prefix="tuningvec-") as folder,
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nowhere, cwd=folder, env={}, start_new_session=True
        ) as child,
    ):
        try:
            yield child
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS refuses where the group has ended already
                os.killpg(child.pid, signal.SIGKILL)

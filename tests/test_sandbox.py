import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time

import pytest

from tuningvec.errors import TuningVecError
from tuningvec.tasks import sandbox
from tuningvec.tasks.sandbox import passes

ADD = "def add_2(x):\n    return x + 2\n"

# Tells the parent whatever it can find that may be the token, on every descriptor, and leaves.
FORGE = """
import gc, os, re, sys

def strings(thing, depth):
    if isinstance(thing, bytes):
        yield thing
    elif isinstance(thing, str):
        yield thing.encode(errors="replace")
    elif depth and isinstance(thing, dict):
        for pair in list(thing.items()):
            yield from strings(list(pair), depth - 1)
    elif depth and isinstance(thing, (list, tuple, set)):
        for each in list(thing):
            yield from strings(each, depth - 1)

def places():
    frame = sys._getframe()
    while frame:
        yield from (frame.f_locals, frame.f_globals, frame.f_code.co_consts)
        frame = frame.f_back
    yield vars(sys.modules["__main__"])
    yield vars(sys)
    try:
        yield from gc.get_objects()
    except PermissionError:
        pass
    try:
        yield os.read(0, 10**6)
    except OSError:
        pass

found = {word for place in places() for s in strings(place, 4) for word in re.findall(rb"\\b[0-9a-f]{32}\\b", s)}
for word in found:
    for descriptor in range(20):
        try:
            os.write(descriptor, word)
        except OSError:
            pass
os._exit(0)
"""


def attempt(statement):
    """Code whose `f` tells whether `statement` went through."""
    return f"""
import os, sys

def f():
    try:
        {statement}
    except (OSError, ImportError, AttributeError, RuntimeError):
        return False
    return True
"""


def test_right_code_passes_and_wrong_code_does_not():
    assert passes(ADD, ["assert add_2(3) == 5", "assert add_2(-2) == 0"])
    assert not passes(ADD, ["assert add_2(3) == 5", "assert add_2(3) == 6"])
    assert not passes("def add_2(x):\n    return x - 2\n", ["assert add_2(3) == 5"])


@pytest.mark.parametrize(
    "code",
    [
        "def add_2(x) return x + 2",
        "def add_2(x):\n    return x + 2\nreturn",
        ADD + "'''",
        ADD + "\0",
        ADD + "'\ud800'",
        ADD + "1 / 0",
        "",
    ],
    ids=["syntax", "return", "open string", "null", "surrogate", "error", "nothing"],
)
def test_code_that_does_not_compile_or_run_fails(code):
    assert not passes(code, ["assert add_2(3) == 5"])


def test_a_test_that_does_not_compile_fails():
    assert not passes(ADD, ["assert add_2(3) == 5", "assert add_2(3) == "])


def test_ordinary_solutions_have_what_they_import():
    code = """
from __future__ import annotations

import codecs
import math, re, collections, itertools, json, random, statistics
from collections import namedtuple
from dataclasses import dataclass
from datetime import datetime
from typing import List, get_type_hints

try:
    import numpy
except ImportError:
    numpy = None

@dataclass
class Point:
    x: int
    y: float = 0.0

Pair = namedtuple("Pair", "a b")

def words(text: str) -> List[str]:
    return re.findall(r"\\w+", text)

print(words("printing is \N{BULLET} allowed"))
if __name__ == "__main__":
    print(input("number: "))
"""
    tests = [
        'assert words("a b, a") == ["a", "b", "a"] and get_type_hints(words)["return"] == List[str]',
        'assert collections.Counter(words("a b, a"))["a"] == 2 and Pair(1, 2).b == 2',
        "assert Point(math.gcd(4, 6)) == Point(2) and 0 <= random.random() < 1",
        'assert json.loads("[1]") == [1] and statistics.mean([1, 3]) == 2 and list(itertools.chain([1])) == [1]',
        'assert datetime.strptime("2025-10-09", "%Y-%m-%d").day == 9 and codecs.encode("a", "rot13") == "n"',
        'assert numpy is None and len(str(3**8000)) > 3000 and "é".encode("latin-1") == b"\\xe9"',
    ]
    assert passes(code, tests)


def test_code_longer_than_a_pipe_arrives():
    assert passes(ADD + "#" * 300_000, ["assert add_2(3) == 5"])


@pytest.mark.parametrize("statement", ["while True: pass", "import time; time.sleep(60)"])
def test_code_that_does_not_end_is_stopped(statement):
    began = time.monotonic()
    assert not passes(f"def f():\n    {statement}\n", ["f()"], seconds=0.2)
    assert time.monotonic() - began < 5


def test_time_counts_from_when_the_interpreter_is_ready():
    sleeps = "import time\ntime.sleep(0.3)\n"
    assert passes(sleeps, ["pass"], seconds=2) and not passes(sleeps, ["pass"], seconds=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit a process's memory")
def test_memory_is_limited():
    assert not passes("x = [0] * 10**9", ["assert len(x) == 10**9"])
    assert not passes("x = bytearray(10**8)", ["assert x"], megabytes=100)
    assert passes("x = bytearray(10**8)", ["assert x"], megabytes=300)


@pytest.mark.parametrize("code", ["def f(n):\n    return f(n + 1)\n", "f = eval('(' * 10**5)", "f = 10**10**9"])
def test_what_exhausts_the_interpreter_fails(code):
    assert not passes(code, ["f(0)"], seconds=0.5)


@pytest.mark.parametrize(
    "statement",
    [
        "open('/etc/passwd').read()",
        "open('new', 'w').write('text')",
        "os.open('/etc/passwd', os.O_RDONLY)",
        "__import__('io').FileIO('/etc/passwd')",
        "os.listdir('/')",
        "os.mkdir('new')",
        "os.remove('/nowhere/at/all')",
        "os.mkfifo('new')",
        "__import__('posix').mkfifo('new')",
        "os.pipe()",
        "os.dup(0)",
        "os.system('true')",
        "os.popen('true').read()",
        "os.fork() or os._exit(0)",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.killpg(os.getpgid(os.getppid()), 0)",
        "import threading; threading.Thread(target=print).start()",
        "import subprocess; subprocess.run(['true'])",
        "import _posixsubprocess",
        "import multiprocessing",
        "import socket; socket.socket()",
        "import _socket; _socket.socket()",
        "import urllib.request",
        "import ctypes; ctypes.CDLL(None)",
        "import tuningvec",
        "__import__('resource').setrlimit(7, (9, 9))",
    ],
)
def test_nothing_outside_is_reached(statement):
    code = attempt(statement)
    assert passes(code, ["assert f() is False"])
    assert not passes(code, ["assert f()"])


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "abc")
    assert passes("import os", ["assert 'SECRET_KEY' not in os.environ and 'HOME' not in os.environ"])


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\nos._exit(0)",
        "import os\nprint('True r', flush=True)\nos.write(1, b'r' * 32)\nos._exit(0)",
        "import os\nfor i in range(10**6): os.write(3, b'r' * 100)",
        "import os\nos.closerange(0, 20)",
        "import builtins\nbuiltins.exec = builtins.compile = lambda *_: None\nbuiltins.AssertionError = int",
        "import os\nos.write = os._exit = lambda *_: None",
        "import __main__\nvars(__main__).update(program='', parts=[], space={}, exec=lambda *_: None)",
        "import sys\nsys.settrace(lambda *_: None)",
        "import os, signal\nos.kill = print\nsignal.raise_signal(9)",
        "import atexit, os\natexit.register(os._exit, 0)",
        FORGE,
    ],
)
@pytest.mark.parametrize("when", ["as it is defined", "as it is called"])
def test_success_is_not_forged(code, when):
    if when == "as it is called":
        code = f"def add_2(x):\n    exec({code!r}, {{}})\n    return 0\n"
    assert not passes(code, ["assert add_2(3) == 5"])


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    started = []

    class Remembered(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Remembered)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for code in (ADD, "", "while True: pass", "import signal, time\nsignal.alarm(0)\ntime.sleep(60)"):
        passes(code, ["assert add_2(3) == 5"], seconds=0.2)
    assert len(started) == 4 and not list(tmp_path.iterdir())
    for child in started:
        assert child.returncode is not None and child.stdin.closed and child.stdout.closed
        with pytest.raises(ProcessLookupError):
            os.killpg(child.pid, 0)


@pytest.mark.parametrize(
    ("tests", "limits", "message"),
    [
        ([], {}, "at least one"),
        ("assert add_2(3) == 5", {}, "at least one"),
        (["pass"], {"seconds": 0}, "seconds = 0"),
        (["pass"], {"seconds": -1.0}, "seconds = -1"),
        (["pass"], {"seconds": math.nan}, "seconds = nan"),
        (["pass"], {"seconds": math.inf}, "seconds = inf"),
        (["pass"], {"megabytes": 0}, "megabytes = 0"),
    ],
)
def test_arguments_that_decide_nothing_are_refused(tests, limits, message):
    with pytest.raises(TuningVecError, match=message):
        passes(ADD, tests, **limits)


def test_without_bubblewrap_and_leave_no_code_is_run(monkeypatch):
    monkeypatch.setattr(sandbox, "_shut_off", tuple)
    assert passes(ADD, ["assert add_2(3) == 5"])
    monkeypatch.delenv(sandbox.CONSENT)
    with pytest.raises(TuningVecError, match=r"no bubblewrap that works \(`bwrap`\).* set `HF_ALLOW_CODE_EVAL=1`"):
        passes(ADD, ["assert add_2(3) == 5"])


@pytest.mark.skipif(not sandbox._shut_off(), reason="there is no bubblewrap that works")
@pytest.mark.parametrize("path", [__file__, "/etc/passwd", "/proc/1/environ"])
def test_bubblewrap_shows_no_file_and_lets_right_code_pass(monkeypatch, path):
    monkeypatch.delenv(sandbox.CONSENT)
    assert passes(ADD, ["assert add_2(3) == 5"])
    look = f"import os\ntry:\n    os.readlink({path!r})\nexcept OSError as error:\n    f = lambda: error.errno"
    assert passes(look.replace("error.errno", "1"), ["assert f() == 1"])
    assert not passes(f"import os\nf = lambda: os.stat({path!r}).st_size", ["assert f() >= 0"])


def test_a_platform_without_limits_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert importlib.util.find_spec("resource") is None
    with pytest.raises(TuningVecError, match="cannot limit"):
        passes(ADD, ["pass"])


def test_an_interpreter_that_does_not_start_is_an_error_and_no_failure(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TuningVecError, match="before the code could run"):
        passes(ADD, ["pass"])

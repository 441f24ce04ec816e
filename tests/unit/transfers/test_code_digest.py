# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Two functions have the same digest where their code is the same, in any process, and another one where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.transfers.code_digest import UnknownCodeError, code_digest


def transform_of(source: str, *, file: str = "dag.py") -> Any:
    names: dict[str, Any] = {"__name__": "dag"}
    exec(compile(textwrap.dedent(source), file, "exec"), names)
    return names["transform"]


HELPER = """
    LIMIT = {limit}
    def inner(frame): return frame.head(LIMIT)
    def helper(frame): return inner(frame)
    def transform(frame): return helper(frame)
"""
CLOSURE = """
    def make(n, names): return lambda frame: frame.head(n)[names]
    transform = make({n}, {names})
"""
OBJECT = """
    class Base:
        def limit(self): return {limit}
    class Cut(Base):
        step = {step}
        def __init__(self, n): self.n = n
        def __call__(self, frame): return frame.head(self.n + self.limit() + self.step)
    transform = Cut({n})
"""

DECORATED = """
    import functools
    def decorate(f):
        @functools.wraps(f)
        def called(frame): return f(frame){after}
        return called
    @decorate
    def transform(frame): return frame.{what}
"""

OTHER = {
    "two lambdas": ("transform = lambda f: f.head(1)", "transform = lambda f: f.head(2)"),
    "another method": ("transform = lambda f: f.head(1)", "transform = lambda f: f.tail(1)"),
    "1 and True": ("transform = lambda f: f.assign(a=1)", "transform = lambda f: f.assign(a=True)"),
    "0.0 and -0.0": ("transform = lambda f: f.assign(a=0.0)", "transform = lambda f: f.assign(a=-0.0)"),
    "a text and bytes": ("transform = lambda f: f.assign(a='x')", "transform = lambda f: f.assign(a=b'x')"),
    "a fixed operator": ("transform = lambda f: f[f.a > 1]", "transform = lambda f: f[f.a >= 1]"),
    "a default": ("def transform(f, n=1): return f.head(n)", "def transform(f, n=2): return f.head(n)"),
    "a keyword default": ("def transform(f, *, n=1): return f.head(n)", "def transform(f, *, n=2): return f.head(n)"),
    "what is caught": (
        "def transform(f):\n  try: return f.a\n  except KeyError: return f",
        "def transform(f):\n  try: return f.a\n  except AttributeError: return f",
    ),
    "a nested function": (
        "def transform(f):\n  def g(x): return x + 1\n  return f.map(g)",
        "def transform(f):\n  def g(x): return x + 2\n  return f.map(g)",
    ),
    "a constant that a nested function names": (
        "K = 1\ndef transform(f): return f.map(lambda x: x + K)",
        "K = 2\ndef transform(f): return f.map(lambda x: x + K)",
    ),
    "a constant behind two helpers": (HELPER.format(limit=1), HELPER.format(limit=2)),
    "a helper": ("def g(f): return f.a\ndef transform(f): return g(f)", "def g(f): return f.b\ndef transform(f): return g(f)"),
    "a helper that was not there": ("def transform(f): return g(f)", "def g(f): return f.b\ndef transform(f): return g(f)"),
    "a name that hides a builtin": ("def transform(f): return len(f)", "def len(f): return 0\ndef transform(f): return len(f)"),
    "a value in a closure": (CLOSURE.format(n=1, names=["a"]), CLOSURE.format(n=2, names=["a"])),
    "a list in a closure": (CLOSURE.format(n=1, names=["a"]), CLOSURE.format(n=1, names=["a", "b"])),
    "the order of a list": (CLOSURE.format(n=1, names=["a", "b"]), CLOSURE.format(n=1, names=["b", "a"])),
    "a decorated function": (DECORATED.format(after="", what="a"), DECORATED.format(after="", what="b")),
    "a decorator": (DECORATED.format(after="", what="a"), DECORATED.format(after=".b", what="a")),
    "a cached helper": (
        "import functools\n@functools.lru_cache\ndef g(n): return n\ndef transform(f): return f.head(g(1))",
        "import functools\n@functools.lru_cache\ndef g(n): return n + 1\ndef transform(f): return f.head(g(1))",
    ),
    "partial's arguments": (
        "import functools\ndef g(f, n): return f.head(n)\ntransform = functools.partial(g, n=1)",
        "import functools\ndef g(f, n): return f.head(n)\ntransform = functools.partial(g, n=2)",
    ),
    "partial's function": (
        "import functools\ndef g(f, n): return f.head(n)\ntransform = functools.partial(g, n=1)",
        "import functools\ndef g(f, n): return f.tail(n)\ntransform = functools.partial(g, n=1)",
    ),
    "methodcaller's arguments": (
        "import operator\ntransform = operator.methodcaller('head', 1)",
        "import operator\ntransform = operator.methodcaller('head', 2)",
    ),
    "an object's state": (OBJECT.format(limit=1, step=1, n=1), OBJECT.format(limit=1, step=1, n=2)),
    "an object's class": (OBJECT.format(limit=1, step=1, n=1), OBJECT.format(limit=1, step=2, n=1)),
    "the base of its class": (OBJECT.format(limit=1, step=1, n=1), OBJECT.format(limit=2, step=1, n=1)),
    "a bound method": (
        OBJECT.format(limit=1, step=1, n=1) + "\n    transform = transform.__call__",
        OBJECT.format(limit=1, step=1, n=2) + "\n    transform = transform.__call__",
    ),
    "slots": (
        "class C:\n  __slots__ = ('n',)\n  def __call__(self, f): return f.head(self.n)\ntransform = C()\ntransform.n = 1",
        "class C:\n  __slots__ = ('n',)\n  def __call__(self, f): return f.head(self.n)\ntransform = C()\ntransform.n = 2",
    ),
    "a regular expression": (
        "import re\nP = re.compile('a')\ntransform = lambda f: f.filter(regex=P)",
        "import re\nP = re.compile('a', re.I)\ntransform = lambda f: f.filter(regex=P)",
    ),
    "a member of a set": ("S = {'a'}\ntransform = lambda f: f[[*S]]", "S = {'b'}\ntransform = lambda f: f[[*S]]"),
    "a set in the code": ("transform = lambda f: f if f.a in {1, 2} else 0", "transform = lambda f: f if f.a in {1, 3} else 0"),
    "a value of a mapping": ("M = {'a': 1}\ntransform = lambda f: f.map(M)", "M = {'a': 2}\ntransform = lambda f: f.map(M)"),
    "a table to look up in": (
        "import pandas as pd\nT = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\ntransform = lambda f: f.merge(T)",
        "import pandas as pd\nT = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\ntransform = lambda f: f.merge(T)",
    ),
    "an enumeration": (
        "import enum\nclass C(enum.Enum):\n  A = 1\n  B = 2\ntransform = lambda f: f[C.A.value]",
        "import enum\nclass C(enum.Enum):\n  A = 3\n  B = 2\ntransform = lambda f: f[C.A.value]",
    ),
    "a method of pandas": (
        "import pandas as pd\ntransform = pd.DataFrame.dropna",
        "import pandas as pd\ntransform = pd.DataFrame.drop_duplicates",
    ),
    "none and some": ("transform = None", "transform = lambda f: f"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_other_code_has_another_digest(case: str) -> None:
    one, other = map(transform_of, OTHER[case])
    assert code_digest(one) != code_digest(other)
    for source in OTHER[case]:
        assert code_digest(transform_of(source)) == code_digest(
            transform_of("# a comment above\n\n" + textwrap.dedent(source), file="moved.py")
        )


SAME = {
    "comments and docstrings": (
        "def transform(f):\n  'One.'\n  return f.head(1)",
        "# Explained.\ndef transform(f):\n  '''Two.'''\n\n  # why\n  return f.head(1)",
    ),
    "the order of a set": ("S = {'a', 'b'}\ntransform = lambda f: f[[*S]]", "S = {'b', 'a'}\ntransform = lambda f: f[[*S]]"),
    "another name": ("def transform(f): return f.a", "def better(f): return f.a\ntransform = better"),
    "what it does not name": ("K = 1\ntransform = lambda f: f.a", "K = 2\ntransform = lambda f: f.a"),
    "annotations": ("def transform(f): return f.a", "from __future__ import annotations\ndef transform(f: int): return f.a"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_what_only_explains_does_not_count(case: str) -> None:
    one, other = map(transform_of, SAME[case])
    assert code_digest(one) == code_digest(other)


UNKNOWN = {
    "a lock": "import threading\nL = threading.Lock()\ndef transform(f):\n  with L: return f",
    "a lock in a closure": "import threading\ndef make(lock): return lambda f: lock and f\ntransform = make(threading.Lock())",
    "a generator": "G = (n for n in ())\ntransform = lambda f: next(G)",
    "a state that raises": (
        "class C:\n  def __call__(self, f): return f\n  def __reduce_ex__(self, p): raise ValueError('SECRET')\ntransform = C()"
    ),
    "a function of C": "import ctypes\ntransform = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)",
    "a module that cannot be imported": "def transform(f):\n  import not_there_at_all\n  return f",
    "too deep": "transform = []\nfor _ in range(5000): transform = [transform]",
    "too much": "transform = [[n] for n in range(200_000)]",
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_known_says_so(case: str) -> None:
    with pytest.raises(UnknownCodeError) as unknown:
        code_digest(transform_of(UNKNOWN[case]))
    assert "SECRET" not in str(unknown.value)


ROUND = {
    "a function that calls itself": "def transform(f, n=0): return transform(f, 1) if not n else f",
    "two that call each other": "def g(f): return transform(f)\ndef transform(f): return g(f)",
    "a list in itself": "L = []\nL.append(L)\ntransform = lambda f: f[L]",
    "a class with a method that names it": "class C:\n  def __call__(self, f): return C()(f)\ntransform = C()",
    "super": "class B: pass\nclass C(B):\n  def __call__(self, f): return super().__call__(f)\ntransform = C()",
    "a great whole number": "N = 10 ** 6000\ntransform = lambda f: f + N",
}  # fmt: skip


@pytest.mark.parametrize("case", ROUND)
def test_what_leads_back_to_itself_ends(case: str) -> None:
    assert code_digest(transform_of(ROUND[case])) == code_digest(transform_of(ROUND[case]))


MODULE = "LIMIT = {limit}\nUNUSED = {unused}\ndef cut(frame): return frame.head(LIMIT)\n"
USES = {
    "from": "from a_helper import cut\ntransform = lambda f: cut(f)",
    "module": "import a_helper\ntransform = lambda f: a_helper.cut(f)",
    "inside": "def transform(f):\n  from a_helper import cut\n  return cut(f)",
    "inside, whole": "def transform(f):\n  import a_helper\n  return a_helper.cut(f)",
    "by name": "import a_helper\ntransform = lambda f: getattr(a_helper, 'cut')(f)",
}
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
sys.dont_write_bytecode = True
from limio_limitrail.transfers.code_digest import code_digest
names = dict(__name__="dag")
exec(compile({source!r}, "dag.py", "exec"), names)
print(code_digest(names["transform"]))
"""


def digest_in_a_process(folder: Path, source: str, *, seed: int = 0) -> str:
    script = SCRIPT.format(folder=str(folder), source=textwrap.dedent(source))
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("use", USES)
def test_a_module_of_the_users_own_counts(use: str, tmp_path: Path) -> None:
    def digest(**values: int) -> str:
        (tmp_path / "a_helper.py").write_text(MODULE.format(**values))
        return digest_in_a_process(tmp_path, USES[use])

    first = digest(limit=1, unused=1)
    assert digest(limit=1, unused=1) == first
    assert digest(limit=2, unused=1) != first


EVERYTHING = """
import dataclasses, decimal, enum, functools, logging, re, zoneinfo
import numpy as np
LOG = logging.getLogger(__name__)
NAMES = {"a", "b", "c", "d", ("e", "f"), frozenset({"g", "h"})}
LOOK = np.array([1, "x", {"u", "v", "w"}], dtype=object)
class Color(enum.StrEnum):
    RED = "r"
    BLUE = "b"
@dataclasses.dataclass(frozen=True)
class Config:
    names: frozenset = frozenset({"x", "y", "z"})
    @functools.cached_property
    def many(self): return sorted(self.names)
CONFIG = Config()
@functools.lru_cache
def cached(n): return n
def transform(frame, zone=zoneinfo.ZoneInfo("Europe/Berlin"), n=decimal.Decimal("1.5")):
    '''Do all of it.'''
    LOG.info("%s", object())
    frame = frame[[c for c in frame if c in {"p", "q", "r"} or c in NAMES or c in CONFIG.names]]
    try:
        return frame.merge(LOOK).assign(a=np.where(frame.a > cached(1), Color.RED, np.nan)).map(lambda v: re.sub("x", "y", v))
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"{error!r:>5}") from None
"""


def test_the_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    assert len({digest_in_a_process(tmp_path, EVERYTHING, seed=seed) for seed in range(4)}) == 1

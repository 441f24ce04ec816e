# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Build the wheel and the sdist, and check what they hold and that the wheel works: ``python tests/packaging/make_dist.py UV``.

UV is the uv to build and install with. All is made in dist/ and build/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
BUILD = ROOT / "build"
PACKAGE = "limio_limitrail"
PROJECT = "airflow-provider-limio-limitrail"

ENTRY_POINT = f"[apache_airflow_provider]\nprovider_info = {PACKAGE}.provider_info:get_provider_info"
IN_BOTH = (
    "plugins/usage_page/page.html",
    "__init__.py",
    "py.typed",
    "provider_info.py",
    "emulator/__main__.py",
    "emulator/pytest_plugin.py",
)
IN_THE_SDIST = [
    *["LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", "pyproject.toml", "constraints.txt", "Makefile"],
    ".airflow-registry.yaml",
    *["docs/index.md", "docs/how-to/troubleshooting.md", "tests/conftest.py", "dags_examples/demo/run.py"],
]
# What one finds in a working folder and must not send: caches, byte code, environments, databases, logs, earlier builds.
RESIDUE = re.compile(
    r"(^|/)(__pycache__|\.(venv|uv|git|demo|matrix|hypothesis|import_linter_cache|\w+_cache)|build|dist|node_modules|\.DS_Store)(/|$)"
    r"|\.(py[cod]|so|db|duckdb|sqlite|log|whl|gz|orig|rej|swp)$|\.egg-info(/|$)"
)
IMPORT_ALL = f"""
import importlib, pkgutil, sys, warnings, {PACKAGE}
warnings.filterwarnings("error", category=DeprecationWarning, module="{PACKAGE}")
names = [module.name for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}.", onerror=print)]
public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
if "--without-extras" in sys.argv:
    public = [name for name in public if not name.startswith(("{PACKAGE}.emulator", "{PACKAGE}.landing.dlt."))]
for name in public:
    importlib.import_module(name)
assert "site-packages" in {PACKAGE}.__file__, {PACKAGE}.__file__
print(len(public), "modules")
"""

failures: list[str] = []


def check(fine: object, what: str) -> None:
    """Say whether something is so."""
    print(f"{'ok    ' if fine else 'FAILED'} {what}", flush=True)
    if not fine:
        failures.append(what)


def run(what: str, *command: object) -> str:
    """Run a program, say what for, and end if it fails."""
    environment = {**os.environ, "AIRFLOW_HOME": str(BUILD / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([str(part) for part in command], cwd=BUILD, env=environment, capture_output=True, text=True)
    check(done.returncode == 0, what)
    if done.returncode:
        print(done.stdout + done.stderr)
        sys.exit(1)
    return done.stdout


def members(archive: Path) -> dict[str, bytes]:
    """Read an archive: names and what is in them. The names of a sdist lose their folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    top = archive.name.removesuffix(".tar.gz") + "/"
    with tarfile.open(archive) as sdist:
        check(all(member.isfile() and member.name.startswith(top) for member in sdist), f"sdist: only files, all in {top}")
        files = {member.name.removeprefix(top): sdist.extractfile(member) for member in sdist}
        return {name: file.read() for name, file in files.items() if file is not None}


def check_members(kind: str, held: dict[str, bytes], *, wanted: list[str]) -> None:
    """Check what an archive holds, and what it must not."""
    for name in wanted:
        check(name in held, f"{kind}: holds {name}")
    odd = [name for name in held if name.startswith("/") or ".." in name.split("/") or RESIDUE.search(name)]
    check(not odd, f"{kind}: no caches, byte code, build residue or paths that lead out {odd or ''}")
    places = {str(ROOT).encode(), str(Path.home()).encode() + b"/"} - {b"//"}
    telling = [name for name, content in held.items() if any(place in content for place in places)]
    check(not telling, f"{kind}: no path of this machine in any file {telling or ''}")
    print(f"       {kind}: {len(held)} files, {sum(map(len, held.values())):,} bytes unpacked")


def check_wheel(archive: Path, *, version: str) -> None:
    """Check the wheel's files and metadata."""
    held = members(archive)
    info = f"{PROJECT.replace('-', '_')}-{version}.dist-info"
    check_members("wheel", held, wanted=[*(f"{PACKAGE}/{name}" for name in IN_BOTH), f"{info}/licenses/LICENSE"])
    strange = [name for name in held if not name.startswith((f"{PACKAGE}/", f"{info}/"))]
    check(not strange, f"wheel: only the package and its metadata, no tests {strange or ''}")
    pages = {name for name in held if name.startswith(f"{PACKAGE}/docs/") and name.endswith(".md")}
    check(f"{PACKAGE}/docs/how-to/troubleshooting.md" in pages, "wheel: holds the page that error messages link to")
    allowed = (".py", "/py.typed", "/plugins/usage_page/page.html")
    foreign = [name for name in held if name.startswith(f"{PACKAGE}/") and not name.endswith(allowed) and name not in pages]
    check(not foreign, f"wheel: only Python files, py.typed, the page Usage and pages of the docs in the package {foreign or ''}")
    check(ENTRY_POINT in held.get(f"{info}/entry_points.txt", b"").decode(), "wheel: has the entry point apache_airflow_provider")
    metadata = held.get(f"{info}/METADATA", b"").decode()
    check(f"\nVersion: {version}\n" in metadata, f"wheel: its metadata says version {version}")
    sources = {path.relative_to(ROOT / "provider").as_posix() for path in (ROOT / "provider" / PACKAGE).rglob("*.py")}
    check(sources <= set(held), f"wheel: every module of provider/ is in it {sorted(sources - set(held)) or ''}")


def main(uv: str) -> None:
    """Build, look into what was built, install it, use it."""
    for old in (DIST, BUILD):
        shutil.rmtree(old, ignore_errors=True)
    BUILD.mkdir()
    run("uv build", uv, "build", "--python", sys.executable, "--out-dir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    version = wheel.name.split("-")[1]
    check_members("sdist", members(sdist), wanted=[*(f"provider/{PACKAGE}/{name}" for name in IN_BOTH), *IN_THE_SDIST])
    check_wheel(wheel, version=version)

    def environment(name: str, *what: object) -> Path:
        if not (BUILD / name).exists():
            run(f"a new virtual environment in build/{name}", uv, "venv", "--python", sys.executable, BUILD / name)
        pins = ("--constraints", ROOT / "constraints.txt")
        run(f"build/{name}: install {what[-1]}", uv, "pip", "install", "--python", BUILD / name / "bin/python", *pins, *what)
        return BUILD / name / "bin"

    tools = environment("tools", "--group", f"{ROOT / 'pyproject.toml'}:dist")
    run("twine check --strict", tools / "twine", "check", "--strict", wheel, sdist)
    run("check-wheel-contents", tools / "check-wheel-contents", wheel)

    clean = environment("clean", wheel)
    listed = run("airflow providers list", clean / "airflow", "providers", "list", "--output", "plain")
    rows = [line for line in listed.splitlines() if line.startswith(PROJECT)]
    check(len(rows) == 1 and version in rows[0], f"airflow lists the provider once, with its version: {' '.join(rows)}")
    told = run("import what needs no extra", clean / "python", "-c", IMPORT_ALL, "--without-extras")
    print(f"       {told.strip()}")
    environment("clean", "mypy", "pandas-stubs", "pytest", f"{wheel}[dlt,duckdb,emulator,postgres]")
    print(f"       {run('import every public module', clean / 'python', '-c', IMPORT_ALL).strip()}")
    run("mypy --strict on a user's Dag", clean / "mypy", "--config-file=", "--strict", ROOT / "tests/typing/user_dag.py")
    run("the emulator starts", clean / "python", "-m", f"{PACKAGE}.emulator", "--help")
    check(not failures, f"{wheel.name}, {sdist.name}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main(sys.argv[1])

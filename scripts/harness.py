"""What scripts/conformance, scripts/interop and scripts/telemetry share: processes that end with the script, and the sidecar."""

import argparse
import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COUNTERPARTS = ROOT / "scripts" / "counterparts"


class Trouble(Exception):
    """The suite cannot run, or its control does not hold. Not a verdict on the sidecar."""


class Process:
    """A process in a group of its own, its output in files: `NAME.log`, and `NAME.out` if that is to be kept apart."""

    def __init__(
        self, logs: Path, name: str, command: Sequence[object], environment: dict[str, str], apart: bool
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.out = logs / f"{name}.out" if apart else self.log
        self._ended = False
        with self.log.open("wb") as errors, self.out.open("wb") if apart else nullcontext(errors) as output:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=os.environ | environment,
                start_new_session=True,
            )

    def await_line(self, pattern: str, limit: float = 20) -> re.Match[str]:
        """The first match in the output."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace")
            if match := re.search(pattern, text):
                return match
            if self.popen.poll() is not None:
                raise Trouble(f"{self.name} ended with {self.popen.returncode}: {text[-600:].strip()}")
            time.sleep(0.02)
        raise Trouble(f"{self.name} did not say {pattern!r} within {limit:.0f} s; see {self.log}")

    def await_port(self, port: int, limit: float = 20) -> None:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self.popen.poll() is not None:
                raise Trouble(f"{self.name} ended with {self.popen.returncode}; see {self.log}")
            time.sleep(0.02)
        raise Trouble(f"{self.name} does not listen on {port}; see {self.log}")

    def wait(self, limit: float) -> int | None:
        """Its exit code once it ends by itself; None if it had to be killed."""
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = self.popen.wait(limit)
        if not self._ended:
            self._ended = True
            self._signal(signal.SIGKILL)  # it, and whatever it has left behind in its group
        self.popen.wait()
        return code

    def stop(self, limit: float = 10) -> int | None:
        """Asks it to end and gives its exit code; None if it had to be killed."""
        if self.popen.poll() is None:
            self._signal(signal.SIGTERM)
        return self.wait(limit)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


class Processes:
    """All processes of a run; they end with the script, however it ends."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._all: list[Process] = []
        atexit.register(self.stop_all)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        # Not by an exception: worker threads would go on starting clients meanwhile.
        self.stop_all()
        os._exit(128 + number)

    def start(
        self, name: str, command: Sequence[object], environment: dict[str, str] | None = None, apart: bool = False
    ) -> Process:
        process = Process(self.logs, name, command, environment or {}, apart)
        self._all.append(process)
        return process

    def sidecar(
        self, name: str, binary: Path, upstream: str, *arguments: object, environment: dict[str, str] | None = None
    ) -> tuple[Process, int]:
        """`outrigger run` in front of a server, and the port that it chose."""
        command = [binary, "run", "--listen", "127.0.0.1:0", upstream, *arguments]
        process = self.start(name, command, environment)
        return process, int(process.await_line(r"listening on http://127\.0\.0\.1:(\d+)")[1])

    def stop_all(self) -> None:
        enders = [threading.Thread(target=process.stop, args=(2,)) for process in self._all]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self._all.clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def counterpart(name: str, *arguments: object) -> list[object]:
    return [COUNTERPARTS, "run", name, *arguments]


def counterpart_folder(name: str) -> Path:
    folder = subprocess.run([COUNTERPARTS, "path", name], capture_output=True, text=True, check=True).stdout.strip()
    return Path(folder)


def install(names: Sequence[str]) -> None:
    """Installs counterparts; quick where they are there already."""
    result = subprocess.run([COUNTERPARTS, *names], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Trouble(f"not all counterparts are ready\n{result.stdout}")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "binary",
        nargs="?",
        type=Path,
        help="the outrigger binary; default: $OUTRIGGER_BIN, else the newest that cargo has built here",
    )
    parser.add_argument("--output", type=Path, help="keep results and logs in this folder")


def find_binary(given: Path | None) -> Path:
    if given is None and (named := os.environ.get("OUTRIGGER_BIN")):
        given = Path(named)
    if given is not None:
        if not os.access(given, os.X_OK):
            raise Trouble(f"{given} cannot be executed")
        return given.resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for kind in ("debug", "release") if (path := target / kind / "outrigger").exists()]
    if not built:
        raise Trouble("there is no outrigger binary; run cargo build, or name one")
    return max(built, key=lambda path: path.stat().st_mtime)


def output_folder(given: Path | None, prefix: str) -> Path:
    """The named folder, or a temporary one that goes unless the run fails."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.resolve()
    return Path(tempfile.mkdtemp(prefix=f"outrigger-{prefix}-"))


def conclude(differences: Sequence[str], folder: Path, given: Path | None, summary: str) -> int:
    """Prints what differs, keeps the logs of a run that failed, and gives the exit code."""
    if differences:
        print(f"\n{len(differences)} differences:", *differences, sep="\n  ")
        print(f"\nlogs and results: {folder}")
        return 1
    if given is None:
        shutil.rmtree(folder, ignore_errors=True)
    print(summary)
    return 0


def run_main(main) -> None:
    """Exit code 0 equal, 1 different, 2 could not be judged."""
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(f"cannot judge: {trouble}", file=sys.stderr)
        sys.exit(2)

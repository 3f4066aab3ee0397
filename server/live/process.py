"""The worker as a child process: started once, started again after it died, ended with its owner.

with spawn_worker(settings) as worker:
    WorkerClient(worker) ...
"""

import atexit
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from lexiscope.errors import LexiscopeError
from lexiscope.files import temporary_folder
from lexiscope.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 150.0
"""a busy machine takes long to import torch; less than LEXISCOPE_RESPONSE_SECONDS, which is another error"""


class WorkerDown(LexiscopeError):
    """The worker process cannot be started."""


class WorkerProcess:
    """One worker process behind a unix domain socket that only this user can open. Methods may be called from
    any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._healthy = False
        self._closed = False
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(temporary_folder("lexiscope-worker-")) / "socket"
        self.url = f"unix://{self.socket}"
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The id of the running process, None if there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def starting(self) -> bool:
        """Whether a process runs that has not responded yet."""
        return self.pid is not None and not self._healthy

    def start(self) -> None:
        """Start the process if it is not running. Returns at once; the worker responds some seconds later."""
        with self._lock:
            self._start()

    def ensure(self) -> None:
        """Return when a process is running and responds. Starts one if the last has died. Raises
        WorkerDown.
        """
        with self._lock:
            process = self._start()
            deadline = time.monotonic() + START_SECONDS
            while not self._healthy:
                if self._closed:
                    raise WorkerDown("The server is shutting down.")
                if process.poll() is not None:
                    raise WorkerDown(
                        f"The model worker ended with status {process.returncode} during its start. "
                        "See its log for details."
                    )
                if time.monotonic() > deadline:
                    process.kill()
                    raise WorkerDown(f"The model worker did not respond within {START_SECONDS:.0f} seconds.")
                self._healthy = self.responds()
                if not self._healthy:
                    time.sleep(0.05)

    def has_died(self) -> bool:
        """Whether the process has ended, after its socket refused or dropped a connection. Waits for the end
        of a process that is ending, so that `ensure` starts another.
        """
        process = self._process
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
        return process is None or process.poll() is not None

    def replace(self, process_id: int) -> None:
        """Kill the process of this id, which hangs, and start another, unless that was done before."""
        with self._lock:
            hung = self._process
            if self._closed or hung is None or hung.pid != process_id:
                return
            hung.kill()
            hung.wait()
            self._start()

    def close(self) -> None:
        """End the process and remove its socket. It cannot be started again."""
        self._closed = True  # before the lock, which a call waiting for the process's start holds
        with self._lock:
            if self._process is not None:
                _end(self._process)
            self._stack.close()
        atexit.unregister(self.close)

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._closed:
            raise WorkerDown("The server is shutting down.")
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._healthy = False
        self.socket.unlink(missing_ok=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        settings = {
            f"{PREFIX}{name.upper()}": str(value)
            for name, value in self._settings.model_dump().items()
            if name.startswith(("worker_", "log_"))
        }
        environment = {**os.environ, **settings, "PYTHONPATH": path}
        command = [sys.executable, "-m", "server.live", "--socket", str(self.socket), "--leash"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        return self._process

    def responds(self) -> bool:
        """Whether the process answers for its health now."""
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=False)
        try:
            with httpx.Client(transport=transport, timeout=2) as client:
                return client.get("http://worker/healthz").status_code == 200
        except httpx.TransportError:
            return False


def spawn_worker(settings: Settings, *, wait: bool = True) -> WorkerProcess:
    """A worker that its owner must close (`with`, or `close`). `wait=False` returns before it responds.
    Raises WorkerDown.
    """
    worker = WorkerProcess(settings)
    try:
        worker.ensure() if wait else worker.start()
    except BaseException:
        worker.close()
        raise
    return worker


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

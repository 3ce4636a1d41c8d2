"""Starts a Ray cluster for one run, or joins one; no step of it waits without a bound, and its end is noticed."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants

from mindspeed_dpo.controller.authentication import private_token, token_of
from mindspeed_dpo.controller.local_raylets import (
    PROBE_TIMEOUT_S,
    Raylet,
    gcs_server_pid,
    raylet_of,
)
from mindspeed_dpo.controller.ray_folders import PREFIX, folder_root, private_folder, try_space
from mindspeed_dpo.controller.ray_log_messages import log_ray_messages
from mindspeed_dpo.controller.ray_servers import without_unused_servers
from mindspeed_dpo.device.environment_variables import set_default
from mindspeed_dpo.processes.driver_link import driver_link
from mindspeed_dpo.processes.watched_processes import connection_error

SERVERS = ("raylet", "gcs_server")
"""In the order in which their ends are reported: that of the raylet ends the driver and gcs_server at once."""
OBJECT_STORE_BYTES = 100 * 1024 * 1024
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
SYSTEM_CONFIG: dict[str, Any] = {
    # Ray would keep a record of each call in gcs_server, 3 KB each and 100,000 of them.
    "task_events_report_interval_ms": 0,
    "enable_timeline": False,
}
ENVIRONMENT = {
    "RAY_ROTATION_MAX_BYTES": str(32 * 1024 * 1024),
    "RAY_ROTATION_BACKUP_COUNT": "2",
    # Ray's agents wait this long, in seconds, after gcs_server has ended before they exit.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS": "10",
    # Ray would run its workers at niceness 15, so any other program would take most of their CPU time.
    "RAY_worker_niceness": "0",
}
"""Defaults for the processes of a cluster that a run starts."""
START_LIMIT_S = 120.0
# Ray gives its processes 30 s to start, which is short on a busy machine.
START_ATTEMPTS = 2
JOIN_LIMIT_S = 60.0
_TOKEN_HINT = "a cluster with token authentication accepts only its own token (~/.ray/auth_token, RAY_AUTH_TOKEN_PATH)"


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has too few devices; the message says what it has and what the run needs."""


def raylet_at(address: str) -> Raylet:
    """Return this machine's part of the cluster at `host:port`.

    Raises:
        ClusterError: Nothing responds there, or this machine is no part of that cluster.
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise ClusterError(f"ray_address={address} should be host:port of a Ray cluster's head, such as 10.0.0.1:6344")
    raylet = raylet_of(address)
    error = connection_error(raylet.address if raylet else address, PROBE_TIMEOUT_S)
    if error:
        raise ClusterError(
            f"no Ray cluster responds at {address} ({error}); check ray_address or RAY_ADDRESS, or unset both"
        )
    if raylet is None:
        raise ClusterError(
            f"{address} accepts connections, but this machine is no node of a Ray cluster there; join it with "
            f"ray start --address={address}, or correct ray_address or RAY_ADDRESS"
        )
    return raylet


@contextmanager
def join_raylet(raylet: Raylet) -> Iterator[None]:
    """Connect to a running cluster through this machine's part of it, and disconnect at the end.

    Raises:
        ClusterError: The cluster does not respond, or does not accept this user's token.
    """
    message = f"the Ray cluster at {raylet.address} did not accept this run within {JOIN_LIMIT_S:g} s"
    with ExitStack() as stack:
        stack.enter_context(token_of(raylet.environment))
        try:
            with driver_link.time_limit(JOIN_LIMIT_S, f"{message}; {_TOKEN_HINT}"):
                _connect(lambda: ray.init(address=raylet.address, **QUIET), on_loopback=raylet.is_on_loopback)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            ray.shutdown()
            raise ClusterError(refusal(raylet, error)) from error
        stack.callback(_disconnect)
        _watch(raylet.pid, raylet.address)
        yield


def refusal(raylet: Raylet, error: Exception) -> str:
    """Return the sentence for a cluster that refuses this run."""
    return f"the Ray cluster at {raylet.address} refused this run ({error}); {_TOKEN_HINT}"


@contextmanager
def start_private_cluster(num_cpus: int) -> Iterator[None]:
    """Start a cluster for this run alone, reachable from this machine only, and stop it at the end.

    Args:
        num_cpus: CPUs to declare; processes on the CPU share its cores, so as many as the run needs.

    Raises:
        ClusterError: Ray did not start.
    """
    with ExitStack() as stack:
        stack.enter_context(private_token())
        try:
            folder = str(stack.enter_context(private_folder()))
        except OSError as error:
            raise ClusterError(_unwritable_folder(error)) from error
        for name, value in ENVIRONMENT.items():
            set_default(name, value)
        try:
            with driver_link.time_limit(START_LIMIT_S, f"Ray did not start within {START_LIMIT_S:g} s"):
                _connect(lambda: _start_with_retries(num_cpus, folder), on_loopback=True)
        # Ray raises a bare Exception when its processes do not start in time.
        except Exception as error:
            _disconnect()
            raise ClusterError(
                driver_link.loss()
                or f"Ray did not start on this machine ({error}); it may be overloaded or out of memory: try again, or "
                "start a cluster with `ray start --head` first"
            ) from error
        stack.callback(_disconnect)
        _watch_children()
        yield


def check_folder_root() -> None:
    """Check that the folder of a private cluster can be created and filled; it leaves nothing there.

    Raises:
        ClusterError: It cannot.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder_root()) as folder:
            try_space(Path(folder))
    except OSError as error:
        raise ClusterError(_unwritable_folder(error)) from error


def _unwritable_folder(error: OSError) -> str:
    return f"Ray's folder {folder_root()} cannot be written ({error}); set RAY_TMPDIR to another one"


def _start_with_retries(num_cpus: int, folder: str) -> None:
    """Start Ray, once more if its processes did not start in time."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return _start(num_cpus, folder)
        # Ray raises a bare Exception when its processes do not start in time.
        except Exception as error:
            _disconnect()
            if driver_link.loss() or attempt == START_ATTEMPTS or "timed out" not in str(error):
                raise


def _start(num_cpus: int, folder: str) -> None:
    with without_unused_servers():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            # Ray modifies its arguments; a second attempt must not see these changes.
            _system_config=dict(SYSTEM_CONFIG),
            _temp_dir=folder,
            **QUIET,
        )


def _connect(init: Callable[[], object], on_loopback: bool) -> None:
    """Call `ray.init`; afterwards SIGTERM has its handler again, which Ray replaces."""
    # No usage statistics are sent, and Ray must not hide the devices of a worker that requests no GPU.
    set_default("RAY_USAGE_STATS_ENABLED", "0")
    set_default("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    log_ray_messages()
    handler = signal.getsignal(signal.SIGTERM)
    # Ray replaces a loopback address by one that other machines can reach, unless clusters of several are disabled.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not on_loopback
    try:
        init()
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        _restore(handler)


def _restore(handler: Any) -> None:
    try:
        signal.signal(signal.SIGTERM, handler)
    except ValueError:
        # Not in the main thread: Ray has replaced nothing.
        return


def _watch(raylet_pid: int, address: str) -> None:
    driver_link.watch_process("raylet", raylet_pid)
    pid = gcs_server_pid(address)
    if pid is not None:
        driver_link.watch_process("gcs_server", pid)
    else:
        driver_link.watch_address("gcs_server", address)


def _watch_children() -> None:
    """Watch the servers that this process has started. Not earlier, as Ray itself ends and restarts slow ones."""
    children = psutil.Process().children(recursive=True)
    for name in SERVERS:
        for process in children:
            with suppress(psutil.Error):
                if process.name() == name:
                    driver_link.watch_process(name, process.pid)


def _disconnect() -> None:
    """Leave the cluster, and stop it if this run started it; without its servers Ray would wait for them."""
    if not driver_link.loss():
        driver_link.stop_watching()
        ray.shutdown()

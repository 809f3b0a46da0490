"""All processes of a run were started alike, checked before they share a computation.

Processes with different shapes or numbers of steps wait for each other for good, and those with
different learning rates train different things without a word. So facts about the start are
compared by way of the coordination service, which needs no device.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jax._src import distributed  # the service has no public name

from vit_jax.errors import InputError

# A process may take long to open its data. One that has died ends the others by its silence,
# see --process-timeout.
_PATIENCE_MS = 24 * 3600 * 1000
_comparisons = 0  # made so far; all processes make the same ones


def compare(facts: Mapping[str, Any]) -> None:
    """Compares facts about a start with those of the other processes, on all of them.

    Args:
      facts: name -> value that JSON can express; both appear in the message.

    Raises:
      InputError: on every process, where one has other facts or has ended with an InputError.
        The message names the first difference.
    """
    if not _several():
        return
    own = json.loads(json.dumps(dict(facts), default=str))
    process = distributed.global_state.process_id
    _set(f"process {process}", dict(facts=own))
    if process == 0:
        _set("verdict", _verdict(own))
    problem = _get("verdict")
    global _comparisons
    _comparisons += 1
    if problem:
        raise InputError(problem)


def compare_data(where: str, fingerprint: Mapping[str, Any]) -> None:
    """Compares what a data source holds with what it holds on the other processes.

    Args:
      where: the option that names the source, such as "config.data.source".
      fingerprint: of the source, see `data.sources.source.Source.fingerprint`.

    Raises:
      InputError: see `compare`.
    """
    compare({f"the {name} of the data of {where}": value for name, value in fingerprint.items()})


@contextlib.contextmanager
def telling_others() -> Iterator[None]:
    """An InputError inside ends the other processes, too; see `tell_others`."""
    try:
        yield
    except InputError as error:
        tell_others(str(error))
        raise


def tell_others(problem: str) -> None:
    """Ends the other processes at their next comparison, with this process's problem."""
    if _several():
        _set(f"process {distributed.global_state.process_id}", dict(problem=problem))
        if distributed.global_state.process_id == 0:
            _set("verdict", f"process 0: {problem}")


def _several() -> bool:
    state = distributed.global_state
    return state.client is not None and (state.num_processes or 1) > 1


def _verdict(own: dict[str, Any]) -> str:
    """The first difference of another process from this one, "" where there is none."""
    for process in range(1, distributed.global_state.num_processes or 1):
        told = _get(f"process {process}")
        if "problem" in told:
            return f"process {process}: {told['problem']}"
        theirs = told["facts"]
        for name in [*own, *(name for name in theirs if name not in own)]:
            if own.get(name) != theirs.get(name):
                return (
                    f"{name} is {_shown(theirs.get(name))} on process {process} and "
                    f"{_shown(own.get(name))} on process 0; start all processes alike"
                )
    return ""


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:200]


def _set(name: str, value: Any) -> None:
    _service().key_value_set(_key(name), json.dumps(value), allow_overwrite=True)


def _get(name: str) -> Any:
    return json.loads(_service().blocking_key_value_get(_key(name), _PATIENCE_MS))


def _service() -> Any:
    return distributed.global_state.client


def _key(name: str) -> str:
    return f"vit_jax/same/{_comparisons}/{name}"

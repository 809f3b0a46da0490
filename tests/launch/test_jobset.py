"""The JobSets: against Kubernetes' schemas, one of their own, and what a run needs."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from vit_jax.cli.main import PREEMPTED, WRONG_INPUT
from vit_jax.errors import InputError

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("launch/gke_jobset_*.yaml"))
KINDS = [path.stem.removeprefix("gke_jobset_") for path in FILES]


@pytest.fixture(params=FILES, ids=KINDS)
def text(request):
    return request.param.read_text()


@pytest.fixture
def jobset(text):
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def read_jobset():
    spec = importlib.util.spec_from_file_location("check", ROOT / "launch/check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_jobset


def job_of(jobset):
    (group,) = jobset["spec"]["replicatedJobs"]
    return group["template"]["spec"]


def filled_in(text):
    return re.sub(r"CHANGE_[A-Z]+", "mine", text)


def test_there_is_one_for_tpus_and_one_for_gpus():
    assert KINDS == ["gpu", "tpu"]


def test_the_envelope(jobset):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())
    jsonschema.validate(jobset, schema)
    wrong = copy.deepcopy(jobset)
    wrong["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_the_jobs(jobset):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    job = dict(apiVersion="batch/v1", kind="Job", metadata={"name": "x"}, spec=job_of(jobset))
    kubernetes_validate.validate(job, "1.31", strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["arg"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.31", strict=True)


def test_exit_statuses(jobset):
    job = job_of(jobset)
    pod = job["template"]["spec"]
    # A pod failure policy wants this, and restarts belong to the JobSet.
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    exits, evicted = job["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"]["values"] == [WRONG_INPUT, PREEMPTED]
    assert exits["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert exits["action"] == evicted["action"] == "FailJob"
    wrong, again = jobset["spec"]["failurePolicy"]["rules"]
    assert wrong["action"] == "FailJobSet"
    assert again["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    # As the Job controller words it.
    message = "Container train for pod default/x-0 failed with exit code {} matching FailJob rule"
    (pattern,) = wrong["onJobFailureMessagePatterns"]
    assert re.search(pattern, message.format(WRONG_INPUT))
    assert not re.search(pattern, message.format(PREEMPTED))
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_the_numbers_agree(text, read_jobset):
    devices, slices, train = read_jobset(filled_in(text))
    assert (devices, slices) == ((32, 2) if "gke-tpu" in text else (32, 1))
    assert train[0] == "--config=mine"
    assert ("--config.parallel.replica=2" in train) == (slices == 2)


@pytest.mark.parametrize(
    "kind, old, new, message",
    [
        ("tpu", "mine-image", "CHANGE_IMAGE", "still says CHANGE_IMAGE"),
        ("tpu", "topology: 4x4", "topology: 4x8", "set parallelism and completions to 8"),
        ("tpu", "completions: 4", "completions: 2", "completions and parallelism differ"),
        ("gpu", 'value: "4"', 'value: "2"', "JAX_NUM_PROCESSES is 2, parallelism 4"),
    ],
)
def test_numbers_that_disagree_are_refused(read_jobset, kind, old, new, message):
    text = FILES[KINDS.index(kind)].read_text().replace("CHANGE_IMAGE", "mine-image")
    text = filled_in(text)
    assert text.count(old) == 1
    with pytest.raises(InputError, match=message):
        read_jobset(text.replace(old, new))


def test_gpus_meet_at_the_first_pod(jobset):
    container = job_of(jobset)["template"]["spec"]["containers"][0]
    if "JAX_COORDINATOR_ADDRESS" not in {entry["name"] for entry in container["env"]}:
        pytest.skip("on TPUs JAX finds it")
    coordinator = jobset["spec"]["coordinator"]
    names = [group["name"] for group in jobset["spec"]["replicatedJobs"]]
    assert coordinator == dict(replicatedJob=names[0], jobIndex=0, podIndex=0)
    env = {entry["name"]: entry for entry in container["env"]}
    # Kubernetes fills in $(X) only of variables that come before.
    order = list(env)
    assert order.index("COORDINATOR") < order.index("JAX_COORDINATOR_ADDRESS")
    assert env["JAX_COORDINATOR_ADDRESS"]["value"] == "$(COORDINATOR):8482"
    assert container["ports"] == [{"containerPort": 8482}]

"""The queue of launch/gke_kueue.yaml: a schema, names that agree, and the JobSet that joins it."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def objects():
    """Kind -> object."""
    documents = yaml.safe_load_all((ROOT / "launch/gke_kueue.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_schema(objects):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent / "kueue_schema.json").read_text())
    assert objects.keys() == {"ResourceFlavor", "ClusterQueue", "LocalQueue"}
    for one in objects.values():
        jsonschema.validate(one, schema)
        wrong = copy.deepcopy(one)
        wrong["spec"]["nodeLabel"] = {}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_the_names_lead_from_the_queue_to_the_nodes(objects):
    queue = objects["ClusterQueue"]
    assert objects["LocalQueue"]["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == objects["ResourceFlavor"]["metadata"]["name"]
    assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]


def test_the_jobset_of_tpus_fits_the_queue(objects):
    """Its pods have the flavor's labels, and a whole number of runs fills the quota."""
    jobset = yaml.safe_load((ROOT / "launch/gke_jobset_tpu.yaml").read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    labels = objects["ResourceFlavor"]["spec"]["nodeLabels"]
    assert labels.items() <= pod["nodeSelector"].items()
    chips = (
        group["replicas"] * job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    )
    (resources,) = objects["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    assert resources["nominalQuota"] % chips == 0
    # Every resource that a pod asks for must be covered, or Kueue admits no pod.
    assert list(container["resources"]["limits"]) == ["google.com/tpu"]


def test_the_page_labels_a_jobset_with_the_queue(objects):
    page = (ROOT / "docs/launch_kueue.md").read_text()
    name = objects["LocalQueue"]["metadata"]["name"]
    assert set(re.findall(r"kueue\.x-k8s\.io/queue-name=(\S+)", page)) == {name}

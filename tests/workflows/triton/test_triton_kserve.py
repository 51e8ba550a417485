"""KServe's InferenceService: the fields that its API documents, and nothing that it would refuse."""

import pytest
import yaml

from deploykit.core.errors import UsageError
from deploykit.workflows.triton.kserve import Service, check_service, format_service


def model(gpu):
    return yaml.safe_load(format_service(Service("models", "s3://bucket/a: #b"), gpu))["spec"]["predictor"]["model"]


def test_it_is_one_inference_service():
    document = yaml.safe_load(format_service(Service("models", "s3://bucket/models"), gpu=False))
    assert document["apiVersion"] == "serving.kserve.io/v1beta1"
    assert document["kind"] == "InferenceService"
    assert document["metadata"] == {"name": "models"}


def test_triton_is_found_by_its_format_and_speaks_the_open_inference_protocol():
    assert model(gpu=False) == {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": "s3://bucket/a: #b",
    }


def test_a_model_for_a_gpu_asks_for_one():
    assert model(gpu=True)["resources"] == {"limits": {"nvidia.com/gpu": "1"}}


@pytest.mark.parametrize("name", ["Models", "1st", "-a", "a-", "a_b", "a.b", "", "a" * 64, "modèles"])
def test_names_that_a_cluster_refuses_are_refused_here(name):
    with pytest.raises(UsageError, match="--service"):
        check_service(Service(name, "s3://bucket/models"))


@pytest.mark.parametrize("uri", ["", "models", "/srv/models", "s3:bucket", "s3://", "s3://a b"])
def test_storage_that_no_cluster_can_fetch_from_is_refused(uri):
    with pytest.raises(UsageError, match="--storage-uri"):
        check_service(Service("models", uri))


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/models", "gs://bucket", "pvc://claim/models", "https://host/x", "oci://registry/m:1", "hf://a/b"],
)
def test_addresses_of_object_stores_are_taken(uri):
    assert check_service(Service("models", uri)).storage_uri == uri

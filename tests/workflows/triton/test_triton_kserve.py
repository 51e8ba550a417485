"""KServe's InferenceService: only fields that its API documents and accepts."""

import pytest
import yaml

from deploykit.core.errors import UsageError
from deploykit.workflows.triton.kserve import Service, check_service, format_service


def model(gpu):
    return yaml.safe_load(format_service(Service("models", "s3://bucket/a: #b"), gpu))["spec"]["predictor"]["model"]


def test_the_file_is_one_inference_service():
    document = yaml.safe_load(format_service(Service("models", "s3://bucket/models"), gpu=False))
    assert document["apiVersion"] == "serving.kserve.io/v1beta1"
    assert document["kind"] == "InferenceService"
    assert document["metadata"] == {"name": "models"}


def test_the_service_selects_triton_and_the_open_inference_protocol():
    assert model(gpu=False) == {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": "s3://bucket/a: #b",
    }


def test_a_model_for_a_gpu_requests_one():
    assert model(gpu=True)["resources"] == {"limits": {"nvidia.com/gpu": "1"}}


@pytest.mark.parametrize("name", ["Models", "1st", "-a", "a-", "a_b", "a.b", "", "a" * 64, "modèles"])
def test_names_invalid_in_a_cluster_are_refused(name):
    with pytest.raises(UsageError, match="--service"):
        check_service(Service(name, "s3://bucket/models"))


@pytest.mark.parametrize("uri", ["", "models", "/srv/models", "s3:bucket", "s3://", "s3://a b"])
def test_storage_unreachable_from_a_cluster_is_refused(uri):
    with pytest.raises(UsageError, match="--storage-uri"):
        check_service(Service("models", uri))


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/models", "gs://bucket", "pvc://claim/models", "https://host/x", "oci://registry/m:1", "hf://a/b"],
)
def test_object_store_urls_are_accepted(uri):
    assert check_service(Service("models", uri)).storage_uri == uri

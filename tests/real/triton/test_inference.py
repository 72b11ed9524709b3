"""One plan on every way: evaluation, `relume evaluate`, in process and through Triton give the same pixels."""

import dataclasses

import numpy as np
import pytest
import skimage.data
import torch

import relume
from flows.release.served_parity import compare_served, require_parity
from relume.errors import ImageError
from relume.evaluation.benchmark.systems import load_estimator, load_system
from relume.evaluation.networks import at_level, level_estimate, tiled
from relume.images import save_image
from relume.inference.plan import EdgeFusion, Inference, Tiling, Window
from relume.metrics import to_8_bit
from relume.models.artifact import ModelCard, load_card, save_model
from relume.models.registry import Variant, build, variants
from relume.serving.export import levels_of
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.served_export import export_served_model
from relume.serving.served_model import Serving, read_serving
from relume.serving.torch_restorer import TorchRestorer
from relume.serving.triton_client import TritonRestorer
from tests.flows.release.test_gate import settings

ONE = Inference(tile=48, halo=4, overlap=8, weight="cosine")
FURTHER = (Window(tile=80, halo=8, overlap=8),)
OWN = {"hat": Tiling(tile=64, halo=0, overlap=12, further_windows=FURTHER), "restormer": None}
CASES = {
    "dncnn": ONE,
    "resunet": ONE.model_copy(update={"orientations": 8}),
    "adafm": Inference(tile=48, halo=0, overlap=10, weight="uniform", orientations=4),  # takes a level
    "nafnet": Inference(tile=48, halo=0, overlap=9, further_windows=(Window(tile=64, halo=4, overlap=12),)),
    "average": ONE.model_copy(
        update={
            "orientations": 2,
            "further_windows": (Window(tile=64, halo=4, overlap=12),),
            "fusion": EdgeFusion(smooth="restormer", detail="hat"),
        }
    ),
    # Of two equal networks with other weights, one in tiles of its own; their mean, and their edges.
    "weighted_average": ONE.model_copy(update={"members": OWN}),
    "edges": ONE.model_copy(update={"members": OWN, "fusion": EdgeFusion(smooth="restormer", detail="hat")}),
    "masked": ONE.model_copy(update={"passes": 3, "orientations": 2}),
    "hat": ONE.model_copy(update={"scale": 2}),
}
AVERAGES = ("average", "weighted_average", "edges")
ADJUSTABLE = {"ffdnet": "ffdnet-demo", "level_estimator": "level-estimator-demo"}


@pytest.fixture
def photograph():
    """Of several tiles, without symmetry, far from black and white."""
    return 60 + skimage.data.astronaut()[100:190, 150:260] // 2


@pytest.fixture(params=CASES)
def model(request, tmp_path):
    """The plan; a network of demo scale that changes an image by some levels of 255; its artifact; served."""
    inference = CASES[request.param]
    variant = variants()["nafnet-demo" if request.param in AVERAGES else f"{request.param}-demo"]
    if inference.scale > 1:
        variant = dataclasses.replace(
            variant, arguments=variant.arguments | {"upscale": inference.scale, "residual": False}
        )
    if request.param in AVERAGES:  # of networks that see their whole tile
        base = {"architecture": variant.architecture, "arguments": variant.arguments}
        variant = Variant(architecture="weighted_average", arguments={"bases": [base, base]}, about="")
    torch.manual_seed(1)
    network = build(variant.architecture, variant.arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += (0.06 if request.param == "masked" else 0.01) * torch.randn_like(parameter)
    trained_for = {"levels": [10, 60]} if request.param == "adafm" else {}
    card = ModelCard(
        architecture=variant.architecture, arguments=variant.arguments, trained_for=trained_for, provenance={}
    )
    serving = Serving(inference=inference, levels=levels_of(network, card))
    export_served_model(network, tmp_path / "package" / request.param, serving)
    save_model(tmp_path / "package" / "model", network, card)
    return inference, network, tmp_path / "package" / "model", tmp_path / "package" / request.param


def test_five_ways_give_the_same_pixels(server, control, model, photograph):
    """Within one 8-bit level, on the whole image; one orientation or window gives others; float tiles take 16 bits
    and float images."""
    inference, network, artifact, folder = model
    levels = read_serving(folder).levels
    level = None if levels is None else 40.0
    at = network if level is None else at_level(network, level)
    expected = tiled(at, inference, batch=2)(photograph)
    as_float = photograph / np.float32(255)

    found = {
        "relume evaluate ARTIFACT": to_8_bit(load_system(artifact, inference=inference).restore(as_float, level)),
        "relume evaluate SERVED": to_8_bit(load_system(folder).restore(as_float, level)),
        "ONNX Runtime": OnnxRestorer(folder, threads=1).restore(photograph, level=level).image,
        "OpenVINO": OpenVinoRestorer(folder, threads=1).restore(photograph, level=level).image,
        "PyTorch": TorchRestorer(folder).restore(photograph, level=level).image,
    }
    release = f"plan-{folder.name}"
    publish_release(folder, server.repository, release)
    control.load_release(release)
    control.switch_product(server.repository, "planned", Route(champion=release))
    for protocol in ("grpc", "http"):
        for shared in (True, False):
            with TritonRestorer(getattr(server, protocol), "planned", shared_memory=shared, key=server.key) as restorer:
                assert restorer.served().inference == inference
                found[f"{protocol}, shared {shared}"] = restorer.restore(photograph, level=level).image
    deep = photograph.astype(np.uint16) * 257 + 100
    with TritonRestorer(server.grpc, "planned", orientations=1, key=server.key) as restorer:
        one = restorer.restore(photograph, level=level).image
        if np.uint16 in restorer.served().types:
            here = OnnxRestorer(folder, threads=1, orientations=1).restore(deep, level=level).image
            assert np.abs(restorer.restore(deep, level=level).image.astype(int) - here).max() <= 8
            assert (here % 257).std() > 50
            floats = (deep / 65535).astype(np.float32)
            with relume.RemoteRestorer(server.grpc, "planned", orientations=1, key=server.key) as remote:
                np.testing.assert_allclose(remote.restore(floats, level=level), here / np.float32(65535), atol=2e-4)
        else:
            assert inference.dtype == "uint8"
            with pytest.raises(ImageError):
                restorer.restore(deep, level=level)
    # Where a threshold decides on an edge, a last bit may take a pixel from the other member.
    share = 0.999 if inference.fusion else 1
    for way, image in found.items():
        assert (np.abs(image.astype(int) - expected) <= 1).mean() >= share, way
    before = photograph.repeat(inference.scale, axis=0).repeat(inference.scale, axis=1)
    assert np.abs(expected.astype(int) - before).max() > 3

    once = inference.model_copy(update={"orientations": 1})
    assert np.abs(one.astype(int) - tiled(at, once, batch=2)(photograph)).max() <= 1
    for option in sorted({"fusion", "further_windows", "members", "passes"} & inference.model_dump().keys()):
        left_out = tiled(at, inference.model_copy(update={option: Inference.model_fields[option].default}), batch=2)
        assert (expected != left_out(photograph)).mean() > 0.01, option  # last bits change less
    without = tiled(at, once.windows[0].model_copy(update={"passes": 1}), batch=2)(photograph)
    changed = np.abs(expected.astype(int) - without).max()
    assert changed > 1 if inference.dtype == "float32" else changed == 0


@pytest.mark.parametrize(
    "plan",
    [
        ONE.model_copy(update={"estimator": "level"}),
        CASES["nafnet"].model_copy(update={"estimator": "level", "orientations": 2}),
    ],
    ids=["uint8", "two sizes in float"],
)
def test_five_ways_estimate_the_same_level(server, control, tmp_path, plan):
    """And give the same pixels where none is given, which the default gives not; a level that is given holds."""
    image = 60 + skimage.data.astronaut()[100:390, 150:290] // 2  # seen: two tiles, one above the other
    torch.manual_seed(1)
    networks = {name: build(name, variants()[variant].arguments).eval() for name, variant in ADJUSTABLE.items()}
    with torch.no_grad():
        for parameter in networks["ffdnet"].parameters():
            parameter += 0.04 * torch.randn_like(parameter)
        networks["level_estimator"].linear[-1].bias += 52
    trained_for = {"levels": [5, 75], "default_level": 5}
    for name, network in networks.items():
        arguments = variants()[ADJUSTABLE[name]].arguments
        card = ModelCard(architecture=name, arguments=arguments, trained_for=trained_for, provenance={})
        save_model(tmp_path / name, network, card)
    levels = levels_of(networks["ffdnet"], load_card(tmp_path / "ffdnet"))
    folder, release = tmp_path / "served", f"blind-{len(plan.tiles)}"
    serving = Serving(inference=plan, levels=levels)
    export_served_model(networks["ffdnet"], folder, serving, level_estimator=networks["level_estimator"])

    seen = torch.from_numpy(image[17:273, 6:134].transpose(2, 0, 1)[None]) / 255
    with torch.inference_mode():
        level = round(networks["level_estimator"](seen).item(), 1)
    assert 5 < level < 75
    assert levels.nearest(level_estimate(networks["level_estimator"])(image)) == level
    expected = tiled(at_level(networks["ffdnet"], level), plan, batch=2)(image)

    as_float = image / np.float32(255)
    for estimator in (tmp_path / "level_estimator", folder):
        assert levels.nearest(load_estimator(estimator)(as_float)) == level
    artifact, served = load_system(tmp_path / "ffdnet", inference=plan), load_system(folder)
    found = {
        "relume evaluate ARTIFACT": to_8_bit(artifact.restore(as_float, level)),
        "relume evaluate SERVED": to_8_bit(served.restore(as_float, None)),
    }
    publish_release(folder, server.repository, release)
    control.load_release(release)
    control.switch_product(server.repository, "blind", Route(champion=release))
    restorers = {
        "ONNX Runtime": OnnxRestorer(folder, threads=1),
        "OpenVINO": OpenVinoRestorer(folder, threads=1),
        "gRPC": TritonRestorer(server.grpc, "blind", key=server.key),
        "HTTP": TritonRestorer(server.http, "blind", key=server.key),
    }
    for way, restorer in restorers.items():
        restoration = restorer.restore(image)
        assert (restoration.level, restoration.estimated) == (level, True), way
        found[way] = restoration.image
    told = restorers["gRPC"].restore(image, level=levels.default)
    assert (told.level, told.estimated) == (levels.default, False)
    for way in ("gRPC", "HTTP"):
        restorers[way].close()
    for way, restored in found.items():
        assert np.abs(restored.astype(int) - expected).max() <= 1, way
    assert np.abs(told.image.astype(int) - expected).max() > 1
    if plan.dtype == "uint8":  # once: what a release is compared on
        save_image(tmp_path / "held_out" / "00ff.png", image)
        differences = compare_served(folder, server.grpc, "blind", tmp_path / "held_out", settings(), key=server.key)
        require_parity(differences, settings())
        titles = {difference.picture.rpartition(", level ")[2] for difference in differences}
        assert titles == {"5", "75", "estimated"}

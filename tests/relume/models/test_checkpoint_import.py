"""Import of checkpoints in the shapes that training codes write, and the report on those that do not fit."""

import pytest
import torch
from torch import nn

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.models import checkpoint_import
from relume.models.artifact import ModelCard, load_card, load_model, save_model
from relume.models.checkpoint_import import compare, import_checkpoint, read_checkpoint, strip_prefixes
from relume.models.registry import Variant, build

SMALL = {
    "small": Variant(architecture="dncnn", arguments={"width": 4, "layers": 3}, about="for these tests"),
    "large": Variant(architecture="dncnn", arguments={"width": 6, "layers": 4}, about="for these tests"),
    "other": Variant(architecture="drunet", arguments={"width": 2, "blocks": 1}, about="for these tests"),
}


@pytest.fixture(autouse=True)
def few_variants(monkeypatch):
    """Only the small variants exist, so that the search for a fitting one is quick."""
    monkeypatch.setattr(checkpoint_import, "variants", lambda: SMALL)


@pytest.fixture
def network():
    """A network with random weights."""
    torch.manual_seed(5)
    return build("dncnn", SMALL["large"].arguments)


def wrapped(prefix):
    """A function that puts a prefix before every key."""
    return lambda state: {prefix + key: value for key, value in state.items()}


WRITTEN = {
    "bare": ("", lambda state: state),
    "params": ("params", lambda state: {"params": state}),
    "averaged weights first": (
        "params_ema",
        lambda state: {"params": {key: 0 * value for key, value in state.items()}, "params_ema": state},
    ),
    "Lightning": ("state_dict", lambda state: {"epoch": 3, "state_dict": wrapped("net.")(state)}),
    "parallel": ("params", lambda state: {"params": wrapped("module.")(state), "iter": 10}),
    "Lightning of parallel": ("state_dict", lambda state: {"state_dict": wrapped("net.module.")(state)}),
    "half precision": ("", lambda state: {key: value.half() for key, value in state.items()}),
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("architecture", ["large", "dncnn"])
def test_every_way_of_writing_gives_the_same_network(tmp_path, network, way, architecture):
    """The artifact holds the network's weights, whether variant or architecture is named."""
    key, write = WRITTEN[way]
    torch.save(write(network.state_dict()), tmp_path / "official.pth")
    card = import_checkpoint(tmp_path / "official.pth", architecture=architecture, output=tmp_path / "model")
    assert card == load_card(tmp_path / "model")
    assert (card.architecture, card.arguments) == ("dncnn", SMALL["large"].arguments)
    assert (card.provenance["state_dict"], card.provenance["variant"]) == (key, "large")
    expected = network.half().float() if way == "half precision" else network
    loaded = load_model(tmp_path / "model").state_dict()
    assert loaded.keys() == expected.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.state_dict().items())


def test_safetensors_is_read_too(tmp_path, network):
    """A file of safetensors is a bare state dict."""
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "official.safetensors")
    state, key = read_checkpoint(tmp_path / "official.safetensors")
    assert key == ""
    assert state.keys() == network.state_dict().keys()


def test_report_names_missing_extra_and_misshaped_entries(tmp_path, network):
    """A wrong file is refused with every kind of misfit named, counted and told the variant that it fits."""
    state = network.state_dict()
    state["more.weight"] = torch.zeros(2)
    del state["model.6.bias"]
    state["model.2.weight"] = torch.zeros(6, 5, 3, 3)
    torch.save(state, tmp_path / "official.pth")
    with pytest.raises(ModelFormatError) as error:
        import_checkpoint(tmp_path / "official.pth", architecture="large", output=tmp_path / "model")
    message = str(error.value)
    assert "6 entries fit" in message
    assert "1 missing:\n          model.6.bias" in message
    assert "1 extra:\n          more.weight" in message
    assert "model.2.weight is [6, 5, 3, 3], expected [6, 6, 3, 3]" in message
    assert "relume models list" in message
    assert not (tmp_path / "model").exists()


def test_report_suggests_the_variant_that_fits(tmp_path, network):
    """A checkpoint of another architecture is refused with the name that it fits."""
    torch.save(network.state_dict(), tmp_path / "official.pth")
    for wrong in ("drunet", "small"):
        with pytest.raises(ModelFormatError, match="it fits large"):
            import_checkpoint(tmp_path / "official.pth", architecture=wrong, output=tmp_path / "model")


def test_long_reports_are_cut(network):
    """Of many misfits the first are named and the rest are counted."""
    fit = compare({}, network.state_dict())
    assert fit.report(most=3).endswith("... and 5 more")
    assert not fit.complete


class Windowed(nn.Module):
    """A network with the derived buffers of window attention."""

    def __init__(self, window):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("relative_position_index", torch.arange(window))
        self.register_buffer("attn_mask", torch.zeros(window))
        self.register_buffer("running_mean", torch.zeros(window))


def test_only_derived_buffers_may_differ():
    """Index tables and masks may lack, be left over or have another size; every other buffer must fit."""
    small, large = Windowed(2).state_dict(), Windowed(3).state_dict()
    assert [name for name, _, _ in compare(small, large).misshaped] == ["running_mean"]
    del small["attn_mask"], small["relative_position_index"], small["running_mean"]
    assert compare(small, large).missing == ["running_mean"]
    large["layers.0.relative_position_index_OCA"] = torch.zeros(1)
    assert compare(large, Windowed(3).state_dict()).complete


def test_prefixes_of_the_network_itself_are_kept():
    """A network whose own names start like a wrapper's prefix keeps them."""
    expected = {"net.weight": torch.zeros(1), "head": torch.zeros(1)}
    state = {"module.net.weight": torch.zeros(1), "module.head": torch.zeros(1)}
    assert strip_prefixes(state, expected).keys() == expected.keys()


class Unpleasant:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": Unpleasant()}, "without executing builtins.print"),
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, "it contains: epoch, weights"),
        ([torch.zeros(1)], "it contains: list"),
        ({}, "has no state dict"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, content, message):
    """A file with code, without state dict or of another kind is refused, and nothing in it is executed."""
    torch.save(content, tmp_path / "official.pth")
    with pytest.raises(ModelFormatError, match=message):
        read_checkpoint(tmp_path / "official.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_broken_files_are_refused(tmp_path, network, cut):
    """An empty, cut or foreign file is refused by the name of the error tree."""
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    for name in ("official.pth", "official.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "whole.pth").read_bytes()[:cut])
        with pytest.raises(ModelFormatError):
            read_checkpoint(tmp_path / name)
    (tmp_path / "page.pth").write_text("<html>quota exceeded</html>")
    with pytest.raises(ModelFormatError, match="not a whole file"):
        read_checkpoint(tmp_path / "page.pth")


def test_unknown_names_and_missing_files(tmp_path):
    """An unknown architecture is a mistake of configuration that lists the choices; so is a missing file."""
    with pytest.raises(ConfigError, match="dncnn"):
        import_checkpoint(tmp_path / "none.pth", architecture="dncn", output=tmp_path / "model")
    with pytest.raises(ModelMissingError):
        import_checkpoint(tmp_path / "none.pth", architecture="small", output=tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers(tmp_path, network, value):
    """They are neither imported nor loaded, and the entry is named."""
    with torch.no_grad():
        next(network.parameters()).view(-1)[3] = value
    name = next(iter(network.state_dict()))
    torch.save(network.state_dict(), tmp_path / "official.pth")
    with pytest.raises(ModelFormatError, match=name):
        import_checkpoint(tmp_path / "official.pth", architecture="large", output=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    card = ModelCard(architecture="dncnn", arguments=SMALL["large"].arguments, trained_for={}, provenance={})
    save_model(tmp_path / "model", network, card)
    with pytest.raises(ModelFormatError, match=name):
        load_model(tmp_path / "model")

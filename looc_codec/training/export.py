"""The one way from a trainable model to a codec model: integers, tables and graphs, all made from it at once.

Networks are exported with torch's ONNX exporter from the modules that training uses. A graph holds no weights: it names the
tensors of the weights file that it reads, integers of the prior included, so nothing is stored twice.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from looc_codec.codec.engine import Graph
from looc_codec.codec.model import CRITICAL, CodecModel, stored_transforms
from looc_codec.codec.transforms import SHRINKS
from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.format.integers import Core, layout
from looc_codec.format.order import levels_of_group
from looc_codec.networks.details import Details
from looc_codec.networks.model import LoocModel, transform_names
from looc_codec.networks.prior import IntegerConv2d, NeighbourMean, Prior

PLANE = (2, 3)
"""Axes whose lengths an exported network leaves open: rows and columns."""
OPSET = 20
"""The first with Gelu as an operator; ONNX Runtime has it since 1.18."""


def core_of(model: LoocModel) -> Core:
    """The format-critical integers of a trainable model. ModelError when a sum could reach 2^24."""
    tensors = {f"prior.{name}": value for name, value in model.prior.export().items()}
    if model.details is not None:
        tensors |= {f"details.{name}": value for name, value in model.details.export().items()}
    core = {name: value.cpu().numpy() for name, value in tensors.items()}
    return core | {f"codebook.{name}": value for name, value in model.codebook.export().items()}


def export(model: LoocModel, description: str = "", *, keep: Core | None = None) -> CodecModel:
    """The codec model of a trainable one.

    `keep` are integers that stay as they are, because files are written with them: those of the weights file from which a stage
    that does not train them went on. (Deriving integers anew from floats that came from integers need not give the same ones.)
    Raises ModelError when the parameters that they stand for have been changed since.
    """
    model = model.to("cpu")
    model.codebook.to_device("cpu")
    core = core_of(model)
    if keep is not None:
        _require_untouched(model, keep)
        core |= keep
    state = model.state_dict()
    parameters = {name: state[name].detach().float().numpy() for name in transform_names(model)}
    if not all(np.isfinite(value).all() for value in parameters.values()):
        raise ModelError("the model has weights that are not finite numbers")
    stored = stored_transforms(parameters)
    graphs = exported_graphs(model.config)
    return CodecModel(model.config, core, stored.tensors, stored.shapes, graphs, description, model.quality_scale)


def _require_untouched(model: LoocModel, keep: Core) -> None:
    fresh = LoocModel(model.config)
    fresh.take(core_of(model) | keep)
    parts = [("prior.", model.prior, fresh.prior)] + ([("details.", model.details, fresh.details)] if model.details is not None else [])
    for prefix, trained, kept in parts:
        if any(name.startswith(prefix) for name in keep):
            pairs = zip(trained.parameters(), kept.parameters(), strict=True)
            if not all(torch.equal(one, other) for one, other in pairs):
                raise ModelError(f"the {prefix.rstrip('.')} was trained after its integers were fixed; export it without keeping them")


# --- graphs -----------------------------------------------------------------------------------------------------------


class _Called(nn.Module):
    """A function of a module, or of stored tensors by name, as a module of its own; `names` are the names that its tensors have in
    the weights file."""

    def __init__(self, call: Callable[..., object], module: nn.Module | None = None, prefix: str = "", tensors: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.call, self.module, self.stored = call, module, list(tensors or {})
        self.names = {f"module.{name}": prefix + name for name in (module.state_dict() if module is not None else ())}
        for index, name in enumerate(self.stored):
            self.register_buffer(f"stored{index}", tensors[name])
            self.names[f"stored{index}"] = name

    def forward(self, *inputs: Tensor) -> object:
        held = {name: getattr(self, f"stored{index}") for index, name in enumerate(self.stored)}
        return self.call(self.module if self.module is not None else held, *inputs)


@functools.lru_cache(maxsize=16)
def exported_graphs(config: LoocConfig) -> dict[str, Graph]:
    """Every network of a model as the codec runs it. They depend on the sizes of the configuration alone, not on any weight."""
    graphs: dict[str, Graph] = {}
    model = LoocModel(config).eval()
    # The exporter merges tensors that are equal, as those of a fresh model often are.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1.0, 1.0, generator=generator)
    core = {name: torch.randint(0, 19, shape, generator=generator).to(getattr(torch, kind)) for name, (kind, shape) in layout(config).items()}
    quality = torch.tensor([50.0])

    def transform(name: str, module: nn.Module, call: Callable[..., object], inputs: dict[str, Tensor], shapes: tuple) -> None:
        graphs[name] = _graph(_Called(call, module, f"{name.split('.')[0]}."), inputs, shapes)

    d, (w16, w8, _) = config.channels, config.synthesis_widths
    analysis, synthesis = model.analysis, model.synthesis
    transform("analysis", analysis, lambda m, *v: m(*v), {"pixels": torch.zeros(1, 3, 96, 112), "quality": quality}, (PLANE, None))
    latent = {"latent": torch.zeros(1, d, 6, 7), "quality": quality}
    transform("synthesis.linear", synthesis, lambda m, *v: m.linear_pixels(*v), latent, (PLANE, None))
    for shrink in SHRINKS:
        transform(f"synthesis.small{shrink}", synthesis, lambda m, *v, s=shrink: m.small_pixels(*v, s), latent, (PLANE, None))
    if any(config.synthesis_blocks):
        transform("synthesis.corrected", synthesis, lambda m, *v: m.corrected(*v), latent, (PLANE, None))
        transform("synthesis.features8", synthesis, lambda m, *v: m.features8(*v), {"features": torch.zeros(1, w16, 6, 7)}, (PLANE,))
        finished = {"features": torch.zeros(1, w8, 6, 7), "framed": torch.zeros(1, 3, 56, 64), "quality": quality}
        transform("synthesis.finished", synthesis, lambda m, *v: m.finished(*v), finished, (PLANE, PLANE, None))
    graphs |= _prior_graphs(model.prior, core)
    if model.details is not None:
        graphs["details.scales"] = _details_graph(model.details, core)
    filtered = {"pixels": torch.zeros(1, 3, 20, 21), "weight": torch.zeros(3, 3, 5, 5), "bias": torch.zeros(3)}
    graphs["filter"] = _graph(_Called(lambda held, *v: nn.functional.conv2d(*v)), filtered, (PLANE, None, None))
    return graphs


def _layer_tensors(core: dict[str, Tensor], layers: dict[str, IntegerConv2d]) -> dict[str, Tensor]:
    """The stored integers of layers, by their names in the weights file."""
    return {f"{CRITICAL}{name}.{part}": core[f"{name}.{part}"] for name in layers for part in ("weight", "bias", "exponent")}


def _derive(held: dict[str, Tensor], layers: dict[str, IntegerConv2d]) -> None:
    for name, layer in layers.items():
        layer.derive(*(held[f"{CRITICAL}{name}.{part}"] for part in ("weight", "bias", "exponent")))


def _prior_graphs(prior: Prior, core: dict[str, Tensor]) -> dict[str, Graph]:
    """One graph for each level of each group: windows of the known latents → mean and log scale at the positions of a lattice."""
    graphs: dict[str, Graph] = {}
    before, width = 0, prior.config.prior_width
    for index, group in enumerate(prior.config.groups):
        for number, level in enumerate(levels_of_group(index)):
            net = prior.nets[index][number]
            layers = {f"prior.nets.{index}.{number}.{name}": layer for name, layer in net.named_modules() if isinstance(layer, IntegerConv2d)}
            tensors = _layer_tensors(core, layers)
            neighbour: NeighbourMean | None = prior.neighbours[index][number - 1] if number else None
            stored = f"{CRITICAL}prior.neighbours.{index}.{number - 1}"
            if neighbour is not None:
                tensors[stored] = core[stored.removeprefix(CRITICAL)]
            known = before + (group if number else 0)
            # A lattice of 5 x 6 positions; the windows of any lattice of the level are as wide.
            side = [level.stride * (count - 1) + 2 * level.dilation + 1 for count in (5, 6)]

            def function(held: dict[str, Tensor], quality_row: Tensor, *windows: Tensor, index=index, number=number, layers=layers, neighbour=neighbour, stored=stored, stride=level.stride) -> object:
                _derive(held, layers)
                if neighbour is not None:
                    neighbour.derived = held[stored].float()
                context = windows[0] if windows else quality_row.new_zeros(1, 0, 1, 1)
                return prior.step(index, number, quality_row, context, windows[1] if len(windows) > 1 else context, stride)

            inputs, shapes = {"quality_row": torch.zeros(1, width, 1, 1)}, [None]
            if known:
                inputs["context"] = torch.zeros(1, known, *side)
                shapes.append(PLANE)
            if number:
                inputs["own"] = torch.zeros(1, group, *side)
                shapes.append(PLANE)
            graphs[f"prior.{index}.{number}"] = _graph(_Called(function, tensors=tensors), inputs, tuple(shapes))
        before += group
    return graphs


def _details_graph(details: Details, core: dict[str, Tensor]) -> Graph:
    layers = {f"details.{name}": layer for name, layer in details.layers().items()}

    def function(held: dict[str, Tensor], magnitudes: Tensor, quality_row: Tensor, base: Tensor) -> Tensor:
        _derive(held, layers)
        return details.scales(magnitudes, quality_row, base)

    config = details.config
    inputs = {
        "magnitudes": torch.zeros(1, config.channels, 6, 7), "quality_row": torch.zeros(1, config.detail_width, 1, 1),
        "base": torch.zeros(1, config.detail_channels, 1, 1),
    }  # fmt: skip
    return _graph(_Called(function, tensors=_layer_tensors(core, layers)), inputs, (PLANE, None, None))


def exported_graph(call: Callable[..., object], module: nn.Module, prefix: str, inputs: dict[str, Tensor], shapes: tuple) -> Graph:
    """A function of a module as a graph. Its tensors are those of the weights file whose names are `prefix` and the module's own; `shapes`
    names the open axes of each input, or None."""
    return _graph(_Called(call, module, prefix), inputs, shapes)


def _graph(module: _Called, inputs: dict[str, Tensor], shapes: tuple) -> Graph:
    """The module as ONNX whose initializers lie elsewhere, without names of files, traces and other metadata."""
    import onnx

    names = list(inputs)
    axes = {name: {axis: f"{name}_{axis}" for axis in dynamic} for name, dynamic in zip(names, shapes, strict=True) if dynamic}
    written = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Deprecated, but the exporter that is to replace it takes 1.6 s a graph, 50 s a model, where this one takes 0.1 s.
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), tuple(inputs.values()), written, dynamo=False, input_names=names, dynamic_axes=axes, opset_version=OPSET, do_constant_folding=False)
    proto = onnx.load_from_string(written.getvalue())
    stored = module.names
    used: list[str] = []
    kept = [initializer for initializer in proto.graph.initializer if initializer.name not in stored]
    external = [initializer for initializer in proto.graph.initializer if initializer.name in stored]
    for node in proto.graph.node:
        node.input[:] = [stored.get(name, name) for name in node.input]
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.ClearField("name")
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for initializer in external:
        stub = onnx.TensorProto(name=stored[initializer.name], data_type=initializer.data_type, dims=initializer.dims, data_location=onnx.TensorProto.EXTERNAL)
        stub.external_data.add(key="location", value="weights")
        proto.graph.initializer.append(stub)
        used.append(stub.name)
    del proto.graph.value_info[:]
    proto.graph.ClearField("metadata_props")
    proto.ClearField("metadata_props")
    proto.graph.name = "looc"
    for value in (*proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
    proto.producer_version = ""
    return Graph(proto.SerializeToString(deterministic=True), tuple(used))

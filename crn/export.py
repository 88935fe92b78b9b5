"""A trained model as one ONNX graph, for programs without torch."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from crn.checkpoints.flags import options_to_score
from crn.checkpoints.model import TrainedModel, model_of
from crn.checkpoints.reading import read_checkpoint
from crn.config import SCORES, Options
from crn.errors import UserError
from crn.system.files import claimed, set_aside, written_whole

log = logging.getLogger(__name__)

# Protocol buffers, of which ONNX files are made, can be no longer.
_MOST_BYTES = 2**31 - 1


class ScoringGraph(nn.Module):
    """What the graph computes: from images to what inference computes of them.

    Attributes:
        inputs: names and sizes of the images that it takes, (B, 3, size, size) in [-1, 1]:
            "image" for the networks and "patch_image", the same in another size, for features
            that read them in their own.
        outputs: names of what it gives: "anomaly_map" (B, S, S), "reconstruction" (B, 3, S, S)
            where there are networks, and for each of `SCORES` "score_..." (B,).
    """

    def __init__(self, model: TrainedModel) -> None:
        """Take over the networks of a model."""
        super().__init__()
        self.parts = nn.ModuleDict(
            {name.replace(".", "_"): part for name, part in model.parts.items()}
        )
        self._model = [model]  # in a list, since its parts are registered already
        size, patch_size = model.config.network.imsize, model.patch_image_size
        self.inputs = {"image": size} if model.method.networks else {}
        if patch_size is not None and (patch_size != size or not self.inputs):
            self.inputs["patch_image"] = patch_size
        reconstruction = ["reconstruction"] if model.method.networks else []
        scores = (f"score_{name}" for name in SCORES)
        self.outputs = ["anomaly_map", *reconstruction, *scores]

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Score images, those of `inputs`; the results are those of `outputs`."""
        (model,) = self._model
        patches = model.scorer.patches if model.patch_image_size is not None else None
        scored = model.score(images[0], None if patches is None else patches(images[-1]))
        scores = (scored.scores[name] for name in SCORES)
        reconstruction = () if scored.reconstruction is None else (scored.reconstruction,)
        return scored.maps[model.config.scoring.anomaly_score], *reconstruction, *scores


def export(options: Options) -> None:
    """Write ``--model-input`` to ``--export-path``; what is there is renamed.

    Raises:
        UserError: the checkpoint cannot be used, or the file cannot be written.
    """
    source, path = options.run.model_input, options.output.export_path
    assert source is not None
    assert path is not None
    checkpoint = read_checkpoint(source)
    options, config = options_to_score(checkpoint, options), checkpoint.config
    with claimed(path):
        model = model_of(checkpoint, options.scoring, torch.device("cpu"))
        facts = {
            "method": config.model,
            "checkpoint": source.name,
            "step": model.step,
            "pairs": options.scoring.pairs,
            # As metrics.json has it, so that its threshold is known to be of this model.
            "weights": model.fingerprint,
            "anomaly_score": options.scoring.anomaly_score,
            "maps": options.scoring.maps,
            "pooling": options.scoring.pooling,
            "image_range": "-1 to 1",
        }
        graph = ScoringGraph(model)
        facts |= {f"{name}_size": size for name, size in graph.inputs.items()}
        if model.config.pretrained.features is not None and model.patch_image_size is not None:
            facts["features"] = model.config.pretrained.features
        if 4 * sum(each.numel() for each in graph.parameters()) > _MOST_BYTES:
            raise UserError(
                f"--pairs {options.scoring.pairs}: {len(model.parts)} networks do not fit into "
                "the 2 GB of an ONNX file; give --pairs best"
            )
        content = _serialized(graph, facts)
        set_aside(path)
        with written_whole(path) as file:
            file.write(content)
    log.info("wrote %s: %s", path, "  ".join(f"{k}={v}" for k, v in facts.items()))


def _serialized(graph: ScoringGraph, facts: dict[str, Any]) -> bytes:
    """The file's content: the graph for batches of any size, and facts as its metadata."""
    example = tuple(torch.zeros(2, 3, size, size) for size in graph.inputs.values())
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        # About torch's own use of what it will no longer have.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            example,
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=(tuple({0: batch} for _ in example),),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: str(value) for name, value in facts.items()})
    return program.model_proto.SerializeToString()

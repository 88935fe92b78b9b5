"""A trained model as one ONNX graph, for programs without torch."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from crn.checkpoints.reading import TrainedModel, read_checkpoint
from crn.config import SCORES, Options
from crn.errors import UserError
from crn.methods.convolution import with_plain_convolutions
from crn.system.files import claimed, set_aside, written_whole

log = logging.getLogger(__name__)

OUTPUTS = ["anomaly_map", "reconstruction", *(f"score_{name}" for name in SCORES)]
# Protocol buffers, of which ONNX files are made, can be no longer.
_MOST_BYTES = 2**31 - 1


class ScoringGraph(nn.Module):
    """What the graph computes: from images to what inference computes of them.

    Images are (B, 3, S, S) in [-1, 1], of the model's own size S.
    """

    def __init__(self, model: TrainedModel) -> None:
        """Take over the networks of a model, whose convolutions become those of torch."""
        super().__init__()
        self.parts = nn.ModuleDict(
            {name.replace(".", "_"): part for name, part in model.parts.items()}
        )
        with_plain_convolutions(self.parts)
        self._score = model.score
        self._anomaly_score = model.config.scoring.anomaly_score

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score images.

        Returns:
            As `OUTPUTS`: the anomaly map (B, S, S), the reconstruction (B, 3, S, S), and
            for each of `SCORES` the anomaly scores (B,).
        """
        scored = self._score(image)
        scores = (scored.scores[name] for name in SCORES)
        return scored.maps[self._anomaly_score], scored.reconstruction, *scores


def export(options: Options) -> int:
    """Write ``--model-input`` to ``--export-path``; what is there is renamed.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the checkpoint cannot be used, or the file cannot be written.
    """
    source, path = options.run.model_input, options.output.export_path
    assert source is not None
    assert path is not None
    checkpoint = read_checkpoint(source)
    options, config = checkpoint.decide(options), checkpoint.config
    with claimed(path):
        model = checkpoint.model(options.scoring, torch.device("cpu"))
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
            "image_size": config.network.imsize,
            "image_range": "-1 to 1",
        }
        graph = ScoringGraph(model)
        if 4 * sum(each.numel() for each in graph.parameters()) > _MOST_BYTES:
            raise UserError(
                f"--pairs {options.scoring.pairs}: {len(model.parts)} networks do not fit into "
                "the 2 GB of an ONNX file; give --pairs best"
            )
        content = _serialized(graph, config.network.imsize, facts)
        set_aside(path)
        with written_whole(path) as file:
            file.write(content)
    log.info("wrote %s: %s", path, "  ".join(f"{k}={v}" for k, v in facts.items()))
    return 0


def _serialized(graph: ScoringGraph, size: int, facts: dict[str, Any]) -> bytes:
    """The file's content: the graph for batches of any size, and facts as its metadata."""
    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        # About torch's own use of what it will no longer have.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            input_names=["image"],
            output_names=OUTPUTS,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: str(value) for name, value in facts.items()})
    return program.model_proto.SerializeToString()

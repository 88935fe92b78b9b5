"""Scoring with a trained model: a table of scores, metrics, and pictures of every image."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from crn.checkpoints.flags import options_to_score
from crn.checkpoints.model import TrainedModel, model_of
from crn.checkpoints.reading import read_checkpoint
from crn.config import SCORES, Options
from crn.errors import UserError
from crn.evaluation.metrics import evaluate
from crn.evaluation.results import (
    METRICS_FILE,
    InferenceResults,
    ModelFacts,
    ScoredImage,
    write_metrics,
)
from crn.evaluation.thresholds import thresholds_from_file, thresholds_from_training
from crn.methods.maps import Maps
from crn.report.gallery import FILES_FOLDER, files_folder
from crn.report.inference_page import write_inference_report
from crn.report.overlays import ColourScale
from crn.report.pages import REPORT_FILE
from crn.report.pictures import to_bytes
from crn.report.result_pictures import PICTURES, ResultPictures
from crn.report.tables import SCORES_FILE, metrics_table, write_score_table
from crn.system.files import claimed
from crn.system.hardware import pick_device, set_up_cpu, to_device_if_it_fits
from crn.system.program import print_result
from datasets.masks import read_masks
from datasets.reader import Images, image_batches, normalize, read_images
from datasets.samples import TRAIN, Sample

log = logging.getLogger(__name__)

# The pictures and the report in --image-output-path.
_SHOWN = (*PICTURES, REPORT_FILE, FILES_FOLDER)
# Images whose coarse patches are measured at a time.
_BATCH = 64


def infer(options: Options, samples: Sequence[Sample]) -> None:
    """Score all samples and write the results.

    Raises:
        UserError: an image, a mask, the checkpoint or ``--threshold-from`` cannot be used,
            or an output cannot be written.
    """
    folder = options.output.image_output_path
    table = options.output.anomaly_score_file or (folder or Path()) / SCORES_FILE
    if table.name == METRICS_FILE:
        raise UserError(
            f"--anomaly-score-file {table}: {METRICS_FILE} is written beside it; give another name"
        )
    metrics = table.with_name(METRICS_FILE)
    shown = [] if folder is None else [folder / name for name in _SHOWN]
    with claimed(table, metrics, *shown):
        results, pictures = find_results(options, samples)
        write_score_table(table, results)
        write_metrics(metrics, results.metrics)
        print_result(metrics_table(results))
        log.info("wrote %s and %s", table, metrics)
        if folder is not None:
            with files_folder(folder) as files:
                panels = pictures.write(folder, files, options.output.save_maps)
                write_inference_report(folder, files, results, panels, pictures.scale)


def find_results(
    options: Options, samples: Sequence[Sample]
) -> tuple[InferenceResults, ResultPictures]:
    """Score all samples and evaluate the scores; nothing is written.

    Raises:
        UserError: see `infer`.
    """
    path = options.run.model_input
    assert path is not None
    checkpoint = read_checkpoint(path)
    options = options_to_score(checkpoint, options)
    set_up_cpu()
    device = pick_device(options.run.cpu)
    model = model_of(checkpoint, options.scoring, device)
    facts = ModelFacts(
        method=model.config.model,
        checkpoint=str(path),
        weights=model.fingerprint,
        step=model.step,
        imsize=options.network.imsize,
        pairs=options.scoring.pairs,
        features=options.pretrained.features if model.patch_image_size else None,
    )
    thresholds = None
    if (earlier := options.decision.threshold_from) is not None:
        thresholds = thresholds_from_file(earlier, options.scoring, facts.weights)
    shown = options.output.image_output_path is not None
    images = read_images(samples, options.network.imsize, options.data.num_workers, keep=shown)
    # A mask that cannot be used is found before the work.
    masks, ignored = read_masks(samples, images.sizes, images.orientations)

    log.info("scoring %d samples with %s of step %d on %s", len(samples), path, model.step, device)
    workers = options.data.num_workers
    distances = patch_distances(model, samples, images, device, workers)
    scores, maps, reconstructions = _score(options, model, images, distances, device)
    asked = options.scoring.anomaly_score
    if thresholds is None:
        trained = np.array([sample.split == TRAIN for sample in samples])
        quantile = options.decision.threshold_quantile
        thresholds = thresholds_from_training(scores[asked], maps, trained, quantile)
    scored = _scored_images(samples, images.sizes, scores, asked, thresholds.image)
    metrics = evaluate(options, facts, thresholds, scored, maps, masks, ignored)
    scale = ColourScale(metrics.maps.low, metrics.maps.high, thresholds.pixel)
    pictures = ResultPictures(samples, images, reconstructions, maps, masks, scale)
    return InferenceResults(options, scored, metrics), pictures


@torch.inference_mode()
def patch_distances(
    model: TrainedModel,
    samples: Sequence[Sample],
    images: Images,
    device: torch.device,
    workers: int = 0,
) -> Tensor | None:
    """The distances (N, G, G) of patches from normal ones; None if the model does not use patches.

    Args:
        model: its patches are used.
        samples: what to score; images that the patches were fitted to keep `HeldOut` distances.
        images: the same samples, as the networks see them.
        device: where to compute.
        workers: threads that read images again, if the patches need another size.

    Raises:
        UserError: a file cannot be read.
    """
    patches, size = model.scorer.patches, model.patch_image_size
    if patches is None or size is None:
        return None
    held_out = model.held_out
    known = [held_out.find(sample.identity()) if held_out else None for sample in samples]
    new = [index for index, distances in enumerate(known) if distances is None]
    strangers = sum(samples[index].split == TRAIN for index in new)
    if held_out and strangers:
        log.info("%d normal training images are not those that the model was fitted to", strangers)
    batches: Iterable[Tensor] = images.pixels[new].split(_BATCH)
    if size != images.pixels.shape[-1]:
        patches.features.say_how_many_are_small(images.sizes)
        some = [samples[index] for index in new]
        batches = image_batches(some, size, workers)
    measured = []
    with tqdm(total=len(new), unit="image", desc="features", disable=None, leave=False) as bar:
        for batch in batches:
            measured += patches(normalize(batch.to(device))).cpu()
            bar.update(len(batch))
    fresh = iter(measured)
    return torch.stack([next(fresh) if distances is None else distances for distances in known])


@torch.inference_mode()
def _score(
    options: Options,
    model: TrainedModel,
    images: Images,
    distances: Tensor | None,
    device: torch.device,
) -> tuple[dict[str, np.ndarray], Tensor, Tensor | None]:
    """Score all images.

    Returns:
        The anomaly scores (N,) for each of `SCORES`, the maps (N, S, S) of ``--anomaly-score``,
        and the reconstructions (N, 3, S, S) uint8, or None if the model has no networks.

    Raises:
        UserError: a score is not finite.
    """
    size = model.config.network.imsize
    pixels = to_device_if_it_fits(images.pixels, device)
    anomaly_maps = torch.empty(len(pixels), size, size)
    reconstructions = None
    if model.method.networks:
        reconstructions = torch.empty(pixels.shape, dtype=torch.uint8)
    scores: list[Maps] = []
    batch_size = options.optimization.batch_size
    for start in range(0, len(pixels), batch_size):
        batch = slice(start, start + batch_size)
        x = normalize(pixels[batch].to(device, non_blocking=True))
        away = None if distances is None else distances[batch].to(device)
        scored = model.score(x, away)
        scores.append({name: values.cpu() for name, values in scored.scores.items()})
        anomaly_maps[batch] = scored.maps[options.scoring.anomaly_score]
        if reconstructions is not None and scored.reconstruction is not None:
            reconstructions[batch] = to_bytes(scored.reconstruction)
    by_name = {name: torch.cat([part[name] for part in scores]).numpy() for name in SCORES}
    if not all(np.isfinite(values).all() for values in by_name.values()):
        raise UserError(
            f"{options.run.model_input}: gives scores that are not finite; the training diverged"
        )
    return by_name, anomaly_maps, reconstructions


def _scored_images(
    samples: Sequence[Sample],
    sizes: Sequence[tuple[int, int]],
    scores: dict[str, np.ndarray],
    asked: str,
    threshold: float | None,
) -> list[ScoredImage]:
    """The rows of the table of scores, in the order of the samples."""
    images = []
    for index, sample in enumerate(samples):
        mine = {name: float(values[index]) for name, values in scores.items()}
        decision = None if threshold is None else int(scores[asked][index] > threshold)
        about = (sample.key, sample.split, sample.kind, sample.label, sizes[index])
        images.append(ScoredImage(*about, mine, decision))
    return images

"""Scoring with a trained model: a table of scores and pictures of every sample."""

import csv
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from crn.checkpoint import TrainedUnits, load_units, read_checkpoint, refuse_contradictions
from crn.config import SCORES, Competition, Network, Optimization, Options, option_names
from crn.files import claimed, set_aside, written_whole
from crn.hardware import pick_device, set_up_cpu
from crn.metrics import auroc, average_precision
from crn.pictures import heat_map, side_by_side, to_image, write_picture
from crn.safe_text import file_name, printable, spreadsheet_cell
from crn.scores import Maps, image_scores, score_pairs
from datasets.memory import EvaluationBatches, normalize, to_device_if_it_fits
from datasets.reader import Images, read_images
from datasets.samples import ANOMALOUS, NORMAL, TEST, TRAIN, Sample

log = logging.getLogger(__name__)

SCORES_FILE = Path("anomaly_scores.csv")
PICTURES = ("inference", "diff")
BEST_SHOWN = 5

# Options that a checkpoint decides; the batch size is also that of scoring.
_FROM_CHECKPOINT = {"model", *option_names(Network, Competition, Optimization)} - {"batch_size"}


@dataclass(frozen=True)
class Results:
    """What a model makes of some samples.

    Attributes:
        scores: for each of `SCORES` the anomaly scores (N,).
        threshold: decisions are anomalous above it; about the score that was asked for.
        reconstructions: (N, 3, S, S) in [-1, 1].
        maps: (N, S, S), of the score that was asked for.
    """

    scores: dict[str, np.ndarray]
    threshold: float
    reconstructions: Tensor
    maps: Tensor


def infer(options: Options, samples: Sequence[Sample]) -> int:
    """Score all samples and write what comes of it.

    Returns:
        The exit status, 0.

    Raises:
        UserError: an image or the checkpoint cannot be used, or an output cannot be written.
    """
    folder = options.output.image_output_path
    pictures = [] if folder is None else [folder / kind for kind in PICTURES]
    with claimed(_scores_file(options), *pictures):
        return _infer(options, samples)


def _infer(options: Options, samples: Sequence[Sample]) -> int:
    path = options.run.model_input
    assert path is not None
    _, config = read_checkpoint(path)
    refuse_contradictions(options, config, path, _FROM_CHECKPOINT)
    set_up_cpu()
    device = pick_device(options.run.cpu)
    model = load_units(path, options.scoring.pairs, device)
    images = read_images(samples, config.network.imsize, options.data.num_workers)
    log.info("scoring %d samples with %s of step %d on %s", len(samples), path, model.step, device)
    results = _score(options, model, images, samples, device)
    scores_file = _write_scores(options, samples, results)
    _report(options, samples, results)
    log.info("wrote %s", scores_file)
    if options.output.image_output_path is not None:
        _write_pictures(options.output.image_output_path, samples, images, results)
    return 0


@torch.inference_mode()
def _score(
    options: Options,
    model: TrainedUnits,
    images: Images,
    samples: Sequence[Sample],
    device: torch.device,
) -> Results:
    asked = options.scoring.anomaly_score
    labels = torch.tensor([sample.label for sample in samples])
    pixels = to_device_if_it_fits(images.pixels, device)
    scores: list[Maps] = []
    reconstructions, maps = [], []
    batches = EvaluationBatches(pixels, labels, options.optimization.batch_size, device)
    for batch, _ in batches:
        reconstruction, batch_maps = score_pairs(batch, model.units, model.pairs)
        scores.append({name: s.cpu() for name, s in image_scores(batch_maps).items()})
        reconstructions.append(reconstruction.cpu())
        maps.append(batch_maps[asked].cpu())
    by_name = {name: torch.cat([batch[name] for batch in scores]).numpy() for name in SCORES}
    trained = np.array([sample.split == TRAIN for sample in samples])
    threshold = np.quantile(by_name[asked][trained], options.scoring.threshold_quantile)
    return Results(by_name, float(threshold), torch.cat(reconstructions), torch.cat(maps))


def _scores_file(options: Options) -> Path:
    folder = options.output.image_output_path or Path()
    return options.scoring.anomaly_score_file or folder / SCORES_FILE


def _write_scores(options: Options, samples: Sequence[Sample], results: Results) -> Path:
    """One row for every sample; the score that was asked for comes first."""
    path = _scores_file(options)
    asked = options.scoring.anomaly_score
    names = [asked, *(name for name in SCORES if name != asked)]
    set_aside(path)
    with written_whole(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", "label", *names, "threshold", "decision"])
        for index, sample in enumerate(samples):
            values = [f"{results.scores[name][index]:.8g}" for name in names]
            decision = int(results.scores[asked][index] > results.threshold)
            values.append(f"{results.threshold:.8g}")
            table.writerow(
                [spreadsheet_cell(sample.key), sample.split, sample.label, *values, decision]
            )
    return path


def _report(options: Options, samples: Sequence[Sample], results: Results) -> None:
    """Print the metrics of the test split and its most anomalous images."""
    test = [index for index, sample in enumerate(samples) if sample.split == TEST]
    labels = np.array([samples[index].label for index in test])
    asked = options.scoring.anomaly_score
    print(f"{len(test)} test images, {labels.sum()} of them anomalous")
    print(f"{'score':<16}{'AUROC':>8}{'AP':>8}")
    for name in SCORES:
        scores = results.scores[name][test]
        row = f"{name:<16}{auroc(scores, labels):>8.3f}{average_precision(scores, labels):>8.3f}"
        print(row + (" <- --anomaly-score" if name == asked else ""))
    scores = results.scores[asked][test]
    above = scores > results.threshold
    print(
        f"threshold {results.threshold:.6g}: {options.scoring.threshold_quantile:g} quantile of "
        f"the normal training images:\nabove it are {above[labels == ANOMALOUS].mean():.1%} of the "
        f"anomalous and {above[labels == NORMAL].mean():.1%} of the normal test images"
    )
    print("most anomalous:")
    for index in np.argsort(-scores, kind="stable")[:BEST_SHOWN]:
        sample = samples[test[index]]
        label = "anomalous" if sample.label == ANOMALOUS else "normal"
        print(f"  {scores[index]:.6f}  {printable(sample.key)}  ({label})")


def _write_pictures(
    folder: Path, samples: Sequence[Sample], images: Images, results: Results
) -> None:
    """For every sample inference/KEY, what the model saw and made, and diff/KEY, the map alone.

    One colour scale serves all maps of the run, so that pictures compare.
    """
    low, high = float(results.maps.min()), float(results.maps.max())
    folders = {name: folder / name for name in PICTURES}
    for path in folders.values():
        set_aside(path)

    names = picture_names([sample.key for sample in samples])

    def write(index: int) -> None:
        anomaly_map = results.maps[index]
        name = names[index]
        row = side_by_side(
            to_image(normalize(images.pixels[index])),
            to_image(results.reconstructions[index]),
            heat_map(anomaly_map, low, high),
        )
        own_size = interpolate(
            anomaly_map[None, None], images.sizes[index], mode="bilinear", align_corners=False
        )[0, 0]
        pictures = {"inference": row, "diff": heat_map(own_size, low, high)}
        for kind, picture in pictures.items():
            write_picture(picture, folders[kind] / name, compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(len(samples))))
    for path in folders.values():
        log.info("wrote %d pictures to %s", len(samples), path)
    log.info("colours of the maps run from %.4g to %.4g", low, high)


def picture_names(keys: Sequence[str]) -> list[PurePosixPath]:
    """The PNG files that show some samples: KEY, or KEY.png where it has another ending."""
    taken: set[PurePosixPath] = set()
    names = []
    for key in keys:
        path = PurePosixPath(key)
        stem, ending = path.name.removesuffix(".png"), ".png"
        while (name := path.with_name(file_name(stem, ending))) in taken:
            ending = "_" + ending
        taken.add(name)
        names.append(name)
    return names

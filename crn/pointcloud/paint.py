"""Copies of scans in which every point of the road has its score."""

from pathlib import Path

import laspy
import numpy as np
from laspy.point.record import ScaleAwarePointRecord
from laspy.vlrs.vlrlist import VLRList
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import Scan, read_points, reading
from crn.pointcloud.partition import BLOCK, BlockArrays, centimetres, groups, heights, usable
from crn.pointcloud.roadway import Roadway
from crn.system.files import written_whole
from crn.system.interrupts import ctrl_c_waits

_MOST_BYTES = 300  # undescribed bytes of a point that become dimensions
_WITH_WAVEFORMS = (4, 5, 9, 10)  # point formats
SCORE, ANOMALOUS = "crn_score", "crn_anomalous"


def refuse_unfit(scan: Scan) -> None:
    """Refuse a file that cannot be copied with scores.

    Raises:
        UserError: it has scores already, or waveforms inside, to which its points refer.
    """
    names = set(scan.header.point_format.dimension_names) & {SCORE, ANOMALOUS}
    if names:
        raise UserError(f"{scan.path}: already has {min(names)}; score the original scan")
    if scan.header.start_of_waveform_data_packet_record:
        raise UserError(
            f"{scan.path}: holds waveforms, which would be lost; score a copy without them (pdal "
            "translate makes one)"
        )


def name_of_copy(scan: Scan) -> str:
    """The file name of the painted copy.

    Points with waveforms are not compressed: lazrs 0.8 changes them if the scanner has several
    channels, and LASzip cannot read what it writes in the older formats.
    """
    name = scan.path.name
    if scan.header.point_format.id in _WITH_WAVEFORMS:
        return f"{scan.path.stem}.las"
    if name.lower().endswith(".copc.laz"):
        return name[: -len(".copc.laz")] + ".laz"
    return name


def paint(
    scan: Scan,
    path: Path,
    roadway: Roadway,
    scores: BlockArrays,
    cell: int,
    threshold: float | None,
) -> int:
    """Write a copy of a file with ``crn_score`` and, with a threshold, ``crn_anomalous``.

    It is LAS 1.4, the only version in which readers agree on extra dimensions. The point format,
    the order of the points, their stored integers, scales, offsets and records stay the same.

    Args:
        scan: the file.
        path: path of the copy; it is compressed if its name ends in .laz.
        roadway, scores: the road and the scores of all files.
        cell: side of a cell in centimetres.
        threshold: threshold of the scores.

    Returns:
        How many points have a score.

    Raises:
        UserError: the file is damaged, or the system refuses to write.
    """
    header, evlrs = _new_header(scan, threshold is not None)
    own = scan.header.point_format.size
    scored = 0
    bar = tqdm(total=scan.points, unit="points", unit_scale=True, desc="paint", disable=None)
    with written_whole(path, "w+b") as file, bar:
        compress = path.suffix.lower() == ".laz"
        writer = laspy.open(file, "w", header=header, do_compress=compress, closefd=False)
        try:
            for points in read_points(scan):
                values = _scores_of(scan, points, roadway, scores, cell)
                array = np.empty(len(points), header.point_format.dtype())
                # The new dimensions follow the old ones, whose bytes are copied.
                content = array.view(np.uint8).reshape(len(array), -1)
                content[:, :own] = points.array.view(np.uint8).reshape(len(array), -1)
                array[SCORE] = values
                if threshold is not None:
                    array[ANOMALOUS] = np.where(np.isnan(values), np.nan, values > threshold)
                scored += np.count_nonzero(~np.isnan(values))
                record = ScaleAwarePointRecord(
                    array, header.point_format, header.scales, header.offsets
                )
                # lazrs would report Ctrl-C during a write as an error of the disk.
                with ctrl_c_waits():
                    writer.write_points(record)
                bar.update(len(points))
            if evlrs:
                writer.write_evlrs(evlrs)
        finally:
            with ctrl_c_waits():
                writer.close()
    return scored


def _scores_of(
    scan: Scan, points: ScaleAwarePointRecord, roadway: Roadway, scores: BlockArrays, cell: int
) -> np.ndarray:
    """The scores (N,) float32 of points; NaN for points that are not of the road."""
    values = np.full(len(points), np.nan, np.float32)
    may_be = usable(points)
    i, j = centimetres(scan, points)
    z, kinds = heights(scan, points), np.asarray(points.classification)
    for block, index in groups(i // BLOCK, j // BLOCK):
        mosaic = scores.of(block)
        if mosaic is None:
            continue
        east, north = i[index] - block[0] * BLOCK, j[index] - block[1] * BLOCK
        road = roadway.road.of_road(
            0, kinds[index], east, north, z[index], roadway.levels.of(block)
        )
        found = mosaic[north // cell, east // cell]
        values[index] = np.where(road & may_be[index], found, np.nan)
    return values


def _new_header(scan: Scan, with_decision: bool) -> tuple[laspy.LasHeader, VLRList]:
    with reading(scan.path), laspy.open(scan.path) as reader:
        header, evlrs = reader.header.copy(), reader.evlrs or ()
    # The octree of a COPC file does not fit the copy, so its records are dropped.
    header.vlrs = [each for each in header.vlrs if each.user_id != "copc"]
    evlrs = VLRList(each for each in evlrs if each.user_id != "copc")
    header.version = laspy.header.Version(1, 4)
    _describe_bytes(scan, header)
    names = [(SCORE, "anomaly score; NaN: no road")]
    if with_decision:
        names.append((ANOMALOUS, "1 above the threshold"))
    header.add_extra_dims([laspy.ExtraBytesParams(name, "f4", text) for name, text in names])
    if scan.crs is not None and not scan.has_crs:
        header.add_crs(scan.crs, keep_compatibility=False)
    return header, evlrs


def _describe_bytes(scan: Scan, header: laspy.LasHeader) -> None:
    """Turn each undescribed byte into a dimension, so that others can follow.

    Raises:
        UserError: there are too many.
    """
    dimensions = header.point_format.dimensions
    if dimensions[-1].description != "Un-registered ExtraBytes":
        return
    count = dimensions.pop().num_elements
    if count > _MOST_BYTES:
        raise UserError(
            f"{scan.path}: has {count} undescribed bytes in every point, too many; remove them "
            "(pdal translate)"
        )
    names = [f"byte_{number}" for number in range(count)]
    header.add_extra_dims([laspy.ExtraBytesParams(each, "u1", "not described") for each in names])

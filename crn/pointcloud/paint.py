"""Copies of scans in which every point of the road has its score."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import laspy
import numpy as np
from laspy.point.record import ScaleAwarePointRecord
from tqdm import tqdm

from crn.errors import UserError
from crn.pointcloud.las import CHUNK, Scan, reading
from crn.pointcloud.partition import BLOCK, append
from crn.system.files import writing, written_whole
from crn.system.interrupts import ctrl_c_waits

_HEADER, _VLR, _EVLR = 375, 54, 60  # bytes of headers: of LAS 1.4, and of its records
_TEXT = slice(26, 94)
_EXTENDED_AT = 235
_MOST_BYTES = 300  # undescribed bytes of a point that become dimensions
_WITH_WAVEFORMS = (4, 5, 9, 10)  # point formats
_SCORED = np.dtype([("place", "<u4"), ("score", "<f4")])
SCORE, ANOMALOUS = "crn_score", "crn_anomalous"


def refuse_unfit(scan: Scan) -> None:
    """Refuse a file that cannot be copied with scores.

    Raises:
        UserError: it has scores already, or waveforms inside, to which its points refer; or its
            header cannot be written.
    """
    names = set(scan.header.point_format.dimension_names) & {SCORE, ANOMALOUS}
    if names:
        raise UserError(f"{scan.path}: already has {min(names)}; score the original scan")
    if scan.header.start_of_waveform_data_packet_record:
        raise UserError(
            f"{scan.path}: holds waveforms, which would be lost; score a copy without them (pdal "
            "translate makes one)"
        )
    with reading(scan.path):
        _Copy.of(scan, True).writer(io.BytesIO(), False).close()


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


class PointScores:
    """The scores of the points of a scan: added by blocks, and read in the order of the points.

    There is a file for each `CHUNK` points.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True)

    def add(self, records: np.ndarray, cells: np.ndarray) -> None:
        """Give the points of a block, (N,) of `partition.RECORD`, the scores of its cells (S, S).

        Raises:
            UserError: the system refuses to write them.
        """
        index, cell = records["index"], BLOCK // len(cells)
        scored = np.empty(len(index), _SCORED)
        scored["place"] = index % CHUNK
        scored["score"] = cells[records["j"] // cell, records["i"] // cell]
        numbers = index // CHUNK
        for number in np.unique(numbers):
            append(self._path(number), scored[numbers == number])

    def of(self, number: int, count: int) -> np.ndarray:
        """The scores (N,) float32 of the points of a chunk; NaN if they have none."""
        values = np.full(count, np.nan, np.float32)
        if self._path(number).exists():
            scored = np.fromfile(self._path(number), _SCORED)
            values[scored["place"]] = scored["score"]
        return values

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.scores"


def paint(
    scan: Scan, stored: Path, path: Path, scores: PointScores, threshold: float | None
) -> int:
    """Write a copy of a file with ``crn_score`` and, with a threshold, ``crn_anomalous``.

    It is LAS 1.4, the only version in which readers agree on extra dimensions. The point format,
    the order of the points, their stored integers, scales, offsets and records stay the same, and
    so does the text of the header, whatever its encoding.

    Args:
        scan: the file.
        stored: a file of its points, uncompressed.
        path: path of the copy; it is compressed if its name ends in .laz.
        scores: the scores of its points.
        threshold: threshold of the scores.

    Returns:
        How many points have a score.

    Raises:
        UserError: the system refuses to write.
    """
    copy = _Copy.of(scan, threshold is not None)
    header = copy.header
    own = scan.header.point_format.size
    scored = 0
    bar = tqdm(total=scan.points, unit="points", unit_scale=True, desc="paint", disable=None)
    with written_whole(path, "w+b") as file, stored.open("rb") as points, bar:
        writer = copy.writer(file, path.suffix.lower() == ".laz")
        try:
            for number in range(-(-scan.points // CHUNK)):
                before = np.fromfile(points, np.uint8, CHUNK * own).reshape(-1, own)
                array = np.empty(len(before), header.point_format.dtype())
                # The new dimensions follow the old ones, whose bytes are copied.
                array.view(np.uint8).reshape(len(array), -1)[:, :own] = before
                values = scores.of(number, len(array))
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
                bar.update(len(array))
        finally:
            with ctrl_c_waits():
                writer.close()
        copy.finish(file)
    return scored


@dataclass(frozen=True)
class _Copy:
    """What a copy has before and after its points.

    laspy writes what it makes of a header: no-data values and text that is not UTF-8 are lost. So
    it writes records of the same length, which `finish` replaces by the bytes of the file.

    Attributes:
        header: for laspy.
        text: the bytes of the header from the system identifier to the creation date.
        records, extended: the bytes of the records before and after the points.
    """

    header: laspy.LasHeader
    text: bytes
    records: bytes
    extended: tuple[bytes, ...]

    @classmethod
    def of(cls, scan: Scan, with_decision: bool) -> "_Copy":
        """Describe the copy of a scan.

        Raises:
            UserError: it has too many undescribed bytes.
        """
        dropped = {b"copc", b"laszip encoded"}  # they do not fit the copy
        if not scan.has_crs and scan.crs is not None:
            dropped.add(b"LASF_Projection")
        with scan.path.open("rb") as file:
            start = file.read(_HEADER)
            near = _records(file, _number(start, 94, 2), _number(start, 100, 4), _VLR)
            far = []
            if start[25] >= 4:
                far = _records(file, _number(start, _EXTENDED_AT, 8), _number(start, 243, 4), _EVLR)
        near, far = ([each for each in part if _owner(each) not in dropped] for part in (near, far))
        header = scan.header.copy()
        header.version = laspy.header.Version(1, 4)
        _describe_bytes(scan, header)
        names = [(SCORE, "anomaly score; NaN: no road")]
        if with_decision:
            names.append((ANOMALOUS, "1 above the threshold"))
        header.add_extra_dims(
            [laspy.ExtraBytesParams(name, "f4", text, no_data=[np.nan]) for name, text in names]
        )
        known = [each for each in near if _owner(each) == b"LASF_Spec" and each[18:20] == b"\4\0"]
        described = b"".join(each[_VLR:] for each in known)
        (content,) = (each.record_data_bytes() for each in header.vlrs.get("ExtraBytesVlr"))
        content = described + content[len(described) :]
        head = known[0] if known else b"\0\0" + b"LASF_Spec".ljust(16, b"\0") + b"\4\0"
        head = head[:20] + len(content).to_bytes(2, "little") + head[22:_VLR].ljust(32, b"\0")
        near = [*(each for each in near if each not in known), head + content]
        # In place, so that laspy does not add its own.
        header.vlrs.clear()
        header.vlrs.extend(laspy.VLR("", 0, "", each[_VLR:]) for each in near)
        if b"LASF_Projection" in dropped:
            header.add_crs(scan.crs, keep_compatibility=False)
        return cls(header, start[_TEXT], b"".join(near), tuple(far))

    def writer(self, file: IO[bytes], compress: bool) -> laspy.LasWriter:
        """Begin the copy."""
        return laspy.open(
            file,
            "w",
            header=self.header,
            do_compress=compress,
            closefd=False,
            encoding_errors="replace",
        )

    def finish(self, file: IO[bytes]) -> None:
        """Write what laspy does not write as it was, after it has closed its writer."""
        file.seek(_TEXT.start)
        file.write(self.text)
        file.seek(_HEADER + len(self.header.extra_header_bytes))
        file.write(self.records)
        start = file.seek(0, os.SEEK_END)
        if self.extended:
            file.write(b"".join(self.extended))
            file.seek(_EXTENDED_AT)
            file.write(start.to_bytes(8, "little") + len(self.extended).to_bytes(4, "little"))


def _number(content: bytes, position: int, length: int) -> int:
    return int.from_bytes(content[position : position + length], "little")


def _records(file: IO[bytes], start: int, count: int, size: int) -> list[bytes]:
    """The bytes of records whose headers have a size."""
    file.seek(start)
    records = []
    for _ in range(count):
        head = file.read(size)
        records.append(head + file.read(_number(head, 20, size - 52)))
    return records


def _owner(record: bytes) -> bytes:
    return record[2:18].split(b"\0")[0]


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

"""The lines of docs/scoring.md that score images from Python."""

import csv
import shutil
from pathlib import Path

from conftest import REPOSITORY, inference, texture, write_image


def documented_lines() -> str:
    section = (REPOSITORY / "docs/scoring.md").read_text().split("## From Python")[1]
    return section.split("```python\n")[1].split("```")[0]


def test_they_score_as_inference_does(
    trained_models: dict[str, Path], tmp_path: Path, run_python, run_train
) -> None:
    shutil.copytree(trained_models["crn"].parent, tmp_path / "model_checkpoints")
    for index in range(3):
        write_image(tmp_path / f"new_images/{index}.png", texture(index, 9, 12, 3))
    lines = run_python("-c", documented_lines(), cwd=tmp_path)
    assert lines.returncode == 0, lines.stderr
    words = inference("model_checkpoints/last.ckpt", "Folder", Path("new_images"))
    assert run_train(*words, cwd=tmp_path).returncode == 0
    with open(tmp_path / "anomaly_scores.csv", newline="", encoding="utf-8-sig") as file:
        table = [(row["file"], float(row["residual"])) for row in csv.DictReader(file)]
    printed = [line.split(",") for line in lines.stdout.splitlines()]
    assert [name for name, _ in printed] == [name for name, _ in table]
    for (_, mine), (_, theirs) in zip(printed, table, strict=True):
        assert abs(float(mine) - theirs) < 2e-6

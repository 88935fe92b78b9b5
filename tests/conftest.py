"""Miniature data sets, and ways to run the program on them."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    import torch

    from crn.config import ModelConfig
    from crn.evaluation.results import InferenceResults

REPOSITORY = Path(__file__).resolve().parents[1]

# The networks here are too small for several threads, which only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Once imported it sends reports to its maker, also through the proxies that a test sets.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Failing assertions in these modules are explained, too.
pytest.register_assert_rewrite("outputs", "reports", "victims")

GOOD, BAD = 6, 3


def short_or_long(short: int, name: str, default: int) -> list[Any]:
    """How often a test does something; the environment sets the number of the long form."""
    often = int(os.environ.get(name, str(default)))
    return [short, pytest.param(often, marks=pytest.mark.long)]


class Finished(NamedTuple):
    """How a run of the program in this process ended."""

    status: int
    out: str
    err: str


def refuse(result: Finished, *mentions: object) -> None:
    """The run ended with status 2 and one line of error, its last, with everything mentioned."""
    assert "Traceback" not in result.err
    assert result.status == 2
    lines = result.err.splitlines()
    assert [line for line in lines if line.startswith("train.py: error: ")] == lines[-1:]
    for mention in mentions:
        assert str(mention) in lines[-1]
    assert result.out == ""


def data_of(layout: str, root: Path | str) -> tuple[str, ...]:
    """The part of a command line that names the data set."""
    return ("--dataset", layout, "--dataset-path", str(root))


def model_config(model: str = "crn", seed: int = 1, **groups: Any) -> "ModelConfig":
    """A model with default options but for some groups, as in ``network=Network(imsize=8)``."""
    from crn.config import GROUPS, ModelConfig

    names = ("network", "competition", "adversarial", "optimization", "scoring")
    return ModelConfig(model, seed=seed, **{name: GROUPS[name]() for name in names} | groups)


def write_model(path: Path, seed: int, units: int = 2) -> Path:
    """A checkpoint to score with: the weights are untrained."""
    import torch

    from crn.checkpoints.writing import write_checkpoint
    from crn.config import Competition, Network
    from crn.training.module import TrainingModule

    torch.manual_seed(seed)
    network = Network(imsize=8, max_network_depth=2)
    config = model_config(network=network, competition=Competition(units))
    state = TrainingModule(config).state_dict()
    progress = {"step": 7, "training_seconds": 1.0, "max_roc_auc": 0.5, "best_step": 7, "data": "x"}
    content = {"state_dict": state, "hyper_parameters": asdict(config)}
    write_checkpoint({**content, "progress": progress}, path)
    return path


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def texture(seed: int, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Noise that differs for every seed."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def write_mvtec_category(root: Path) -> Path:
    """Colour images of 32x24 and 24x32 pixels; names repeat across the defects."""
    for index in range(GOOD):
        write_image(root / f"train/good/{index:03d}.png", texture(index, 24, 32, 3))
    for index in range(BAD):
        write_image(root / f"test/good/{index:03d}.png", texture(10 + index, 24, 32, 3))
        for defect, seed in (("crack", 20), ("hole", 30)):
            name = f"{defect}/{index:03d}"
            write_image(root / f"test/{name}.png", texture(seed + index, 32, 24, 3))
            mask = np.zeros((32, 24), np.uint8)
            mask[8:16, 8:16] = 255
            write_image(root / f"ground_truth/{name}_mask.png", mask)
    return root


def write_panorama(root: Path) -> Path:
    """Colour images of 40x24 pixels, some of them JPEG."""
    for index in range(GOOD):
        suffix = "jpg" if index % 2 else "png"
        write_image(root / f"good_ones/p{index}.{suffix}", texture(index, 24, 40, 3))
    for index in range(BAD):
        write_image(root / f"bad_ones/p{index}.png", texture(10 + index, 24, 40, 3))
    return root


def write_road_images(root: Path) -> Path:
    """Height images of 16 bits and intensity images of 8 bits, 24x28 pixels."""
    for name, count, seed in (("good_ones", GOOD, 0), ("bad_ones", BAD, 10)):
        for index in range(count):
            height = texture(seed + index, 28, 24, dtype=np.uint16)
            intensity = texture(seed + index + 100, 28, 24)
            write_image(root / name / f"height_files/tile_{index}.png", height)
            write_image(root / name / f"intensity_files/tile_{index}.png", intensity)
    return root


def inference(model: Path | str, layout: str, data: Path, *more: object) -> list[str]:
    """The command line that scores a data set."""
    words = ("--mode", "inference", "--cpu", "--model-input", model, "--dataset", layout)
    return [str(word) for word in (*words, "--dataset-path", data, *more)]


def smooth_images(count: int, size: int, seed: int) -> "torch.Tensor":
    """Gradients in random directions and colours, (N, 3, S, S) in [-1, 1]."""
    import torch

    random = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-1, 1, size)
    slopes = torch.rand(2, count, 3, 1, 1, generator=random) - 0.5
    return slopes[0] * ramp + slopes[1] * ramp[:, None]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even if the tests were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mvtec_category(tmp_path: Path) -> Path:
    """A category that the test may change: 6 training images; 3 good, 3 crack, 3 hole to test."""
    return write_mvtec_category(tmp_path / "mvtec" / "widget")


@pytest.fixture
def panorama(tmp_path: Path) -> Path:
    """A data set that the test may change: 6 good and 3 bad photographs."""
    return write_panorama(tmp_path / "panorama")


@pytest.fixture
def road_images(tmp_path: Path) -> Path:
    """A data set that the test may change: 6 good and 3 bad pairs of height and intensity."""
    return write_road_images(tmp_path / "roads")


@pytest.fixture(scope="session")
def read_only_mvtec_category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `mvtec_category`, for tests that only read it."""
    return write_mvtec_category(tmp_path_factory.mktemp("mvtec") / "widget")


@pytest.fixture(scope="session")
def read_only_panorama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `panorama`, for tests that only read it."""
    return write_panorama(tmp_path_factory.mktemp("read_only") / "panorama")


@pytest.fixture(scope="session")
def read_only_road_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `road_images`, for tests that only read it."""
    return write_road_images(tmp_path_factory.mktemp("read_only") / "roads")


@pytest.fixture(scope="session")
def easy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth photographs; the bad ones have a bright square."""
    root = tmp_path_factory.mktemp("easy")
    images = ((smooth_images(60, 16, seed=1) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
    for index, pixels in enumerate(images):
        if index >= 45:
            pixels[5:10, 4:9] = 255 - pixels[5:10, 4:9]
            pixels[6:9, 5:8] = (250, 20, 250)
        folder = "bad_ones" if index >= 45 else "good_ones"
        write_image(root / folder / f"p{index:02d}.png", pixels)
    return root


@pytest.fixture(scope="session")
def trained_models(
    read_only_panorama: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """For each model a checkpoint after two steps on `read_only_panorama`."""
    from victims import Victim, run_program

    paths = {}
    for model, more in {
        "crn": ("--num-competitive-units", 2),
        "dagan": (),
        "autoencoder": (),
        "features": ("--features-size", 32),
    }.items():
        folder = tmp_path_factory.mktemp(model)
        words = (
            "--cpu", "--imsize", 8, "--max-network-depth", 2, "--batch-size", 2, "--seed", 1,
            "--training-steps", 2, "--checkpoint-path", "kept", "--model", model, *more,
            "--dataset", "Panorama", "--dataset-path", read_only_panorama,
        )  # fmt: skip
        Victim(folder, run_program, words).succeed()
        paths[model] = folder / "kept/last.ckpt"
    return paths


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to score with."""
    return write_model(tmp_path_factory.mktemp("untrained") / "model.ckpt", seed=1)


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the environment of an offline agent of the sweep sweep1."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SWEEP_ID": "sweep1",
        # The agent sets these itself; here they are for the fixture to take back.
        "WANDB_RUN_ID": "",
        "WANDB_SWEEP_PARAM_PATH": "",
        # /usr/bin/env python has to be this interpreter, as in an active environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def offline_wandb(wandb_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `wandb_folder`, without an agent: a user types --wandb."""
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(name)
    return wandb_folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images, where they lie beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images of ../shared/data are not here")
    return folder


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the interpreter as a process: ``run_python("-c", code, cwd=folder)``."""

    def run(
        *args: str | Path, cwd: Path, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def run_train(run_python) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program as a process: ``run_train("--help", cwd=folder)``."""

    def run(*args: str | Path, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
        return run_python(REPOSITORY / "train.py", *args, cwd=cwd, **kwargs)

    return run


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = programs["chromium"]
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        chosen.add_argument(argument)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(chosen, Service(programs["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def show(browser) -> Iterator[Any]:
    """Open a report: ``show(path)``, ``show(path, PHONE)``."""
    from reports import Page

    yield partial(Page, browser)
    messages = [entry["message"] for entry in browser.get_log("browser")]
    # Of a page that is opened while the one before still has the focus.
    assert [each for each in messages if "Autofocus processing was blocked" not in each] == []


@pytest.fixture(scope="session")
def results() -> "InferenceResults":
    """Results on normal images and two kinds of defect, with names made to do harm."""
    from reports import NAMES, results_of

    return results_of(NAMES)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory, results: "InferenceResults") -> Path:
    """The report on `results`."""
    from reports import write_report

    return write_report(tmp_path_factory.mktemp("a folder, 100% #1"), results)


@pytest.fixture
def run_main(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run the program in this process and in ``tmp_path``: ``run_main("--cpu", ...)``.

    An exception that the program does not turn into a message fails the test.
    """
    from train import main

    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Finished:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        capsys.readouterr()
        try:
            status = main([str(arg) for arg in args])
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def use(run_main: Callable[..., Finished], easy_set: Path) -> Callable[..., str]:
    """Run the program on `easy_set`, or other data, expect that it succeeds; what it logged."""

    def run(*words: object, data: tuple[str, ...] = ()) -> str:
        finished = run_main("--cpu", *(data or data_of("Panorama", easy_set)), *words)
        assert finished.status == 0, finished.err
        return finished.err

    return run

"""The options of a run in five sections, each declared once; a reader of one section knows nothing of the others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from gridnn.errors import UserError
from gridnn.layout.gridshape import ORDERS
from gridnn.layout.halo import HALOS
from gridnn.models import WITH_DROPOUT
from gridnn.models.torchvision import TORCHVISION
from gridnn.plan.plan import BACKWARD
from gridnn.plan.rules import RULES, STRATEGIES
from gridnn.train.option import (
    ADJUSTABLE,
    COUNT,
    EPOCHS,
    FIXED,
    FREE,
    MOMENTUM,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SEEDS,
    Section,
    flag,
    integers,
    option,
)
from gridnn.units import ITEMSIZES, parse_memory

HALVES = tuple(name for name, size in ITEMSIZES.items() if size == 2)  # types of 16 bits
LEARNING_RATES = {"sgd": 0.01, "adamw": 0.001}
SHAPES = {"synthetic": "32x32x3", "volumes": "64x64x64x1"}
PATH = "PATH"  # stands for every data set that has no name of its own
OWN = ("widths", "dropout")  # what a user's own model may take: it is refused where it does not

CHOOSING = ("machine", "memory")  # what plans are compared by
UNLIMITED = ("layerwise",)  # searches that take no memory limit

DATA, CHECKPOINTS = "Network and data", "Checkpoints"  # panels
MADE_UP = ("dataset", ("synthetic", "volumes"))
OF_PATH = ("dataset", (PATH,))
ON_GPU, ON_CPU = ("backend", ("cupy",)), ("backend", ("numpy",))
SGD, STEPS = ("optimizer", ("sgd",)), ("schedule", ("step",))


@dataclass(frozen=True)
class ModelOptions(Section):
    """Which network."""

    PANEL: ClassVar[str] = DATA

    model: str = option(
        "lenet", "one that gridnn models lists, or a function in a file: networks.py:tiny", "NAME|FILE:FUNCTION"
    )
    widths: str = option("128,128", "hidden widths of mlp", "N,N,...", needs=("model", ("mlp",)))
    dropout: float = option(
        0.5, "probability, for models that have it", within=PROBABILITY, needs=("model", WITH_DROPOUT)
    )
    weights: str | None = option(
        None,
        "start from torchvision's weights",
        "FILE.safetensors",
        needs=("model", TORCHVISION),
        command="audit",
        resume=FREE,
    )

    @property
    def hidden(self) -> tuple[int, ...]:
        """The widths of the hidden layers of ``mlp``."""
        return integers("widths", self.widths, ",", "512,512")

    @property
    def asked(self) -> tuple[str, ...]:
        """The options of a user's own model that differ from their defaults."""
        return tuple(f.name for f in fields(self) if f.name in OWN and getattr(self, f.name) != f.default)

    def check(self) -> None:
        _ = self.hidden


@dataclass(frozen=True)
class DataOptions(Section):
    """Which samples. Without a ``dataset`` nothing is read, and they are as the network was published for."""

    PANEL: ClassVar[str] = DATA

    dataset: str | None = option(
        "digits", "digits, cifar10, mnist, synthetic, volumes; .npz, .h5, a folder of .npy or of images", "NAME|PATH"
    )
    data_dir: str = option(
        "data", "where the files of cifar10 and mnist are", "PATH", needs=("dataset", ("cifar10", "mnist")), resume=FREE
    )
    names: str = option(
        "x,y",
        "what the arrays of samples and targets are called in a file (x is x_train and x_test, or x)",
        "X,Y",
        needs=OF_PATH,
    )
    shape: str | None = option(
        None,
        "shape of a sample that is made up; default: 32x32x3 (synthetic), 64x64x64x1 (volumes)",
        "(DxH)xWxC",
        needs=MADE_UP,
    )
    classes: int | None = option(
        None, "number of classes, synthetic or of a path; default: 10, or those of the labels", within=COUNT
    )
    samples: int = option(2048, "number of samples that are made up", within=COUNT, needs=MADE_UP)
    targets: int = option(
        4, "numbers to find out from a sample of volumes", "K", within=COUNT, needs=("dataset", ("volumes",))
    )
    resize: int | None = option(
        None,
        "shorter side of images; default of a folder: 256",
        "PIXELS",
        within=COUNT,
        needs=("dataset", ("digits", "cifar10", "mnist", PATH)),
    )
    crop: int | None = option(
        None,
        "side of the square cut out of the images of a folder, at random to train; default: 224",
        "PIXELS",
        within=COUNT,
        needs=OF_PATH,
    )
    flip: bool = option(False, "mirror the images of a folder at random", needs=OF_PATH)

    def __post_init__(self):
        if self.shape is None:
            object.__setattr__(self, "shape", SHAPES.get(self.dataset))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample that is made up: space and channels, or features alone."""
        return integers("shape", self.shape or SHAPES["synthetic"], "x", "32x32x3")

    @property
    def array_names(self) -> tuple[str, str]:
        """What the arrays of samples and targets are called in a file."""
        names = tuple(name.strip() for name in self.names.split(","))
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise UserError(f"--names {self.names}: write the names of the samples' and the targets' arrays as x,y")
        return names

    def check(self) -> None:
        _ = self.array_names
        if len(self.sample_shape) > 4:
            raise UserError(
                f"--shape {self.shape}: write features as 784, or space and channels: 128x1, 32x32x3, 64x64x64x1"
            )


@dataclass(frozen=True)
class PlanOptions(Section):
    """How the layers are divided, and how the plan is run."""

    PANEL: ClassVar[str] = "Grid"
    RESUME: ClassVar[str] = FREE

    grid: str = option(
        "auto", "rows x columns of ranks: 4x2, 4x-1 (the other factor follows); auto: the cheapest", "PRxPC"
    )
    order: str = option("column", "which groups have neighbouring ranks", choices=ORDERS)
    strategy: str | None = option(
        None, "how the layers are divided; default: optimal, and grid with a --grid", choices=STRATEGIES
    )
    machine: str = option("generic-cpu", "the machine that plans are compared on", "NAME|FILE")
    memory: str | None = option(None, "bytes that a rank may use at the most", "16GB")
    domain: str | None = option(
        None,
        "parts of the dimensions of space, the first one first: 2x2 (images: h x w), 2x2x1 (volumes)",
        "PxPxP",
        needs=("strategy", ("domain", "integrated")),
    )
    group: int | None = option(
        None,
        "ranks that share the fully connected layers of splitbrain; default: the rows of the grid",
        "K",
        within=COUNT,
        needs=("strategy", ("splitbrain",)),
    )
    axes: str = option(
        "few",
        "how many axes of a layer optimal may divide: at most two, or all of them",
        choices=("few", "all"),
        needs=("strategy", ("optimal",)),
    )
    plan: str | None = option(None, "a split per layer, instead of a strategy", "FILE")
    copies: bool = option(
        False,
        "divide layers that are too small for the grid into fewer parts, with copies, instead of refusing",
        needs=("strategy", tuple(RULES)),
    )
    gather_backward: str = option("reduce-scatter", "the backward of gathered activations", choices=BACKWARD)
    halo: str = option(
        "auto",
        "halos over several dimensions: to all neighbours at once, or one dimension after the other",
        choices=HALOS,
    )
    recompute: bool = option(False, "keep few activations, and compute the others a second time for the backward pass")

    @property
    def domain_parts(self) -> tuple[int, ...] | None:
        """Into how many parts the dimensions of space are divided; None if the strategy decides."""
        if self.domain is None:
            return None
        parts = integers("domain", self.domain, "x", "2x2")
        if len(parts) > 3:
            raise UserError(
                f"--domain {self.domain}: write parts of the dimensions of space, as 2x2 of images, 2x2x1 of volumes, "
                "or of the first one as 4"
            )
        return parts

    @property
    def memory_bytes(self) -> float | None:
        """What a rank may use, in bytes; None: as much as there is."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def divider(self) -> str:
        """The strategy: the one that is asked for, ``optimal`` where it may choose the grid, otherwise ``grid``."""
        return self.strategy or ("optimal" if self.grid == "auto" else "grid")

    @property
    def chooses(self) -> bool:
        """Whether plans are compared: by a search, or by a rule that may take its cheapest grid."""
        if self.plan is not None or self.divider in RULES:
            return self.plan is None and self.grid == "auto" and self.domain is None and self.group is None
        return self.divider != "tiling"

    def compares_by(self, name: str) -> bool:
        """Whether plans are compared by this one of `CHOOSING`."""
        return self.chooses and (name == "machine" or self.divider not in UNLIMITED)

    def check(self) -> None:
        _ = self.memory_bytes, self.domain_parts
        defaults = {f.name: f.default for f in fields(self)}
        for name in CHOOSING:
            value = getattr(self, name)
            if value != defaults[name] and not self.compares_by(name):
                how = f"--plan {self.plan}" if self.plan else f"--grid {self.grid} --strategy {self.divider}"
                raise UserError(
                    f"{flag(name)} {value} has no effect with {how}, where nothing is compared: leave it out, or use "
                    "--strategy optimal"
                )
        if self.plan is not None and self.strategy is not None:
            raise UserError(f"--plan {self.plan} and --strategy {self.strategy} both say how to divide: leave one out")


@dataclass(frozen=True)
class TrainOptions(Section):
    """What a step is, how many there are, and what remains of them. ``lr`` becomes the default of the optimizer."""

    PANEL: ClassVar[str] = "Training"
    COMMAND: ClassVar[str] = "train"

    loss: str = option(
        "cross-entropy", "what is minimised", choices=("cross-entropy", "mse"), panel=DATA, command="plan"
    )
    batch: int = option(64, "samples per update, over all ranks", "B", within=COUNT, panel=DATA, command="plan")
    accumulate: int = option(1, "forward and backward passes per update", within=COUNT, panel=DATA, command="plan")
    epochs: int = option(10, "passes over the training data", within=COUNT, resume=ADJUSTABLE)
    steps: int | None = option(None, "stop after so many updates", within=COUNT, command="audit", resume=ADJUSTABLE)
    optimizer: str = option("sgd", "update rule", choices=("sgd", "adamw"))
    lr: float | None = option(
        None, "learning rate; default: 0.01 (sgd), 0.001 (adamw)", within=NOT_NEGATIVE, resume=ADJUSTABLE
    )
    momentum: float = option(0.9, "of sgd", within=MOMENTUM, needs=SGD)
    nesterov: bool = option(False, "Nesterov's momentum for sgd", needs=SGD)
    weight_decay: float = option(
        0.0, "added to the gradient (sgd), or decoupled (adamw)", within=NOT_NEGATIVE, resume=ADJUSTABLE
    )
    schedule: str = option(
        "constant", "of the learning rate", choices=("constant", "step", "cosine"), resume=ADJUSTABLE
    )
    warmup: int = option(0, "epochs in which the learning rate rises linearly", within=EPOCHS, resume=ADJUSTABLE)
    step_every: int = option(
        10, "epochs between two steps of the step schedule", within=COUNT, needs=STEPS, resume=ADJUSTABLE
    )
    gamma: float = option(0.1, "factor of the step schedule", within=POSITIVE, needs=STEPS, resume=ADJUSTABLE)
    clip: float | None = option(None, "largest global norm of the gradient", within=POSITIVE, resume=ADJUSTABLE)
    drop_last: bool = option(False, "leave the last short batch of an epoch out")
    seed: int = option(0, "of weights, order and dropout", within=SEEDS, panel="Machine", command="plan")
    checkpoint: str | None = option(
        None,
        "where checkpoints go; SIGTERM and SIGUSR1 then save and end the run",
        "DIR",
        panel=CHECKPOINTS,
        resume=FREE,
    )
    resume: bool = option(
        False, "go on from the newest checkpoint in DIR; without one, begin", panel=CHECKPOINTS, resume=FREE
    )
    keep: int | None = option(
        None, "how many checkpoints remain; default: 3", "K", within=COUNT, panel=CHECKPOINTS, resume=FREE
    )
    save_every: int | None = option(
        None, "updates between two checkpoints; default: one an epoch", within=COUNT, panel=CHECKPOINTS, resume=FREE
    )

    def __post_init__(self):
        if self.lr is None:
            object.__setattr__(self, "lr", LEARNING_RATES.get(self.optimizer))

    def check(self) -> None:
        if self.accumulate > self.batch:
            raise UserError(f"--accumulate {self.accumulate} is more parts than a batch of {self.batch} has samples")
        if self.nesterov and not self.momentum:
            raise UserError("--nesterov needs momentum, but --momentum is 0")
        for name in ("resume", "keep", "save_every"):
            if self.checkpoint is None and getattr(self, name):
                raise UserError(f"{flag(name)} needs the directory of the checkpoints: --checkpoint DIR")


@dataclass(frozen=True)
class DeviceOptions(Section):
    """What computes, and in which numbers.

    Weights are kept, summed and updated in float32 where ``dtype`` has 16 bits.
    """

    PANEL: ClassVar[str] = "Machine"
    RESUME: ClassVar[str] = FREE

    dtype: str = option(
        "float32",
        "of activations and products; with 16 bits, weights are kept and summed in float32",
        choices=tuple(ITEMSIZES),
        resume=FIXED,
    )
    tf32: bool = option(False, "products of float32 on a GPU: of factors rounded to TF32", needs=ON_GPU, negative=True)
    graphs: bool = option(
        False,
        "a GPU's work between two messages as one CUDA graph: less for the host to do",
        needs=ON_GPU,
        negative=True,
    )
    backend: str = option("numpy", "what computes: the CPU, or one NVIDIA GPU a rank", choices=("numpy", "cupy"))
    kernels: str = option(
        "auto",
        "local mathematics of numpy; auto is the fastest that is installed",
        choices=("auto", "reference", "numba", "onednn"),
        needs=ON_CPU,
    )
    conv: str = option(
        "auto",
        "convolutions on a GPU; auto is cudnn where it is installed",
        choices=("auto", "gemm", "cudnn"),
        needs=ON_GPU,
    )
    transport: str = option(
        "auto",
        "how arrays of GPUs move between ranks",
        choices=("auto", "cuda-aware", "nccl", "host"),
        needs=ON_GPU,
        command="audit",
    )
    threads: int | None = option(None, "BLAS threads per rank; default: its share of the node's cores", within=COUNT)

    def check(self) -> None:
        if self.tf32 and self.dtype != "float32":
            raise UserError(f"--tf32 has no effect with --dtype {self.dtype}: leave it out, or use --dtype float32")
        if self.conv == "cudnn" and self.dtype == "float64":
            raise UserError("--conv cudnn: cuDNN convolves no float64: use --conv gemm, or another --dtype")

"""The instances of the kernels' templates that gridnn launches, as `gridnn.kernels.cuda.module.expression` writes them.

They are compiled together, file by file: one by one each takes as long as a hundred.
"""

from __future__ import annotations

import itertools

FLOATS = ("float", "double", "half16", "bfloat16")
NARROW = ("half16", "bfloat16")
SAME = tuple((t, t) for t in FLOATS)
WIDER = (*SAME, *((t, "float") for t in NARROW))  # 16-bit data with factors or sums in float32
VECTORS = ("1", "4")
INDICES = ("unsigned char", "unsigned int")
WORDS = ("Pack<unsigned long long, 2>", "unsigned long long", "unsigned int", "unsigned short", "unsigned char")


def instances(file: str) -> list[str]:
    """The name expressions of ``file`` in kernels/cuda; none for other files."""
    made = {"elements.cu": elements, "rows.cu": rows, "random.cu": draws, "windows.cu": windows, "copies.cu": copies}
    return made.get(file, list)()


def elements() -> list[str]:
    biased = [f"Biased<{rule}>" for rule in ("Copy", "Relu", "Tanh", "Gelu")]
    return [
        *written("unary", ("Relu", "LeakyRelu", "Tanh"), SAME, VECTORS),
        *written("unary", ("Copy",), tuple(itertools.product(FLOATS, FLOATS)), VECTORS),
        *written("gradient", ("ReluGrad", "LeakyReluGrad", "TanhGrad"), FLOATS, VECTORS),
        *written("gelu", ("GeluExact", "GeluTanh"), FLOATS, VECTORS),
        *written("channelwise", ("Affine", "AddScaled", *biased), [(t, w, t) for t, w in WIDER], VECTORS),
        *written("unscale", FLOATS, ("int",)),
        *written("sgd", (("float", "float"), ("double", "double"))),
        *written("adamw", (("float", "float"), ("double", "double"))),
    ]


def rows() -> list[str]:
    return [*written("row_sums", ("Sum", "Moments", "MomentsGrad"), SAME, VECTORS), *written("fold", FLOATS)]


def draws() -> list[str]:
    return [*written("uniform", FLOATS), *written("dropout", FLOATS)]


def windows() -> list[str]:
    summing = ("sum_windows", "spread_windows", "depthwise", "depthwise_grad_input", "depthwise_partial",
               "depthwise_total", "add_columns")  # fmt: skip
    return [
        *(name for kernel in ("max_pool", "max_pool_grad") for name in written(kernel, FLOATS, INDICES)),
        *(name for kernel in summing for name in written(kernel, FLOATS)),
        *(name for kernel in ("columns_of_windows", "columns_of_elements") for name in written(kernel, WORDS)),
    ]


def copies() -> list[str]:
    computing = ("add", "fill", "repeat_grad", "resample", "resample_grad")
    return [
        *(name for kernel in ("pack", "unpack", "repeat") for name in written(kernel, WORDS)),
        *(name for kernel in computing for name in written(kernel, FLOATS)),
    ]


def written(kernel: str, *choices) -> list[str]:
    """Every combination of ``choices``, each a template argument or several of them, as arguments of ``kernel``."""
    rows = itertools.product(*([c if isinstance(c, tuple) else (c,) for c in choice] for choice in choices))
    return [f"{kernel}<{', '.join(itertools.chain(*row))}>" for row in rows]

"""What kind of file a name stands for, as far as that matters to whoever opens it.

The formats are those that a rule can name (``model.FORMATS``): weights that are numbers and
nothing else, weights that run what their maker wrote, and code.
A name proves nothing, so what a name promises is only ever believed to a file's disadvantage;
``contents`` looks at the bytes once they are here.

Pure; knows no bytes.
"""

from typing import Final

_SUFFIXES: Final = {
    "safetensors": ("safetensors",),
    "gguf": ("gguf",),
    "onnx": ("onnx",),
    "tflite": ("tflite",),
    "tensorflow": ("pb", "pbtxt"),
    "keras": ("keras", "h5", "hdf5", "hdf", "he5"),
    "pickle": (
        "pkl", "pickle", "pt", "pth", "pt2", "ckpt", "joblib", "dill", "cloudpickle", "mar",
        "nemo", "pdparams", "pdopt", "pdmodel", "sav", "pyt", "ptl", "jit", "t7",
    ),
    "code": ("py", "pyc", "pyo", "pyd", "pyw", "pyz", "so", "dll", "dylib", "exe", "whl", "egg"),
}  # fmt: skip
_FORMAT: Final = {suffix: format for format, suffixes in _SUFFIXES.items() for suffix in suffixes}

# Names without a telling suffix under which torch and transformers write pickles.
_PICKLES: Final = (
    "pytorch_model", "adapter_model", "training_args", "optimizer", "scheduler", "rng_state",
    "diffusion_pytorch_model", "pytorch_lora_weights", "learned_embeds", "consolidated",
)  # fmt: skip
_PACKED: Final = frozenset({"gz", "bz2", "xz", "lzma", "z", "zst", "lz4"})
"""Suffixes that joblib and others put behind that of what they have packed."""


def format_of(path: str) -> str | None:
    """Return the format that a file's name stands for; None for plain data, or nobody knows.

    ``.bin`` says nothing by itself: so do some names of torch's, which are known here.
    """
    stem, _, suffix = path.rpartition("/")[2].lower().rpartition(".")
    while suffix in _PACKED and "." in stem:
        stem, _, suffix = stem.rpartition(".")
    if suffix == "bin" and stem.startswith(_PICKLES):
        return "pickle"
    return _FORMAT.get(suffix) if stem else None

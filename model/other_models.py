"""Load a model from a spec: published networks, files of other frameworks, code of others.

cosplace:BACKBONE:DIM              a released CosPlace network; `model.published` has the names of
                                   all published ones
torchscript:FILE, onnx:FILE        such as `python -m tools.export` writes; TorchScript is code
hub:OWNER/NAME[:REF]:ENTRY         a function in the hubconf.py of a GitHub repository; as in
                                   torch.hub, REF is a branch, tag or commit
hub:FOLDER:ENTRY                   the same of a local copy
FILE.py[:FUNCTION]                 a function in a Python file, get_model() by default
whitened:FILE.pth:SPEC             one of the five above, then the whitening that `python -m
                                   tools.whiten` has fitted to it and saved in a file

:KEY=VALUE after a function adds an argument. A value is a Python literal (512, 1e-3, True, None) or
else text. @RULE after any spec, such as @322x322, is how test images are resized unless
--resize_test_imgs is given, see `model.resizing`. Functions run the code of others, as importing it
would. That code may have packages named as ours are (`model`, `datasets`); it has to import them
all while it is loaded.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

import commons
from model.checkpoint_files import read_checkpoint, require_packages
from model.checkpoints import network_with
from model.formats import recognise
from model.network import keep_rule
from model.published import FAMILIES, check_published, fetch_published, parse_published
from model.resizing import RULES, split_rule
from model.whitening import is_whitening_file, unpack_whitening

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_FILE_KINDS = ("torchscript", "onnx")
_WHITENED = re.compile(r"whitened:(.+?\.pth):(.+)")
_GITHUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[^\s:]+)?")
_FILE_MODULE = "model_source_file"  # not the file's own name: it might be torch.py
_SYNTAX = (
    "the name of a published network, which --model list shows, such as cosplace:BACKBONE:DIM; "
    "torchscript:FILE or onnx:FILE, hub:OWNER/NAME[:REF]:ENTRY, hub:FOLDER:ENTRY or "
    "FILE.py[:FUNCTION], the last three with :KEY=VALUE for every argument, whitened:FILE.pth: "
    "before one of these; @RULE after any of them resizes its images; a checkpoint goes to --resume"
)


def load_model(checkpoint: str | None, spec: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model in evaluation mode, on the CPU, with its file, SHA-256 and architecture.

    Args:
        checkpoint: File of a network of ours or a published one, see `load_network`.
        spec: Of any other model, see the top of this file; without a checkpoint.

    Raises:
        FileNotFoundError: If there is no such file or repository.
        ValueError: If the model cannot be made.
    """
    file, published, kept_dims, resize = checkpoint, None, None, None
    if checkpoint is None:
        if parse_model_spec(spec).kind not in FAMILIES:
            model = load_other_model(spec)
            return model, model.facts
        spec, resize = split_rule(spec)
        published = parse_published(spec)
        file = fetch_published(published)
        kept_dims = published.dim if published.dim < published.full_dim else None
    try:
        checkpoint_content = read_checkpoint(file)
    except ValueError as error:
        if published is None:
            raise
        raise ValueError(f"{error}. Delete it to get it again from {published.url}") from None
    if is_whitening_file(checkpoint_content):
        raise ValueError(
            f"{file} holds only the whitening of a model: pass --model "
            f"whitened:{file}:{checkpoint_content['whitening_of']['model']}"
        )
    content = recognise(checkpoint_content, file)
    network = network_with(content, file, kept_dims)
    if published is not None:
        check_published(published, spec, file, network)
    if resize is not None:
        keep_rule(network, resize)
    facts = describe_model(file) | {"model": spec or checkpoint} | content.facts
    return network.eval(), facts | network.architecture


def describe_model(file: str | os.PathLike) -> dict[str, str]:
    """Return the name of a model, its file and the file's SHA-256."""
    path = os.fspath(file)
    return {"model": path, "model_file": path, "model_sha256": commons.sha256_of(file)}


def identify(facts: Mapping[str, Any]) -> str:
    """Return an identifier that is the same for models with the same descriptors.

    For a file it is the SHA-256, with that of the file of its whitening, if that is another one,
    and the number of dimensions if descriptors are cut. For a model made by a function it is the
    spec, the SHA-256 of code and tensors, and the architecture: arguments may change descriptors
    without being tensors.

    Args:
        facts: Of `load_model`, and more.
    """
    if facts.get("model_file"):
        parts = (facts["model_sha256"], facts.get("whitening_sha256"), facts.get("kept_dims"))
        return ":".join(str(part) for part in parts if part)
    names = ("model", "model_sha256", "code_sha256", "backbone", "aggregation", "fc_output_dim")
    identity = {name: facts.get(name) for name in names}
    options = ("aggregation_args", "input_scaling")  # absent where they have no influence
    identity |= {name: facts[name] for name in options if name in facts}
    return json.dumps(identity)


class OtherModel(nn.Module):
    """A model that is not ours, in evaluation mode, whose descriptors are checked.

    Images are those of our networks, float32 [B, 3, H, W], ImageNet-normalised. Descriptors [B, D]
    may have any length D and any norm: their L2 distances are compared as they are.
    """

    def __init__(self, model: Callable[[torch.Tensor], Any], facts: dict[str, Any]) -> None:
        """Wrap a model.

        Args:
            model: A module, or any other function of images.
            facts: What identifies it, see `identify`; "model" is its spec.
        """
        super().__init__()
        self.model, self.facts = model, facts
        self.resize: str | None = None  # the rule that its spec ends with, for test images
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return descriptors [B, D].

        Raises:
            ValueError: If the model fails, or returns something else.
        """
        spec, size = self.facts["model"], list(images.shape)
        hint = "; if it takes one size only: --resize_test_imgs HxW, and --infer_batch_size"
        with _explained(f"{spec} fails on images {size}", hint):
            descriptors = self.model(images)
        if not _are_descriptors(descriptors, len(images)):
            raise ValueError(
                f"{spec} returns {_describe(descriptors)} for images {size}; needed is a float "
                f"tensor [{len(images)}, D], one descriptor per image: write a function that "
                "returns such a model, and pass it as FILE.py:FUNCTION"
            )
        return descriptors


def _are_descriptors(output: Any, num_images: int) -> bool:
    is_tensor = isinstance(output, torch.Tensor) and output.is_floating_point()
    return is_tensor and output.ndim == 2 and len(output) == num_images and output.shape[1] > 0


class ModelSpec(NamedTuple):
    """Where a model comes from."""

    kind: str  # "hub", "python", "whitened", one of _FILE_KINDS or of FAMILIES
    source: str  # repository, folder, file, or name of a published network
    function: str = ""  # of "whitened": the spec of the model
    arguments: dict[str, Any] = {}  # of the function


def parse_model_spec(text: str) -> ModelSpec:
    """Parse the spec of a model, see the top of this file; nothing is loaded.

    Raises:
        ValueError: If it is none.
    """
    text, rule = split_rule(text)
    try:
        return _parse_spec(text)
    except ValueError as error:
        told, (spec, at, ending) = error, text.rpartition("@")
        with contextlib.suppress(ValueError):  # after a spec, a rule is meant
            if rule is None and at and _parse_spec(spec):
                told = ValueError(f"'{ending}' after '{spec}': {RULES}")
        raise told from None


def _parse_spec(text: str) -> ModelSpec:
    """Parse a spec without a rule."""
    kind, _, rest = text.partition(":")
    if kind in FAMILIES:
        parse_published(text)
        return ModelSpec(kind, rest)
    if kind in _FILE_KINDS and rest:
        return ModelSpec(kind, rest)
    if match := _WHITENED.fullmatch(text):
        if parse_model_spec(match[2]).kind in (*FAMILIES, "whitened"):
            raise ValueError(
                f"'{text}': a file with only a whitening goes with a model of others; networks of "
                "ours are saved with theirs, for --resume"
            )
        return ModelSpec("whitened", *match.groups())
    if ":" not in text and text.endswith((".pth", ".ckpt", ".safetensors")):
        raise ValueError(f"'{text}' is a checkpoint: pass it to --resume")
    head, *pairs = re.split(r":(?=[A-Za-z_]\w*=)", rest if kind == "hub" else text)
    if kind != "hub":
        kind, head = "python", f"{head}:get_model" if head.endswith(".py") else head
    source, _, function = head.rpartition(":")
    is_known = kind == "hub" or source.endswith(".py")
    if not source or not function.isidentifier() or not is_known:
        raise ValueError(f"'{text}' names no model: write {_SYNTAX}")
    return ModelSpec(kind, source, function, dict(map(_parse_argument, pairs)))


def _parse_argument(pair: str) -> tuple[str, Any]:
    key, _, value = pair.partition("=")
    if value in ("true", "false"):  # as text, both would count as true
        raise ValueError(f"'{pair}': write {value.capitalize()}")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, TypeError, ValueError):
        return key, value


def load_other_model(text: str) -> OtherModel:
    """Load the model of a spec that names no published network, see the top of this file.

    Returns:
        The model on the CPU, or wherever its function puts it.

    Raises:
        FileNotFoundError: If there is no such repository or file.
        ValueError: If the spec cannot be parsed, or the model cannot be made.
    """
    text, resize = split_rule(text)
    model = _load(text, *parse_model_spec(text))
    model.resize = resize
    return model


def _load(text: str, kind: str, source: str, name: str, arguments: dict[str, Any]) -> OtherModel:
    """Do what `load_other_model` does with the parts of a spec."""
    if kind == "whitened":
        return _load_whitened(text, os.path.expanduser(source), name)
    if kind != "onnx":
        _log_foreign_code(text)
    if kind in _FILE_KINDS:
        file = os.path.expanduser(source)
        model = load_onnx(file) if kind == "onnx" else load_torchscript(file)
        return OtherModel(model, describe_model(file) | {"model": text})
    facts: dict[str, Any] = {"model": text, "model_file": None}
    if kind == "hub":
        function = _call_hub_entry(source, name, arguments)
    else:
        function = _call_file_function(source, name, arguments)
        facts["code_sha256"] = commons.sha256_of(_absolute(source))  # repositories have versions
    if not callable(function):
        raise ValueError(
            f"{text} makes {_describe(function)}; needed is a function of images, such as a module"
        )
    return OtherModel(function, facts | {"model_sha256": hash_tensors(function)})


def _load_whitened(text: str, file: str, spec: str) -> OtherModel:
    """Load a model and its whitening; a ValueError if that was fitted to another model."""
    content = read_checkpoint(file)
    whitening, model = unpack_whitening(content, file), load_other_model(spec)
    if content["whitening_of"]["identity"] != identify(model.facts):
        raise ValueError(
            f"{file} was fitted to {content['whitening_of']['model']}, and {spec} is not the same "
            "model (any more): pass that one, or fit again by python -m tools.whiten"
        )
    facts = describe_model(file) | {"model": text} | whitening.arguments()
    return OtherModel(nn.Sequential(model, whitening), facts)


def _log_foreign_code(what: str) -> None:
    logging.info(f"{what} is code of others, which runs with your rights: only use what you trust")


def load_torchscript(path: str | os.PathLike) -> nn.Module:
    """Load a TorchScript file onto the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TorchScript.
    """
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but still reads its files
            return torch.jit.load(os.fspath(path), map_location="cpu")
    except Exception as error:  # torch.jit.load raises many kinds
        reason = re.split(r"\n|\. ", str(error).strip())[0]
        raise ValueError(
            f"{path} is not a TorchScript file ({reason}); a checkpoint goes to --resume"
        ) from None


def load_onnx(path: str | os.PathLike) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load an ONNX file with one input and one output into onnxruntime.

    Args:
        path: The file; not needed afterwards.

    Returns:
        A function of images, which returns descriptors on their device.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or onnxruntime is not installed.
    """
    _require_file(path)
    require_packages("ONNX", "onnxruntime")
    import onnxruntime

    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # also where other processes compute
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=[name for name in wanted if name in available]
        )
    except Exception as error:  # onnxruntime has its own kind for each failure
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is not an ONNX file that can be run: {reason}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; needed are one input, "
            "the images, and one output, the descriptors"
        )
    input_name, output_name = inputs[0].name, outputs[0].name

    def compute(images: torch.Tensor) -> torch.Tensor:
        (descriptors,) = session.run([output_name], {input_name: images.detach().cpu().numpy()})
        return torch.from_numpy(descriptors).to(images.device)

    return compute


def _require_file(path: str | os.PathLike) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}")


def _call_hub_entry(source: str, entry: str, arguments: dict[str, Any]) -> Any:
    """Call a function of a repository's hubconf.py; torch.hub downloads a repository once."""
    folder = _absolute(source)
    if os.path.isdir(folder):
        load, hint = partial(torch.hub.load, folder, source="local"), ""
    elif _GITHUB_NAME.fullmatch(source):
        # The user names the repository, so torch.hub asks no question, which a batch job could not
        # answer, nor GitHub's API, which refuses many anonymous callers.
        options = {"trust_repo": True, "skip_validation": True, "verbose": False}
        load = partial(torch.hub.load, source, **options)
        hint = "; check OWNER/NAME, REF and ENTRY; without a connection, pass hub:FOLDER:ENTRY"
    else:
        raise FileNotFoundError(f"{source} is neither a folder nor OWNER/NAME[:REF] on GitHub")
    with _importing(_our_names()), _explained(f"hub:{source}:{entry} fails", hint):
        return load(model=entry, **arguments)


def _call_file_function(source: str, name: str, arguments: dict[str, Any]) -> Any:
    """Call a function of a Python file, which may import its neighbours, and our modules.

    Where neighbours have names of our modules, it cannot import ours.
    """
    file = _absolute(source)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no file {source}")
    folder, ours = os.path.dirname(file), _our_names()
    is_ambiguous = folder != ROOT and any(_has_module(folder, our_name) for our_name in ours)
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, file)
    module = importlib.util.module_from_spec(spec)
    with _importing(ours if is_ambiguous else set(), folder):
        sys.modules[_FILE_MODULE] = module  # where dataclasses look
        with _explained(f"{source} cannot be imported"):
            spec.loader.exec_module(module)
        with _explained(f"{source}:{name} fails"):
            return getattr(module, name)(**arguments)


def _absolute(source: str) -> str:
    return os.path.abspath(os.path.expanduser(source))


@contextlib.contextmanager
def _importing(hidden: set[str], *folders: str) -> Iterator[None]:
    """Let other code import its modules, though they may be named as ours are.

    Afterwards sys.path and sys.modules are as before, except for modules of the usual folders, such
    as installed packages. Functions keep what they imported.

    Args:
        hidden: Top-level names of our modules that must not be found; all or none.
        folders: To import from, before the usual ones.
    """
    path, names = sys.path[:], set(sys.modules)
    ours = {name: sys.modules.pop(name) for name in names if _top(name) in hidden}
    usual = [folder for folder in path if not hidden or os.path.realpath(folder or ".") != ROOT]
    sys.path[:] = [*folders, *usual]
    usual_folders = {os.path.realpath(folder or ".") for folder in usual} | {None}
    try:
        yield
    finally:
        tops = {_top(name) for name in set(sys.modules) - names}
        others = {top for top in tops if _folder_of(top) not in usual_folders}
        others |= hidden | {_FILE_MODULE}
        for name in [name for name in sys.modules if _top(name) in others]:
            del sys.modules[name]
        sys.path[:] = path
        sys.modules.update(ours)


def _our_names() -> set[str]:
    """Return the names of our loaded top-level modules."""
    return {top for top in map(_top, list(sys.modules)) if _folder_of(top) == ROOT}


def _has_module(folder: str, name: str) -> bool:
    package = os.path.join(folder, name)
    files = os.listdir(package) if os.path.isdir(package) else []
    return os.path.isfile(f"{package}.py") or any(file.endswith(".py") for file in files)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _folder_of(name: str) -> str | None:
    """Return the folder that a loaded top-level module is in; None for built-ins and scripts."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or name in ("__main__", "__mp_main__"):
        return None
    files = list(spec.submodule_search_locations or [])
    files += [spec.origin] if spec.has_location else []
    return os.path.dirname(os.path.realpath(files[0])) if files else None


@contextlib.contextmanager
def _explained(what: str, hint: str = "") -> Iterator[None]:
    """Turn an exception of code that is not ours into a sentence: what failed, why and where.

    Raises:
        ValueError: Instead of the exception, unless that is a GPU out of memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what}: {reason}{_place_of(error)}{hint}") from error


def _place_of(error: BaseException) -> str:
    """Return the last line that an exception went through in code neither ours nor installed."""
    paths = sysconfig.get_paths()
    known = ("<", paths["stdlib"], paths["purelib"], paths["platlib"], os.path.dirname(__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(known):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _describe(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor {list(output.shape)}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(map(_describe, output)) or 'nothing'}"
    if isinstance(output, dict):
        return f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    return "None" if output is None else f"an object of type {type(output).__name__}"


def hash_tensors(model: Any) -> str | None:
    """Return a SHA-256 of the state dict: names, types, shapes and values; None without tensors."""
    return hash_state(model.state_dict()) if isinstance(model, nn.Module) else None


def hash_state(state: Mapping[str, Any]) -> str | None:
    """Do what `hash_tensors` does with a state dict."""
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest() if tensors else None

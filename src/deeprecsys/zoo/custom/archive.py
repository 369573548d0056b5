"""Reads `torch.export` archives (`.pt2`) without running what is in them.

`torch.export.load` unpickles some entries, loads compiled libraries from others, evaluates the text of size
expressions, imports modules that a description of arguments names, and resolves operators to any function
that can be reached from the module torch. So torch reads an archive that is written anew, in memory, from
those entries of the file that are known to be harmless. Any other entry refuses the file.
"""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch

from deeprecsys.core.errors import InputError

_SAMPLES, _EXTRA = "data/sample_inputs/model.pt", "extra/"
_PROGRAM = "models/model.json"
_CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d+"),
}
_HARMLESS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
    r"|models/model\.json|data/(weights|constants)/model_\1_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt|extra/[\w./-]+"
)
_JSON_BYTES = 1 << 28
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)(_?[A-Za-z]\w*|__[a-z]+shift__|__i?(and|or|xor)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(sym_[a-z]+|_sym_[a-z]+)"
    r"|math\.(ceil|floor|trunc|sqrt|pow|log2?)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|and_|or_|not_|eq|ne|lt|le|gt|ge)"
)
_FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|floor|ceiling|sqrt|log|exp|true|false|Piecewise"
    r"|ITE|Equality|Unequality|Strict(Less|Greater)Than|(Less|Greater)Than|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not"
    r"|Boolean(True|False)|(Negative)?Infinity|int_oo"
    r"|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural"
    r"|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
)
_TEXT = re.compile(r"\w{1,64}|[0-9.e+-]{1,64}")  # a symbol's name, a number's digits
_CHARACTERS = re.compile(r"[A-Za-z0-9_ .,+*/%()<>=!&|~^'-]*")
_WORD = re.compile(rf"[a-z]{{1,3}}\d+|{_FUNCTION.pattern}")
_ARITHMETIC = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.Tuple,
)  # fmt: skip
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_METADATA = ("stack_trace", "nn_module_stack", "torch_fn")


def load(path: str) -> torch.export.ExportedProgram:
    """The program of an archive, without its sample inputs, guards and extra files.

    Raises:
        InputError: an entry of another name than `torch.export.save` writes for tensors, anything pickled or
            compiled, or what is no such archive.
    """
    try:
        return torch.export.load(harmless(path))
    except InputError:
        raise
    except Exception as e:
        lines = str(e).splitlines() or [type(e).__name__]
        raise InputError(f"model {path}: expected a torch.export archive, got: {lines[0][:400]}") from e


def harmless(path: str) -> io.BytesIO:
    """An archive of the same program, written from what was checked. The file is opened once."""
    made = io.BytesIO()
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as found, zipfile.ZipFile(made, "w") as out:
            names = _entries(found, file.seek(0, io.SEEK_END))
            for name, entry in names.items():
                if name.startswith(_EXTRA):
                    continue
                if name == _SAMPLES:
                    out.writestr(f"model/{name}", b"")
                elif name == _PROGRAM or name in _CONFIGS:
                    out.writestr(f"model/{name}", json.dumps(_checked(name, found.read(entry))))
                else:
                    with found.open(entry) as data, out.open(f"model/{name}", "w", force_zip64=True) as copy:
                        shutil.copyfileobj(data, copy, 1 << 20)
    except InputError as e:
        raise InputError(f"model {path}: {e}") from e
    except Exception as e:
        lines = str(e).splitlines() or [type(e).__name__]
        raise InputError(f"model {path}: expected a torch.export archive, got: {lines[0][:400]}") from e
    made.seek(0)
    return made


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Entries by name below the one root folder."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for entry in archive.infolist():
        root, _, name = entry.orig_filename.partition("/")
        roots.add(root)
        if not _HARMLESS.fullmatch(name) or ".." in name.split("/") or root in ("", ".", ".."):
            raise InputError(
                "expected the entries of a torch.export archive with tensors alone, "
                f"got {entry.orig_filename!r}"
            )
        if name in found:
            raise InputError(f"expected each entry once, got {entry.orig_filename!r} again")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise InputError(
                f"expected entries as they are, got {entry.orig_filename!r} compressed or encrypted"
            )
        if name.endswith(".json") and entry.file_size > _JSON_BYTES:
            raise InputError(f"expected at most {_JSON_BYTES} bytes, got {entry.file_size}: {name}")
        found[name] = entry
    if len(roots) != 1:
        raise InputError(f"expected one root folder, got {len(roots)}")
    if (total := sum(e.file_size for e in found.values())) > size:
        raise InputError(f"expected entries of at most the file's {size} bytes, got {total}")
    return found


def _checked(name: str, data: bytes) -> Any:
    """The values of a JSON entry, with nothing in them that torch would run."""
    values = json.loads(data)
    if not isinstance(values, dict):
        raise InputError(f"{name}: expected an object, got {type(values).__name__}")
    if name == _PROGRAM:
        values["guards_code"] = []
        for key in ("metadata", "treespec_namedtuple_fields"):
            values["graph_module"][key] = {}
        _walk(values)
        return values
    for key, meta in values["config"].items():
        if meta.get("use_pickle") is not False:
            raise InputError(f"expected plain tensors, got {key!r} pickled")
        if not _CONFIGS[name].fullmatch(meta["path_name"]):
            raise InputError(f"expected tensors alone, got {key!r} in {meta['path_name']!r}")
    return values


def _walk(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _walk(each)
    elif isinstance(value, dict):
        if "target" in value and isinstance(metadata := value.get("metadata"), dict):
            value["metadata"] = {k: metadata[k] for k in _METADATA if isinstance(metadata.get(k), str)}
        for key, each in value.items():
            if isinstance(each, str) and key in _CHECKS:
                _CHECKS[key](each)
            else:
                _walk(each)


def _operator(text: str) -> None:
    if not _OPERATOR.fullmatch(text):
        raise InputError(f"expected operators of torch.ops.aten, got {text[:80]!r}")


def _expression(text: str) -> None:
    """Raise InputError for a size that is more than arithmetic: torch evaluates it."""
    if not _CHARACTERS.fullmatch(text) or not _is_arithmetic(ast.parse(text, mode="eval")):
        raise InputError(f"expected sizes of symbols and numbers, got {text[:80]!r}")


def _is_arithmetic(tree: ast.AST) -> bool:
    nodes = list(ast.walk(tree))
    called = [n.func for n in nodes if isinstance(n, ast.Call)]
    names = [n for n in nodes if isinstance(n, ast.Name)]
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return (
        all(isinstance(n, _ARITHMETIC) for n in nodes)
        and all(isinstance(n, ast.Name) and _FUNCTION.fullmatch(n.id) for n in called)
        and all(n in called or _WORD.fullmatch(n.id) for n in names)
        and all(_TEXT.fullmatch(t) for t in texts)
    )


def _tree(text: str) -> None:
    """Raise InputError for a description of nested arguments that torch would import something for."""
    _, spec = json.loads(text)
    _containers(spec)


def _containers(spec: Mapping[str, Any]) -> None:
    kind, context = spec["type"], spec["context"]
    keys = json.loads(context) if isinstance(context, str) else context
    plain = keys is None or (isinstance(keys, list) and all(isinstance(k, str | int) for k in keys))
    if kind is not None and (kind not in _CONTAINERS or not plain):
        raise InputError(f"expected arguments in tuples, lists and dictionaries, got {str(kind)[:80]!r}")
    for child in spec["children_spec"]:
        _containers(child)


_CHECKS: dict[str, Callable[[str], None]] = {
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _expression,
    "in_spec": _tree,
    "out_spec": _tree,
}

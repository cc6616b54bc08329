"""Where the names of Paddle 1.x are in current Paddle."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import paddle

# Names that current Paddle has unchanged in another place. They are looked up when they are used,
# because Paddle rebinds some of them when it changes its kind of program.
_PROGRAMS = "Program default_main_program default_startup_program name_scope program_guard"
_STATE = "save set_program_state"
_PLACES = {
    "fluid": {
        "paddle": (
            "CPUPlace CUDAPinnedPlace CUDAPlace ParamAttr get_flags is_compiled_with_cuda set_flags"
        ),
        "paddle.base": "core",
        "paddle.static": (
            "BuildStrategy Scope WeightNormParamAttr cpu_places cuda_places data "
            f"global_scope scope_guard {_PROGRAMS} {_STATE}"
        ),
        "paddle.utils": "require_version unique_name",
    },
    "fluid.executor": {"paddle.static": "BuildStrategy Scope global_scope scope_guard"},
    "fluid.framework": {
        "paddle": "CPUPlace CUDAPinnedPlace CUDAPlace",
        "paddle.static": f"cpu_places cuda_places {_PROGRAMS}",
    },
    "fluid.io": {
        "paddle": "batch",
        "paddle.reader": (
            "buffered cache chain compose firstn map_readers multiprocess_reader shuffle "
            "xmap_readers"
        ),
        "paddle.static": _STATE,
    },
    "fluid.layers": {"paddle": "utils"},
    "fluid.param_attr": {"paddle.static": "WeightNormParamAttr"},
}
MOVED = {
    module: {name: f"{place}.{name}" for place, names in places.items() for name in names.split()}
    for module, places in _PLACES.items()
}
_dense = "DenseTensor" if hasattr(paddle.base.core, "DenseTensor") else "LoDTensor"  # of Paddle 2
MOVED["fluid"]["LoDTensor"] = f"paddle.base.core.{_dense}"

# What the other names of each module are called now, where that is not the same name in one of the
# places that are searched below. All of it works in programs that Paddle builds by default.
_CHANGED = {
    "fluid": {
        "contrib": "paddle.static.amp",
        "disable_dygraph": "paddle.enable_static",
        "dygraph": "paddle.nn",
        "enable_dygraph": "paddle.disable_static",
        "in_dygraph_mode": "paddle.in_dynamic_mode",
        "install_check": "paddle.utils.run_check",
        "load_op_library": "paddle.utils.cpp_extension.load",
        "profiler": "paddle.profiler",
    },
    "fluid.framework": {
        "in_dygraph_mode": "paddle.in_dynamic_mode",
    },
    "fluid.layers": {
        "BeamSearchDecoder": "paddle.nn.BeamSearchDecoder",
        "Categorical": "paddle.distribution.Categorical",
        "DynamicRNN": "paddle.nn.RNN",
        "GRUCell": "paddle.nn.GRUCell",
        "Assert": "paddle.static.nn.control_flow.Assert",
        "IfElse": "paddle_dcn.fluid.layers.cond",
        "LSTMCell": "paddle.nn.LSTMCell",
        "Normal": "paddle.distribution.Normal",
        "RNNCell": "paddle.nn.RNNCellBase",
        "StaticRNN": "paddle.nn.RNN",
        "Uniform": "paddle.distribution.Uniform",
        "array_length": "paddle.tensor.array_length",
        "array_read": "paddle.tensor.array_read",
        "array_write": "paddle.tensor.array_write",
        "bilinear_tensor_product": "paddle.nn.Bilinear",
        "cos_sim": "paddle.nn.functional.cosine_similarity",
        "create_array": "paddle.tensor.create_array",
        "create_py_reader_by_data": "paddle_dcn.fluid.io.DataLoader",
        "distributions": "paddle.distribution",
        "resize_linear": "paddle_dcn.fluid.layers.image_resize",
        "crf_decoding": "paddle.text.viterbi_decode",
        "double_buffer": "paddle_dcn.fluid.io.DataLoader",
        "dynamic_gru": "paddle.nn.GRU",
        "dynamic_lstm": "paddle.nn.LSTM",
        "elementwise_equal": "paddle.equal",
        "gru_unit": "paddle.nn.GRUCell",
        "hsigmoid": "paddle.nn.HSigmoidLoss",
        "im2sequence": "paddle.nn.functional.unfold",
        "inplace_abn": "paddle_dcn.fluid.layers.batch_norm",
        "load": "paddle.load",
        "lstm": "paddle.nn.LSTM",
        "lstm_unit": "paddle.nn.LSTMCell",
        "pad_constant_like": "paddle.nn.functional.pad",
        "py_reader": "paddle_dcn.fluid.io.DataLoader",
        "read_file": "paddle_dcn.fluid.io.DataLoader",
        "rnn": "paddle.nn.RNN",
        "sampling_id": "paddle.multinomial",
        "space_to_depth": "paddle.nn.functional.pixel_unshuffle",
        "sync_batch_norm": "paddle.nn.SyncBatchNorm",
        "unique_with_counts": "paddle.unique",
    },
}
# What of these computes something else for the same arguments.
_DIFFERENT = {
    "space_to_depth": "which orders the channels otherwise",
    "unique": "which sorts",
}
# What of these refuses the tensors of programs of Paddle 2's kind, as about thirty of Paddle's
# functions do.
_CURRENT_ONLY = {
    "paddle.distribution.Categorical",
    "paddle.dot",
    "paddle.log1p",
    "paddle.logsumexp",
    "paddle.nn.GRUCell",
    "paddle.nn.LSTMCell",
    "paddle.nn.RNN",
    "paddle.nn.functional.cosine_similarity",
    "paddle.nn.functional.npair_loss",
    "paddle.roll",
    "paddle.tril",
    "paddle.triu",
}
# What only programs of Paddle 2's kind take.
_OLD_ONLY = {
    *(
        f"paddle.static.nn.{name}"
        for name in (
            "continuous_value_model data_norm nce row_conv sequence_conv sequence_expand "
            "sequence_first_step sequence_last_step sequence_pool sequence_softmax"
        ).split()
    ),
}
_SEARCHED = {
    "fluid": ("paddle", "paddle.static", "paddle.base"),
    "fluid.layers": ("paddle.nn.functional", "paddle", "paddle.static.nn"),
    "fluid.io": ("paddle.static", "paddle.io", "paddle"),
    "fluid.optimizer": (
        "paddle.optimizer",
        "paddle.incubate",
        "paddle.incubate.optimizer",
        "paddle.static",
    ),
    "fluid.initializer": ("paddle.nn.initializer",),
    "fluid.regularizer": ("paddle.regularizer",),
}


def find(path: str) -> Any:
    """Return what a dotted path names, None where there is nothing."""
    root, *names = path.split(".")
    found = importlib.import_module(root)
    for name in names:
        found = getattr(found, name, None)
    return found


def module_getattr(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of one of this package's modules.

    It finds the names that only moved, and raises an AttributeError that tells where the others
    have gone.
    """
    old = module.partition(".")[2]
    moved = MOVED.get(old, {})

    def __getattr__(name: str) -> Any:
        if name in moved:
            return find(moved[name])
        message = f"module {module!r} has no attribute {name!r}"
        if not name.startswith("_"):
            places = (f"{place}.{name}" for place in _SEARCHED.get(old, ()))
            new = _CHANGED.get(old, {}).get(name) or next(filter(find, places), None)
            whose = "" if new is None or new.startswith("paddle_dcn.") else " of current Paddle"
            message += f": use {new}{whose}" if new else ", nor has current Paddle"
            message += f", {_DIFFERENT[name]}" if name in _DIFFERENT else ""
            current = paddle.framework.in_dynamic_or_pir_mode()
            if new in (_OLD_ONLY if current else _CURRENT_ONLY):
                how = "with" if current else "without"
                message += f", in programs that are built {how} FLAGS_enable_pir_api=0"
        raise AttributeError(message)

    return __getattr__

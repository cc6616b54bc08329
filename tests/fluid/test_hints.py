"""Where `paddle_dcn.fluid` says that a name of Paddle 1.8 has gone: it is there, and it works."""

import inspect
import re

import paddle
import pytest

import paddle_dcn.fluid as fluid
from paddle_dcn.fluid import _moved
from tests.support.programs import KINDS, initialize, needs_paddle_3, programs_1x

pytestmark = needs_paddle_3

# The functions and classes of `fluid.layers` in Paddle 1.8 that are not here.
GONE = """
Assert BasicDecoder BeamSearchDecoder Categorical DecodeHelper Decoder DynamicRNN GRUCell
GreedyEmbeddingHelper IfElse LSTMCell MultivariateNormalDiag Normal RNNCell SampleEmbeddingHelper
StaticRNN TrainingHelper Uniform add_position_encoding addcmul allclose arange
array_length array_read array_write beam_search beam_search_decode bilinear_tensor_product
bpr_loss center_loss chunk_eval clamp continuous_value_model cos_sim create_array
create_py_reader_by_data crf_decoding cross ctc_greedy_decoder data_norm deformable_roi_pooling
detection_map distributions dot double_buffer dynamic_gru dynamic_lstm dynamic_lstmp edit_distance
elementwise_equal filter_by_instag flip fsp_matrix full_like gather_tree
get_tensor_from_selected_rows gru_unit hash hsigmoid im2sequence index_select inplace_abn
interpolate kron linear_chain_crf load lod_append lod_reset log1p log_softmax logsumexp lstm
lstm_unit masked_select mean_iou merge_selected_rows multiplex nce nonzero npair_loss
pad_constant_like py_reader randint randn random_crop randperm read_file
reorder_lod_tensor_by_rank resize_linear rnn roll row_conv
sampled_softmax_with_cross_entropy sampling_id
sequence_concat sequence_conv sequence_enumerate sequence_expand
sequence_expand_as sequence_first_step sequence_last_step sequence_pad sequence_pool
sequence_reshape sequence_reverse sequence_scatter sequence_slice sequence_softmax sequence_unpad
shard_index similarity_focus space_to_depth sync_batch_norm t
teacher_student_sigmoid_loss tensor_array_to_tensor tril triu unique unique_with_counts
""".split()


def x(*shape, dtype="float32"):
    return paddle.ones(shape, dtype)


def apart(call):
    """Return a call in a program of its own, which is not run."""

    def build(function):
        with fluid.program_guard(fluid.Program(), fluid.Program()):
            return call(function)

    return build


# A call of what each hint names, in a static program.
CALLS = {
    "paddle.allclose": lambda f: f(x(2), x(2)),
    "paddle.arange": lambda f: f(0, 4),
    "paddle.clamp": lambda f: f(x(2), 0.0, 1.0),
    "paddle.cross": lambda f: f(x(2, 3), x(2, 3)),
    "paddle.distribution.Categorical": lambda f: f(x(2)).entropy(),
    "paddle.distribution.Normal": lambda f: f(0.0, 1.0).sample([2]),
    "paddle.distribution.Uniform": lambda f: f(0.0, 1.0).sample([2]),
    "paddle.dot": lambda f: f(x(2), x(2)),
    "paddle.equal": lambda f: f(x(2), x(2)),
    "paddle.flip": lambda f: f(x(2), [0]),
    "paddle.full_like": lambda f: f(x(2), 3.0),
    "paddle.index_select": lambda f: f(x(2, 3), x(1, dtype="int64")),
    "paddle.kron": lambda f: f(x(2), x(2)),
    "paddle.load": callable,
    "paddle.log1p": lambda f: f(x(2)),
    "paddle.logsumexp": lambda f: f(x(2)),
    "paddle.masked_select": lambda f: f(x(2), x(2) > 0),
    "paddle.static.nn.control_flow.Assert": lambda f: f(x(1) > 0),
    "paddle.distribution": inspect.ismodule,
    "paddle_dcn.fluid.layers.image_resize": lambda f: f(x(1, 1, 2, 2), [4, 4]),
    "paddle.multinomial": lambda f: f(x(2)),
    "paddle.multiplex": lambda f: f([x(2, 3), x(2, 3)], x(2, 1, dtype="int32")),
    "paddle.nn.BeamSearchDecoder": lambda f: f(paddle.nn.GRUCell(2, 2), 0, 1, 2),
    "paddle.nn.Bilinear": lambda f: f(2, 3, 4)(x(1, 2), x(1, 3)),
    "paddle.nn.GRU": lambda f: f(2, 3)(x(1, 4, 2)),
    "paddle.nn.GRUCell": lambda f: f(2, 3)(x(1, 2)),
    "paddle.nn.HSigmoidLoss": lambda f: f(2, 3)(x(1, 2), x(1, 1, dtype="int64")),
    "paddle.nn.LSTM": lambda f: f(2, 3)(x(1, 4, 2)),
    "paddle.nn.LSTMCell": lambda f: f(2, 3)(x(1, 2)),
    "paddle.nn.RNN": lambda f: f(paddle.nn.GRUCell(2, 3))(x(1, 4, 2)),
    "paddle.nn.RNNCellBase": inspect.isclass,
    "paddle.nn.SyncBatchNorm": lambda f: f(2),
    "paddle.nn.functional.cosine_similarity": lambda f: f(x(2, 3), x(2, 3)),
    "paddle.nn.functional.gather_tree": lambda f: f(
        x(2, 2, 2, dtype="int64"), x(2, 2, 2, dtype="int64")
    ),
    "paddle.nn.functional.interpolate": lambda f: f(x(1, 1, 2, 2), [4, 4]),
    "paddle.nn.functional.log_softmax": lambda f: f(x(2)),
    "paddle.nn.functional.npair_loss": lambda f: f(x(2, 3), x(2, 3), x(2)),
    "paddle.nn.functional.pad": lambda f: f(x(1, 1, 2, 2), [1, 1, 1, 1]),
    "paddle.nn.functional.pixel_unshuffle": lambda f: f(x(1, 1, 2, 2), 2),
    "paddle.nn.functional.unfold": lambda f: f(x(1, 1, 2, 2), 2),
    "paddle.nonzero": lambda f: f(x(2)),
    "paddle.randint": lambda f: f(0, 2, [2]),
    "paddle.randn": lambda f: f([2]),
    "paddle.randperm": lambda f: f(3),
    "paddle.roll": lambda f: f(x(3), 1),
    "paddle.shard_index": lambda f: f(x(2, 1, dtype="int64"), 4, 2, 0),
    "paddle.static.nn.continuous_value_model": apart(lambda f: f(x(2, 3), x(2, 2))),
    "paddle.static.nn.data_norm": apart(lambda f: f(x(2, 3))),  # in Paddle 3.0
    "paddle.static.nn.nce": apart(lambda f: f(x(2, 3), x(2, 1, dtype="int64"), 5)),
    "paddle.static.nn.row_conv": apart(lambda f: f(x(2, 3, 4), 2)),
    "paddle.static.nn.sequence_conv": apart(lambda f: f(x(2, 3), 4)),
    "paddle.static.nn.sequence_expand": apart(lambda f: f(x(2, 3), x(2, 3))),
    "paddle.static.nn.sequence_first_step": apart(lambda f: f(x(2, 3))),
    "paddle.static.nn.sequence_last_step": apart(lambda f: f(x(2, 3))),
    "paddle.static.nn.sequence_pool": apart(lambda f: f(x(2, 3), "max")),
    "paddle.static.nn.sequence_softmax": apart(lambda f: f(x(2, 3))),
    "paddle.t": lambda f: f(x(2, 3)),
    "paddle.tensor.array_length": lambda f: f(paddle.tensor.create_array("float32")),
    "paddle.tensor.array_read": callable,
    "paddle.tensor.array_write": lambda f: f(x(2), paddle.zeros([1], "int64")),
    "paddle.tensor.create_array": lambda f: f("float32"),
    "paddle.text.viterbi_decode": lambda f: f(x(1, 3, 4), x(4, 4), x(1, dtype="int64") * 3),
    "paddle.tril": lambda f: f(x(2, 3)),
    "paddle.triu": lambda f: f(x(2, 3)),
    "paddle.unique": lambda f: f(x(2)),
    "paddle_dcn.fluid.io.DataLoader": inspect.isclass,
    "paddle_dcn.fluid.layers.batch_norm": lambda f: f(x(1, 2, 3, 3)),
    "paddle_dcn.fluid.layers.cond": lambda f: f(x(1) > 0, lambda: x(2), lambda: x(2) * 2),
}


BOUND = "in programs that are built with"


def hints(names):
    """Return what the errors on names of `fluid.layers` say to use: paths, and whether BOUND."""
    found = {}
    for name in names:
        with pytest.raises(AttributeError) as caught:
            getattr(fluid.layers, name)
        path = str(caught.value).partition(": use ")[2].partition(" ")[0].rstrip(",")
        if path:
            found[path] = BOUND in str(caught.value)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_hints(kind):
    """Each names something that works in the kind of programs that the user builds, or says so."""
    with programs_1x(kind) as executor:
        for path, bound in hints(GONE).items():
            try:
                assert CALLS[path](_moved.find(path)) is not False, path
                works = True
            except (AssertionError, TypeError) as error:
                refusals = "must be Value, but got|of .str, bytes, Variable|not supported in pir"
                assert re.search(refusals, str(error)), path
                works = False
            # Older Paddles take tensors of both kinds more often.
            assert works is not bound or (works and paddle.__version__ < "3.3"), path
        initialize(executor)
        executor.run(feed={})


def test_hints_in_every_table():
    """What the other modules' tables name exists."""
    for module, names in _moved._CHANGED.items():
        for name, path in names.items():
            assert _moved.find(path) is not None, (module, name)
    for places in _moved._SEARCHED.values():
        assert all(inspect.ismodule(_moved.find(place)) for place in places)

"""Where each cell of the tables of docs/comparison.md is shown: rows by their label, in a row the libraries in the page's order.

`tests/FILE.py::test_NAME` is a test, `PACKAGE/FILE.py::NAME`, `::CLASS.METHOD(ARGUMENT)` or `::NAME(ARGUMENT=DEFAULT)` a definition in
the installed package, and `not WORD ...` says that no name in the library's recurrent layers (`SOURCES` of test_comparison) is or
contains one of these words.
"""

TORCH, KERAS, LINEN = "torch/nn/modules/rnn.py::", "keras/src/layers/rnn/", "flax/linen/recurrent.py::"
NNX, HAIKU, TABLE = "flax/nnx/nn/recurrent.py::", "haiku/_src/recurrent.py::", "tests/cells/test_table.py::"
UNROLL = "seqjax/_unroll.py::unroll"

SEQUENCES = {
    "lengths": [
        f"{TABLE}test_lengths_hold_the_carry_and_give_zeros tests/test_unroll.py::test_a_mask_may_have_holes",
        "torch/nn/utils/rnn.py::PackedSequence",
        f"{KERAS}rnn.py::RNN.call(mask)",
        f"{LINEN}RNN.__call__(seq_lengths)",
        f"{NNX}RNN.__call__(seq_lengths)",
        "not lengths mask",
        "not lengths mask",
    ],
    "resets within a sequence": [
        f"{TABLE}test_a_reset_forgets {UNROLL}(resets)",
        "not resets should_reset",
        "not resets should_reset",
        "not resets should_reset",
        "not resets should_reset",
        f"{HAIKU}ResetCore.__call__",
        "not resets should_reset",
    ],
    "both directions": [
        "tests/wrappers/test_bidirectional.py::test_merges_each_cell_in_its_direction_at_every_length",
        f"{TORCH}RNNBase.__init__(bidirectional)",
        f"{KERAS}bidirectional.py::Bidirectional",
        f"{LINEN}Bidirectional",
        f"{NNX}Bidirectional",
        "not bidirectional backward",
        "not bidirectional backward",
    ],
    "backward": [
        f"{TABLE}test_reverse_is_a_run_over_flipped_sequences {UNROLL}(reverse)",
        f"{TORCH}RNNBase.__init__(bidirectional) not reverse_",
        f"{KERAS}rnn.py::RNN.__init__(go_backwards)",
        f"{LINEN}RNN.__call__(reverse)",
        f"{NNX}RNN.__call__(reverse)",
        f"{HAIKU}dynamic_unroll(reverse)",
        "not reverse backward",
    ],
    "time first": [
        f"{TABLE}test_time_major_is_the_same_run {UNROLL}(time_major)",
        f"{TORCH}RNNBase.__init__(batch_first=False)",
        "not time_major batch_first",
        f"{LINEN}RNN.__call__(time_major)",
        f"{NNX}RNN.__call__(time_major)",
        f"{HAIKU}dynamic_unroll(time_major=True)",
        "not time_major batch_first",
    ],
    "the state of every step": [
        f"tests/engines/test_every_carry.py::test_they_are_those_of_the_streaming_step {UNROLL}(return_carries)",
        "not return_all_states return_carries",
        "not return_all_states return_carries",
        "not return_all_states return_carries",
        "not return_all_states return_carries",
        f"{HAIKU}dynamic_unroll(return_all_states)",
        "jax/_src/lax/control_flow/loops.py::scan equinox/nn/_rnn.py::LSTMCell.__call__(hidden)",
    ],
    "truncated windows in one call": [
        "tests/test_truncated.py::test_gradients_are_those_of_the_definition seqjax/_truncated.py::truncated_unroll",
        *["not truncat tbptt stop_gradient detach"] * 6,
    ],
    "recomputation to save memory": [
        f"{TABLE}test_remat_gives_the_same_gradients tests/test_unroll.py::test_remat_keeps_fewer_values {UNROLL}(remat_every)",
        "torch/utils/checkpoint.py::checkpoint",
        "keras/src/backend/common/remat.py::RematScope",
        "flax/linen/transforms.py::remat",
        "flax/nnx/transforms/autodiff.py::remat",
        "haiku/_src/stateful.py::remat",
        "jax/_src/ad_checkpoint.py::checkpoint",
    ],
}

AROUND = {
    "layers": [
        "tests/wrappers/test_stack.py::test_layer_by_layer_by_hand tests/wrappers/test_stack.py::test_skip_connections_by_hand "
        "seqjax/wrappers/_stack.py::stack(skip_connections)",
        f"{TORCH}RNNBase.__init__(num_layers)",
        f"{KERAS}stacked_rnn_cells.py::StackedRNNCells keras/src/models/sequential.py::Sequential",
        "flax/linen/combinators.py::Sequential",
        f"{HAIKU}DeepRNN {HAIKU}deep_rnn_with_skip_connections",
        "not num_layers stack",
    ],
    "dropout between layers": [
        "tests/wrappers/test_dropout.py::test_one_mask_for_all_time_or_one_a_step "
        "tests/wrappers/test_recurrent_dropout.py::test_inputs_are_dropped_gate_by_gate_for_all_time_alone_and_inside_a_step "
        "seqjax/wrappers/_dropout.py::dropout",
        f"{TORCH}RNNBase.__init__(dropout)",
        f"{KERAS}lstm.py::LSTM.__init__(dropout)",
        "flax/linen/stochastic.py::Dropout not dropout",
        "haiku/_src/basic.py::dropout not dropout",
        "equinox/nn/_dropout.py::Dropout not dropout",
    ],
    "dropout on the state": [
        "tests/wrappers/test_recurrent_dropout.py::test_units_are_dropped_at_the_rate tests/wrappers/test_zoneout.py::"
        "test_units_keep_their_value_at_their_rate_and_anew_each_step tests/wrappers/test_weight_drop.py::"
        "test_the_cell_runs_as_it_is_with_weights_dropped_once seqjax/wrappers/_recurrent_dropout.py::recurrent_dropout "
        "seqjax/wrappers/_zoneout.py::zoneout seqjax/wrappers/_weight_drop.py::weight_drop",
        "not recurrent_dropout zoneout weight_drop",
        f"{KERAS}lstm.py::LSTM.__init__(recurrent_dropout)",
        *["not dropout zoneout"] * 3,
    ],
    "layer norm inside the step": [
        "tests/wrappers/test_layer_norm.py::test_the_lstm_equals_numpy "
        "tests/wrappers/test_layer_norm.py::test_the_scale_of_the_weights_does_not_matter_and_every_gain_learns",
        *["not layer_norm layernorm"] * 5,
    ],
    "learned initial state": [
        "tests/wrappers/test_learned_initial_carry.py::test_the_gradient_comes_from_the_start_and_from_resets",
        f"{TORCH}LSTM.forward(hx)",
        f"{KERAS}rnn.py::RNN.call(initial_state)",
        f"{LINEN}RNN.__call__(initial_carry)",
        f"{HAIKU}dynamic_unroll(initial_state)",
        "equinox/nn/_rnn.py::LSTMCell.__call__(hidden)",
    ],
    "weights to and from the others": [
        "tests/interop/test_torch.py::test_to_torch_and_back tests/interop/test_keras.py::test_to_keras_and_back "
        "tests/interop/test_flax.py::test_to_linen_and_back tests/interop/test_flax.py::test_to_nnx_and_back "
        "tests/interop/test_haiku.py::test_to_haiku_and_back tests/interop/test_equinox.py::test_to_equinox_and_back",
        *["not from_torch to_torch from_keras to_keras from_flax to_flax"] * 5,
    ],
}

# What the page calls the factories of seqjax.
OURS = {
    "vanilla": "rnn", "IndRNN": "indrnn", "LSTM": "lstm", "GRU": "gru", "MGU": "mgu", "ConvLSTM": "conv_lstm", "sLSTM": "slstm",
    "block GRU": "block_gru", "coRNN": "cornn", "UnICORNN": "unicornn", "LEM": "lem", "minGRU": "mingru",
    "minLSTM": "minlstm", "LRU": "lru",
}  # fmt: skip

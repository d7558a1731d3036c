import pytest

from tuningvec.errors import TuningVecError
from tuningvec.weights.checkpoint import Checkpoint
from tuningvec.weights.components import MATRICES, Component, components, matrix_shapes


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3", "qwen3", "mistral", "gemma2", "gemma3"])
def test_every_matrix_of_an_architecture_is_found_once_in_each_layer(make_checkpoint, architecture):
    checkpoint = Checkpoint(make_checkpoint("model", architecture))
    found = [c for name in checkpoint.shapes for c in components(name, checkpoint.config)]
    for layer in range(2):
        kinds = [c.kind for c in found if c.layer == layer and c.kind in MATRICES]
        assert sorted(kinds) == sorted(MATRICES)


def test_fused_rows_cover_the_tensor_without_overlap(make_checkpoint):
    checkpoint = Checkpoint(make_checkpoint("model", "phi3"))
    for name, shape in checkpoint.shapes.items():
        parts = components(name, checkpoint.config)
        if len(parts) > 1:
            rows = [i for part in parts for i in range(part.rows.start, part.rows.stop)]
            assert rows == list(range(shape[0]))


def test_grouped_queries_make_keys_and_values_narrower():
    config = dict(num_attention_heads=4, num_key_value_heads=2, hidden_size=32, intermediate_size=48)
    found = components("model.layers.1.self_attn.qkv_proj.weight", config)
    expected = {"W_Q": slice(0, 32), "W_K": slice(32, 48), "W_V": slice(48, 64)}
    assert found == tuple(Component(kind, 1, rows) for kind, rows in expected.items())


def test_shapes_from_the_config_are_those_of_the_tensors(make_checkpoint):
    checkpoint = Checkpoint(make_checkpoint("model", num_key_value_heads=1))
    shapes = matrix_shapes(checkpoint.config)
    for name, shape in checkpoint.shapes.items():
        for component in components(name, checkpoint.config):
            assert component.kind not in shapes or tuple(shape) == shapes[component.kind]


def test_an_unknown_tensor_is_named():
    with pytest.raises(TuningVecError, match=r"transformer\.h\.0\.attn\.c_attn\.weight"):
        components("transformer.h.0.attn.c_attn.weight", {})
